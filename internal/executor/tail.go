package executor

import (
	"io"
	"os"
	"sync/atomic"
	"time"
)

// A Tail reads what a process writes to a pipe or a terminal. Its children may hold the other end for ever: when the process has ended, it
// reads as much as a pipe of the largest size holds, as long as nothing keeps it waiting for longer than a time.
type Tail struct {
	f     *os.File
	grace time.Duration
	ended atomic.Bool
	left  int // to read after the end
}

// NewTail returns a Tail of f, which the caller closes.
func NewTail(f *os.File, grace time.Duration) *Tail { return &Tail{f: f, grace: grace, left: 1 << 20} }

// End says that the process has ended. It may be called from any goroutine.
func (t *Tail) End() {
	t.ended.Store(true)
	t.limit()
}

// limit gives the next read its time, also one that waits. A terminal may take none: it ends with the process.
func (t *Tail) limit() { _ = t.f.SetReadDeadline(time.Now().Add(t.grace)) }

// Read implements io.Reader.
func (t *Tail) Read(p []byte) (int, error) {
	ended := t.ended.Load()
	if ended {
		if t.left <= 0 {
			return 0, io.EOF
		}
		t.limit()
	}
	n, err := t.f.Read(p)
	if ended {
		t.left -= n
	}
	return n, err
}
