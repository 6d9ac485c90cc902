package store

import (
	"context"
	"io"
	"sync"

	"strake/internal/content"
)

// spool is a blob on its way into the store: what comes is in its part at once,
// and read behind that. So a process that is killed loses none of what came
// faster than it was inflated, and the registry is not kept waiting for that.
type spool struct {
	stop  context.CancelFunc // ends the source
	ended chan struct{}      // closed when nothing is written any more

	mu     sync.Mutex // guards w too
	w      content.Writer
	grew   sync.Cond
	err    error // of the source or of w, once it ended; io.EOF at its end
	offset int64 // of the reader
}

// newSpool begins to write what src gives to w. Reading it begins with what w
// holds already. stop must make src fail.
func newSpool(w content.Writer, src io.Reader, stop context.CancelFunc) *spool {
	s := &spool{stop: stop, ended: make(chan struct{}), w: w}
	s.grew.L = &s.mu
	go s.fill(src)
	return s
}

func (s *spool) fill(src io.Reader) {
	defer close(s.ended)
	buf := make([]byte, streamBuffer)
	for err := error(nil); err == nil; {
		var n int
		n, err = src.Read(buf)
		s.mu.Lock()
		if n > 0 {
			if _, failed := s.w.Write(buf[:n]); failed != nil {
				err = failed
			}
		}
		s.err = err
		s.mu.Unlock()
		s.grew.Broadcast()
	}
}

// Read reads what is written, and waits for more until the source has ended.
func (s *spool) Read(b []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for s.offset == s.w.Offset() && s.err == nil {
		s.grew.Wait()
	}
	if left := s.w.Offset() - s.offset; left > 0 {
		n, err := s.w.ReadAt(b[:min(int64(len(b)), left)], s.offset)
		s.offset += int64(n)
		return n, err
	}
	return 0, s.err
}

// end ends the source and waits for it: the writer is the caller's alone again.
func (s *spool) end() {
	s.stop()
	<-s.ended
}
