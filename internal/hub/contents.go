package hub

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"time"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"

	"strake/internal/content"
	"strake/internal/sqldb"
)

// contents is the content store together with its rows in the database, which
// keep those who push and those who collect apart.
//
// Who takes in a blob reserves its digest, then writes the bytes, then links
// them in a transaction in which the row that was reserved is still there and
// not being deleted. Who collects marks the rows of blobs that nothing names, in
// a transaction in which nothing names them, then removes the bytes, then the
// rows. Transactions are serializable, so of the link and the mark that exclude
// each other one comes first, and the other sees it. While bytes are removed
// nobody reserves them: the row is there, and marked.
type contents struct {
	db    *sqldb.DB
	store content.Store
}

const (
	// reserveFor is how long a reservation keeps collectors off bytes that
	// nothing names yet. One that lasts longer may find them collected.
	reserveFor = time.Hour
	// takeOver is when a removal that is not over is another's to finish. The
	// one who began it has given up long ago: each attempt ends after removeTime.
	takeOver   = 10 * time.Minute
	removeTime = time.Minute
	// waitRemoved is how long a push waits for bytes to be gone.
	waitRemoved = 30 * time.Second
)

// errCollected says that bytes were collected between reservation and link.
var errCollected = errors.New("collected meanwhile")

// reserve reserves a blob's digest for who is about to write its bytes, and
// returns the row. A loss of power may undo it, but then it undoes the link too.
func (c contents) reserve(ctx context.Context, dgst digest.Digest, size int64) (id int64, err error) {
	for deadline := time.Now().Add(waitRemoved); ; {
		var deleting int64
		err := c.db.Note(ctx, func(tx *sql.Tx) error {
			id, deleting, err = reserveRow(ctx, tx, dgst, size)
			return err
		})
		if err != nil {
			return 0, fmt.Errorf("reserve blob %s: %w", dgst, err)
		}
		if deleting == 0 {
			return id, nil
		}
		if time.Now().After(deadline) {
			return 0, fmt.Errorf("blob %s: it is being removed: %w", dgst, errdefs.ErrUnavailable)
		}
		select {
		case <-time.After(50 * time.Millisecond):
		case <-ctx.Done():
			return 0, context.Cause(ctx)
		}
	}
}

func reserveRow(ctx context.Context, tx *sql.Tx, dgst digest.Digest, size int64) (id, deleting int64, err error) {
	var touched int64
	now := time.Now()
	err = tx.QueryRowContext(ctx, `SELECT id, deleting, touched FROM contents WHERE digest = $1`, dgst.String()).Scan(&id, &deleting, &touched)
	switch {
	case errors.Is(err, sql.ErrNoRows):
		err = tx.QueryRowContext(ctx, `INSERT INTO contents (digest, size, touched) VALUES ($1, $2, $3) RETURNING id`, dgst.String(), size, now.Unix()).Scan(&id)
		return id, 0, err
	case err != nil || deleting != 0 || touched > now.Add(-reserveFor/4).Unix():
		return id, deleting, err
	}
	_, err = tx.ExecContext(ctx, `UPDATE contents SET touched = $2, size = $3 WHERE id = $1`, id, now.Unix(), size)
	return id, 0, err
}

// link calls fn in a transaction in which the bytes that were written since they
// were reserved as the row id are there. It fails with errdefs.ErrUnavailable
// where they were collected, which only a push that takes very long can see.
func (c contents) link(ctx context.Context, id int64, dgst digest.Digest, size int64, fn func(tx *sql.Tx) error) error {
	err := c.linkRow(ctx, id, fn)
	if !errors.Is(err, errCollected) {
		return err
	}
	// The bytes may have been written after that: then a new reservation holds them.
	if id, err = c.reserve(ctx, dgst, size); err != nil {
		return err
	}
	if _, err := c.store.Stat(ctx, dgst); errdefs.IsNotFound(err) {
		return fmt.Errorf("blob %s: %w, push it again: %w", dgst, errCollected, errdefs.ErrUnavailable)
	} else if err != nil {
		return err
	}
	if err = c.linkRow(ctx, id, fn); errors.Is(err, errCollected) {
		return fmt.Errorf("blob %s: %w, push it again: %w", dgst, err, errdefs.ErrUnavailable)
	}
	return err
}

func (c contents) linkRow(ctx context.Context, id int64, fn func(tx *sql.Tx) error) error {
	return c.db.Update(ctx, func(tx *sql.Tx) error {
		var one int
		err := tx.QueryRowContext(ctx, `SELECT 1 FROM contents WHERE id = $1 AND deleting = 0`, id).Scan(&one)
		if errors.Is(err, sql.ErrNoRows) {
			return errCollected
		}
		if err != nil {
			return err
		}
		return fn(tx)
	})
}
