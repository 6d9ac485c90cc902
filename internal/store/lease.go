package store

import (
	"context"
	"crypto/rand"
	"database/sql"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"sync"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"

	"strake/internal/flock"
	"strake/internal/sqldb"
)

// leases takes and reaps leases. It holds at most one of its own.
type leases struct {
	root string // of the store
	db   *sqldb.DB

	mu   sync.Mutex // guards what follows
	own  *lease     // nil: none yet
	held map[digest.Digest]bool
}

// lease is a locked file that proves its owner lives; rows say which digests
// it works on, and a directory is its scratch.
type lease struct {
	id   string
	file *os.File
}

// hold adds the digests to the own lease, which it takes when there is
// none. It comes before the test whether a digest exists: GC never removes what
// is leased.
func (s *leases) hold(ctx context.Context, digests ...digest.Digest) error {
	l, err := s.acquire(ctx)
	if err != nil {
		return err
	}
	s.mu.Lock()
	more := slices.DeleteFunc(slices.Clone(digests), func(d digest.Digest) bool { return s.held[d] })
	s.mu.Unlock()
	if len(more) == 0 {
		return nil
	}
	err = s.db.Note(ctx, func(tx *sql.Tx) error { return insertLease(ctx, tx, l.id, more) })
	if err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, d := range more {
		s.held[d] = true
	}
	return nil
}

func insertLease(ctx context.Context, tx *sql.Tx, id string, digests []digest.Digest) error {
	for _, d := range digests {
		if _, err := tx.ExecContext(ctx,
			"INSERT INTO leases (lease, digest) VALUES ($1, $2) ON CONFLICT DO NOTHING", id, d.String()); err != nil {
			return fmt.Errorf("lease %s: %w", d, err)
		}
	}
	return nil
}

// acquire returns the own lease, and takes one first where there is none.
func (s *leases) acquire(ctx context.Context) (*lease, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.own != nil {
		return s.own, nil
	}
	if err := s.reap(ctx); err != nil && ctx.Err() != nil {
		return nil, err // what else cannot be reaped, GC reports
	}
	for {
		var b [8]byte
		if _, err := rand.Read(b[:]); err != nil {
			return nil, fmt.Errorf("take lease: %w", err)
		}
		id := hex.EncodeToString(b[:])
		f, err := lockNew(filepath.Join(s.root, "leases", id))
		if err != nil {
			return nil, fmt.Errorf("take lease: %w", err)
		}
		if f != nil {
			s.own, s.held = &lease{id: id, file: f}, map[digest.Digest]bool{}
			return s.own, nil
		}
	}
}

// lockNew makes the file and locks it. It returns nil when a reaper was faster
// and removed the file between the two.
func lockNew(path string) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	if err := flock.Try(f, flock.Exclusive); err != nil {
		if errdefs.IsUnavailable(err) { // a reaper, or one who only looks
			if err = os.Remove(path); errors.Is(err, os.ErrNotExist) {
				err = nil
			}
		}
		return nil, errors.Join(err, f.Close())
	}
	if named, err := flock.Names(path, f); err != nil || !named {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

// close gives the own lease up.
func (s *leases) close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.own == nil {
		return nil
	}
	l := s.own
	s.own = nil
	ctx := context.Background() // the caller's may be cancelled already
	return errors.Join(s.drop(ctx, l.id), l.file.Close())
}

// drop removes all that belongs to a lease, its file last: a file without rows
// is harmless, rows without a file would be kept for ever.
func (s *leases) drop(ctx context.Context, id string) error {
	if err := os.RemoveAll(s.workDir(id)); err != nil {
		return fmt.Errorf("release lease: %w", err)
	}
	err := s.db.Note(ctx, func(tx *sql.Tx) error {
		_, err := tx.ExecContext(ctx, "DELETE FROM leases WHERE lease = $1", id)
		return err
	})
	if err != nil {
		return fmt.Errorf("release lease: %w", err)
	}
	if err := os.Remove(filepath.Join(s.root, "leases", id)); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("release lease: %w", err)
	}
	return nil
}

// reap drops the leases whose owners are dead: those whose file can be locked.
func (s *leases) reap(ctx context.Context) error {
	entries, err := os.ReadDir(filepath.Join(s.root, "leases"))
	if err != nil {
		return fmt.Errorf("reap leases: %w", err)
	}
	for _, e := range entries {
		f, err := flock.TryOpen(filepath.Join(s.root, "leases", e.Name()), flock.Exclusive)
		if errdefs.IsUnavailable(err) || f == nil && err == nil {
			continue
		}
		if err != nil {
			return fmt.Errorf("reap leases: %w", err)
		}
		if err := errors.Join(s.drop(ctx, e.Name()), f.Close()); err != nil {
			return err
		}
	}
	return nil
}

// forgetDead drops the rows of the leases whose owners are dead, and no file.
func (s *leases) forgetDead(ctx context.Context, tx *sql.Tx) error {
	var ids []string
	err := sqldb.Each(ctx, tx, "SELECT DISTINCT lease FROM leases", nil, func(rows *sql.Rows) error {
		var id string
		err := rows.Scan(&id)
		ids = append(ids, id)
		return err
	})
	for _, id := range ids {
		var alive bool
		if err == nil {
			alive, err = s.alive(id)
		}
		if err == nil && !alive {
			_, err = tx.ExecContext(ctx, "DELETE FROM leases WHERE lease = $1", id)
		}
	}
	return err
}

// alive reports whether the owner of a lease lives.
func (s *leases) alive(id string) (bool, error) {
	if id == "" {
		return false, nil
	}
	return flock.Held(filepath.Join(s.root, "leases", id), flock.Shared)
}

func (s *leases) workDir(lease string) string { return filepath.Join(s.root, "work", lease) }

// TempDir makes a directory for scratch on the store's file system. Close
// removes it, or the next process to take a lease when this one died.
func (s *leases) TempDir(ctx context.Context) (string, error) {
	l, err := s.acquire(ctx)
	if err != nil {
		return "", err
	}
	if err := os.MkdirAll(s.workDir(l.id), 0o700); err != nil {
		return "", fmt.Errorf("make scratch: %w", err)
	}
	dir, err := os.MkdirTemp(s.workDir(l.id), "")
	if err != nil {
		return "", fmt.Errorf("make scratch: %w", err)
	}
	return dir, nil
}
