package flock

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/containerd/errdefs"
)

func lock(t *testing.T, path string, how Mode) *os.File {
	t.Helper()
	f, err := TryOpen(path, how)
	if err != nil || f == nil {
		t.Fatal(f, err)
	}
	t.Cleanup(func() { _ = f.Close() })
	return f
}

func held(t *testing.T, path string, how Mode, want bool) {
	t.Helper()
	if got, err := Held(path, how); err != nil || got != want {
		t.Errorf("held: %t, %v", got, err)
	}
}

func TestModes(t *testing.T) {
	path := t.TempDir()
	held(t, path, Exclusive, false)
	first, second := lock(t, path, Shared), lock(t, path, Shared)
	held(t, path, Shared, false)
	held(t, path, Exclusive, true)
	if _, err := TryOpen(path, Exclusive); !errdefs.IsUnavailable(err) {
		t.Errorf("got %v", err)
	}
	if err := errors.Join(first.Close(), second.Close()); err != nil {
		t.Fatal(err)
	}
	lock(t, path, Exclusive)
	held(t, path, Shared, true)
}

func TestWait(t *testing.T) {
	path := t.TempDir()
	f := lock(t, path, Exclusive)
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Millisecond)
	defer cancel()
	if _, err := Open(ctx, path, Shared); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("got %v", err)
	}
	time.AfterFunc(5*time.Millisecond, func() { _ = f.Close() })
	g, err := Open(t.Context(), path, Shared)
	if err != nil || g == nil {
		t.Fatal(g, err)
	}
	if err := g.Close(); err != nil {
		t.Error(err)
	}
}

// TestGone: a lock on what no longer has its name is none.
func TestGone(t *testing.T) {
	path := filepath.Join(t.TempDir(), "dir")
	if f, err := TryOpen(path, Exclusive); f != nil || err != nil {
		t.Errorf("got %v, %v", f, err)
	}
	for range 2 {
		if err := os.Mkdir(path, 0o700); err != nil {
			t.Fatal(err)
		}
		f := lock(t, path, Exclusive)
		time.AfterFunc(5*time.Millisecond, func() {
			_ = errors.Join(os.Remove(path), os.Mkdir(path, 0o700), f.Close())
		})
		if g, err := Open(t.Context(), path, Exclusive); g != nil || err != nil {
			t.Errorf("got %v, %v", g, err)
		}
		if err := os.Remove(path); err != nil {
			t.Fatal(err)
		}
	}
}
