package hub

import (
	"context"
	"database/sql"
	"time"

	"strake/internal/sqldb"
)

// A collection changes some rows in a transaction and then lets others write. In
// SQLite they wait meanwhile: those of other processes look ever more seldom
// whether it is their turn (2 ms after the last look, then 5, 10, ... 100), so
// that one writer after whose transactions another one follows soon keeps them
// waiting for many transactions, however short.
const (
	startRows = 100 // that the first transaction changes
	minRows   = 25
	maxRows   = 400
	turn      = 20 * time.Millisecond // how long a transaction is to take at most
	rest      = 3                     // how many times as long others may write after it
)

// pace is when the next transaction begins, and how many rows it changes, by what
// the last one took.
type pace struct {
	rows int
	next time.Time // not before
}

// write calls fn in a transaction of update, which is Update or Note of the
// database, when others had the time to write.
func (c *collector) write(ctx context.Context, update func(context.Context, func(*sql.Tx) error) error, fn func(tx *sql.Tx) error) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(time.Until(c.pace.next)):
	}
	var begun time.Time
	err := update(ctx, func(tx *sql.Tx) error {
		begun = time.Now()
		return fn(tx)
	})
	if err != nil {
		return err
	}
	took := time.Since(begun)
	c.pace.note(took)
	if c.db.Dialect() == sqldb.SQLite {
		c.pace.next = time.Now().Add(rest * took)
	}
	return nil
}

// note takes to what a transaction took.
func (p *pace) note(took time.Duration) {
	switch {
	case took > turn:
		p.rows = max(p.rows/2, minRows)
	case took < turn/2:
		p.rows = min(2*p.rows, maxRows)
	}
}
