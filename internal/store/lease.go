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

	"github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"
)

// lease is what one open Store holds: a locked file that proves its owner
// lives, rows for the digests it works on, and a directory for scratch.
type lease struct {
	id   string
	file *os.File
}

// hold adds the digests to the store's lease, which it takes when there is
// none. It comes before the test whether a digest exists: GC never removes what
// is leased.
func (s *Store) hold(ctx context.Context, digests ...digest.Digest) error {
	l, err := s.takeLease(ctx)
	if err != nil {
		return err
	}
	return s.db.Update(ctx, func(tx *sql.Tx) error {
		return insertLease(ctx, tx, l.id, digests)
	})
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

// takeLease returns the store's lease, and takes one first where there is none.
func (s *Store) takeLease(ctx context.Context) (*lease, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.lease != nil {
		return s.lease, nil
	}
	if err := s.reap(ctx); err != nil {
		return nil, err
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
			s.lease = &lease{id: id, file: f}
			return s.lease, nil
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
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		f.Close()
		if errors.Is(err, unix.EWOULDBLOCK) {
			return nil, nil
		}
		return nil, err
	}
	if _, err := os.Lstat(path); err != nil {
		f.Close()
		if errors.Is(err, os.ErrNotExist) {
			return nil, nil
		}
		return nil, err
	}
	return f, nil
}

// release gives a lease up. The rows go first: a file without rows is
// harmless, rows without a file would be kept for ever.
func (s *Store) release(l *lease) error {
	ctx := context.Background() // the caller's may be cancelled already
	err := s.dropLease(ctx, l.id)
	if closeErr := l.file.Close(); err == nil {
		err = closeErr
	}
	return err
}

// dropLease removes all that belongs to a lease, its file last.
func (s *Store) dropLease(ctx context.Context, id string) error {
	if err := os.RemoveAll(s.workDir(id)); err != nil {
		return fmt.Errorf("release lease: %w", err)
	}
	err := s.db.Update(ctx, func(tx *sql.Tx) error {
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
func (s *Store) reap(ctx context.Context) error {
	entries, err := os.ReadDir(filepath.Join(s.root, "leases"))
	if err != nil {
		return fmt.Errorf("reap leases: %w", err)
	}
	for _, e := range entries {
		f, err := os.Open(filepath.Join(s.root, "leases", e.Name()))
		if errors.Is(err, os.ErrNotExist) {
			continue
		}
		if err != nil {
			return fmt.Errorf("reap leases: %w", err)
		}
		if unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB) == nil {
			err = s.dropLease(ctx, e.Name())
		}
		f.Close()
		if err != nil {
			return err
		}
	}
	return nil
}

func (s *Store) workDir(lease string) string { return filepath.Join(s.root, "work", lease) }

// TempDir makes a directory for scratch on the store's file system. Close
// removes it, or the next process to take a lease when this one died.
func (s *Store) TempDir(ctx context.Context) (string, error) {
	l, err := s.takeLease(ctx)
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

// gate opens the store's commit gate. Commits take it shared, around the
// renames and the transaction that make files reachable; GC takes it exclusive
// while it removes the files that no row names.
func (s *Store) gate(how int) (*os.File, error) {
	f, err := os.OpenFile(filepath.Join(s.root, "gate"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("commit gate: %w", err)
	}
	for {
		err := unix.Flock(int(f.Fd()), how)
		if err == nil {
			return f, nil
		}
		if !errors.Is(err, unix.EINTR) {
			f.Close()
			return nil, fmt.Errorf("commit gate: %w", err)
		}
	}
}
