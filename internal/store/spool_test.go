package store

import (
	"bytes"
	"context"
	"errors"
	"io"
	"syscall"
	"testing"
	"testing/synctest"

	"strake/internal/content"
)

// TestSpool writes what comes though nobody reads it, and gives the reader all
// of it before it tells how the source ended.
func TestSpool(t *testing.T) {
	broken := errors.New("broken")
	for _, ending := range []error{io.EOF, broken} {
		synctest.Test(t, func(t *testing.T) {
			w, err := new(content.Mem).Writer(t.Context(), "ref", content.WriterOptions{})
			if err != nil {
				t.Fatal(err)
			}
			if _, err := w.Write([]byte("held ")); err != nil {
				t.Fatal(err)
			}
			came := bytes.Repeat([]byte("came"), streamBuffer)
			rest, ended := context.WithCancelCause(t.Context())
			s := newSpool(w, io.MultiReader(bytes.NewReader(came), endless{rest}), func() { ended(context.Canceled) })
			synctest.Wait()
			if n := w.Offset(); n != int64(5+len(came)) {
				t.Errorf("%d bytes are written while nobody reads", n)
			}
			got := make([]byte, 5+len(came))
			if _, err := io.ReadFull(s, got); err != nil || string(got) != "held "+string(came) {
				t.Errorf("%d bytes, %v", len(got), err)
			}
			ended(ending)
			if _, err := s.Read(got); !errors.Is(err, ending) {
				t.Errorf("the end: %v, want %v", err, ending)
			}
			s.end()
		})
	}
}

// TestSpoolIsStopped ends a spool whose source gives nothing.
func TestSpoolIsStopped(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, err := new(content.Mem).Writer(t.Context(), "ref", content.WriterOptions{})
		if err != nil {
			t.Fatal(err)
		}
		ctx, stop := context.WithCancel(t.Context())
		newSpool(w, endless{ctx}, stop).end()
	})
}

// endless is a source that waits until its context ends.
type endless struct{ ctx context.Context } //nolint:containedctx // as a reader of a request's body has

func (e endless) Read([]byte) (int, error) {
	<-e.ctx.Done()
	return 0, context.Cause(e.ctx)
}

// shrunk is a writer on a disk that is full: it loses the end of what it held.
type shrunk struct{ content.Writer }

func (w shrunk) Write([]byte) (int, error) {
	return 0, errors.Join(syscall.ENOSPC, w.Truncate(2))
}

// TestSpoolOnFullDisk tells the reader that the disk is full, not that the bytes end.
func TestSpoolOnFullDisk(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, err := new(content.Mem).Writer(t.Context(), "ref", content.WriterOptions{})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write([]byte("held")); err != nil {
			t.Fatal(err)
		}
		s := newSpool(shrunk{w}, bytes.NewReader([]byte("more")), func() {})
		synctest.Wait()
		if got, err := io.ReadAll(s); string(got) != "he" || !errors.Is(err, syscall.ENOSPC) {
			t.Errorf("got %q, %v", got, err)
		}
		s.end()
	})
}
