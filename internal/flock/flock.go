// Package flock locks files and directories among processes, by flock(2). A lock belongs to the open file: it ends when the
// last copy of that is closed, and so when its process dies. To hold one proves that its owner lives.
package flock

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

// Mode is how a lock is held.
type Mode int

// Modes of a lock.
const (
	Shared    Mode = unix.LOCK_SH // beside others that share it
	Exclusive Mode = unix.LOCK_EX // alone
)

// maxPause is the longest time between two looks at a lock that somebody else holds.
const maxPause = 16 * time.Millisecond

// Try locks f, or fails with errdefs.ErrUnavailable where somebody else holds the lock.
func Try(f *os.File, how Mode) error {
	for {
		err := unix.Flock(int(f.Fd()), int(how)|unix.LOCK_NB)
		switch {
		case err == nil:
			return nil
		case errors.Is(err, unix.EWOULDBLOCK):
			return fmt.Errorf("%s is locked: %w", f.Name(), errdefs.ErrUnavailable)
		case !errors.Is(err, unix.EINTR):
			return fmt.Errorf("lock %s: %w", f.Name(), err)
		}
	}
}

// Wait locks f as soon as nobody else holds the lock.
func Wait(ctx context.Context, f *os.File, how Mode) error {
	for pause := time.Millisecond; ; pause = min(2*pause, maxPause) {
		err := Try(f, how)
		if !errdefs.IsUnavailable(err) {
			return err
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("lock %s: %w", f.Name(), ctx.Err())
		case <-time.After(pause):
		}
	}
}

// Open opens a file or a directory and waits for its lock. It returns nil where nothing has that name, or something else has
// when the lock is there.
func Open(ctx context.Context, path string, how Mode) (*os.File, error) {
	return open(path, func(f *os.File) error { return Wait(ctx, f, how) })
}

// TryOpen is Open that does not wait: it fails with errdefs.ErrUnavailable where somebody else holds the lock.
func TryOpen(path string, how Mode) (*os.File, error) {
	return open(path, func(f *os.File) error { return Try(f, how) })
}

func open(path string, lock func(*os.File) error) (*os.File, error) {
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	if err := lock(f); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	named, err := Names(path, f)
	if err != nil || !named {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

// Names reports whether path is still the name of f: a file that was removed can be locked too.
func Names(path string, f *os.File) (bool, error) {
	locked, err := f.Stat()
	if err != nil {
		return false, err
	}
	named, err := os.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	return err == nil && os.SameFile(locked, named), err
}

// Held reports whether somebody holds the lock of path in a way that keeps off who would take it so. It is not where nothing has
// that name.
func Held(path string, how Mode) (bool, error) {
	f, err := TryOpen(path, how)
	if errdefs.IsUnavailable(err) {
		return true, nil
	}
	if err != nil || f == nil {
		return false, err
	}
	return false, f.Close()
}
