package scandb

import (
	"context"
	"crypto/rand"
	"database/sql"
	"fmt"
	"sync"
	"time"

	"github.com/opencontainers/go-digest"
)

const (
	readingFor = time.Minute            // that a claim on a layer holds unless it is prolonged
	askAgain   = 200 * time.Millisecond // who waits for another's claim
)

// alone calls do unless known says that there is nothing left to do, and no two at
// once for a layer, of all replicas: who comes second waits, and asks known again. Should the one
// who does it die, another may go on after a minute.
func (s *Scanner) alone(ctx context.Context, layer digest.Digest, known func() (bool, error), do func() error) error {
	holder := rand.Text()
	for {
		if ok, err := known(); ok || err != nil {
			return err
		}
		mine, err := s.hold(ctx, layer, holder)
		if err != nil {
			return err
		}
		if mine {
			break
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(askAgain):
		}
	}
	held, release := context.WithCancel(ctx)
	var holding sync.WaitGroup
	holding.Go(func() {
		tick := time.NewTicker(readingFor / 3)
		defer tick.Stop()
		for {
			select {
			case <-held.Done():
				return
			case <-tick.C:
				_, _ = s.hold(held, layer, holder) // a claim that is lost costs another the same work
			}
		}
	})
	err := s.doOnce(known, do)
	release()
	holding.Wait()
	dropping := context.WithoutCancel(ctx)
	if dropError := s.DB.Update(dropping, func(tx *sql.Tx) error {
		_, err := tx.ExecContext(dropping, "DELETE FROM scan_reading WHERE layer = $1 AND holder = $2", layer.String(), holder)
		return err
	}); dropError != nil && err == nil {
		err = fmt.Errorf("end the claim on layer %s: %w", layer, dropError)
	}
	return err
}

// doOnce does what somebody may have done before the claim was had.
func (s *Scanner) doOnce(known func() (bool, error), do func() error) error {
	if ok, err := known(); ok || err != nil {
		return err
	}
	return do()
}

// hold claims a layer, or prolongs the holder's claim; mine tells whether it is theirs.
func (s *Scanner) hold(ctx context.Context, layer digest.Digest, holder string) (mine bool, err error) {
	now := time.Now()
	err = s.DB.Update(ctx, func(tx *sql.Tx) error {
		res, err := tx.ExecContext(ctx, `INSERT INTO scan_reading (layer, holder, until) VALUES ($1, $2, $3)
			ON CONFLICT (layer) DO UPDATE SET holder = excluded.holder, until = excluded.until
			WHERE scan_reading.until < $4 OR scan_reading.holder = excluded.holder`, layer.String(), holder, now.Add(readingFor).UnixMilli(), now.UnixMilli())
		if err != nil {
			return err
		}
		n, err := res.RowsAffected()
		mine = n == 1
		return err
	})
	if err != nil {
		return false, fmt.Errorf("claim layer %s: %w", layer, err)
	}
	return mine, nil
}
