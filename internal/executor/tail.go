package executor

import (
	"errors"
	"io"
	"os"
	"sync"
	"syscall"
	"time"
)

// A Tail reads what a process writes to a pipe or a terminal. Its children may hold the other end for ever: when the process has ended, it
// reads as much as a pipe of the largest size holds, as long as nothing keeps it waiting for longer than a time. A terminal that nobody has
// open may be opened again by the process, until that has ended.
type Tail struct {
	f     *os.File
	grace time.Duration
	ended chan struct{}
	end   sync.Once
	left  int // to read after the end
}

// NewTail returns a Tail of f, which the caller closes.
func NewTail(f *os.File, grace time.Duration) *Tail {
	return &Tail{f: f, grace: grace, ended: make(chan struct{}), left: 1 << 20}
}

// End says that the process has ended. It may be called from any goroutine.
func (t *Tail) End() {
	t.end.Do(func() { close(t.ended) })
	t.limit()
}

// reopening is how long a terminal that nobody has open is left alone.
const reopening = 100 * time.Millisecond

// limit gives the next read its time, also one that waits. A terminal may take none: it ends with the process.
func (t *Tail) limit() { _ = t.f.SetReadDeadline(time.Now().Add(t.grace)) }

// Read implements io.Reader.
func (t *Tail) Read(p []byte) (int, error) {
	for {
		select {
		case <-t.ended:
			return t.rest(p)
		default:
		}
		n, err := t.f.Read(p)
		if n > 0 || !errors.Is(err, syscall.EIO) {
			return n, err
		}
		select {
		case <-t.ended:
		case <-time.After(reopening):
		}
	}
}

// rest reads what is left when the process has ended.
func (t *Tail) rest(p []byte) (int, error) {
	if t.left <= 0 {
		return 0, io.EOF
	}
	t.limit()
	n, err := t.f.Read(p)
	t.left -= n
	return n, err
}
