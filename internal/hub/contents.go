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
	db      *sqldb.DB
	changes *group
	store   content.Store
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
// returns the epoch of the row. A loss of power may undo it, but then it undoes
// the link too.
func (c contents) reserve(ctx context.Context, dgst digest.Digest, size int64) (epoch string, err error) {
	for deadline := time.Now().Add(waitRemoved); ; {
		var deleting int64
		err := c.db.Note(ctx, func(tx *sql.Tx) error {
			epoch, deleting, err = reserveRow(ctx, tx, dgst, size)
			return err
		})
		if err != nil {
			return "", fmt.Errorf("reserve blob %s: %w", dgst, err)
		}
		if deleting == 0 {
			return epoch, nil
		}
		if time.Now().After(deadline) {
			return "", fmt.Errorf("blob %s: it is being removed: %w", dgst, errdefs.ErrUnavailable)
		}
		select {
		case <-time.After(50 * time.Millisecond):
		case <-ctx.Done():
			return "", context.Cause(ctx)
		}
	}
}

func reserveRow(ctx context.Context, tx *sql.Tx, dgst digest.Digest, size int64) (epoch string, deleting int64, err error) {
	var touched int64
	now := time.Now()
	err = tx.QueryRowContext(ctx, `SELECT epoch, deleting, touched FROM contents WHERE digest = $1`, dgst.String()).Scan(&epoch, &deleting, &touched)
	switch {
	case errors.Is(err, sql.ErrNoRows):
		epoch = newID()
		_, err = tx.ExecContext(ctx, `INSERT INTO contents (digest, epoch, size, touched) VALUES ($1, $2, $3, $4)`, dgst.String(), epoch, size, now.Unix())
		return epoch, 0, err
	case err != nil || deleting != 0 || touched > now.Add(-reserveFor/4).Unix():
		return epoch, deleting, err
	}
	_, err = tx.ExecContext(ctx, `UPDATE contents SET touched = $2 WHERE digest = $1`, dgst.String(), now.Unix())
	return epoch, 0, err
}

// link calls fn in a transaction in which the bytes that were written since they
// were reserved in an epoch are there. It fails with errdefs.ErrUnavailable
// where they were collected, which only a push that takes very long can see.
func (c contents) link(ctx context.Context, epoch string, dgst digest.Digest, size int64, fn func(ctx context.Context, tx *sql.Tx) error) error {
	err := c.linkRow(ctx, epoch, dgst, size, fn)
	if !errors.Is(err, errCollected) {
		return err
	}
	// The bytes may have been written after that: then a new reservation holds them.
	if epoch, err = c.reserve(ctx, dgst, size); err != nil {
		return err
	}
	if _, err := c.store.Stat(ctx, dgst); errdefs.IsNotFound(err) {
		return fmt.Errorf("blob %s: %w, push it again: %w", dgst, errCollected, errdefs.ErrUnavailable)
	} else if err != nil {
		return err
	}
	if err = c.linkRow(ctx, epoch, dgst, size, fn); errors.Is(err, errCollected) {
		return fmt.Errorf("blob %s: %w, push it again: %w", dgst, err, errdefs.ErrUnavailable)
	}
	return err
}

func (c contents) linkRow(ctx context.Context, epoch string, dgst digest.Digest, size int64, fn func(ctx context.Context, tx *sql.Tx) error) error {
	return c.changes.update(ctx, func(ctx context.Context, tx *sql.Tx) error {
		var reserved int64 // as who reserved it first said
		err := tx.QueryRowContext(ctx, `SELECT size FROM contents WHERE digest = $1 AND epoch = $2 AND deleting = 0`, dgst.String(), epoch).Scan(&reserved)
		if errors.Is(err, sql.ErrNoRows) {
			return errCollected
		}
		if err == nil && reserved != size {
			_, err = tx.ExecContext(ctx, `UPDATE contents SET size = $2 WHERE digest = $1`, dgst.String(), size)
		}
		if err != nil {
			return err
		}
		return fn(ctx, tx)
	})
}
