package cli

import (
	"context"
	"io"
	"os"
)

// input is standard input for a command that does nothing before it has it: reading it ends with ctx, and what is being read then is
// lost. A file never makes wait.
func (s *session) input(ctx context.Context) io.Reader {
	if f, ok := s.In.(*os.File); ok {
		if info, err := f.Stat(); err == nil && info.Mode().IsRegular() {
			return f
		}
	}
	return readerFunc(func(p []byte) (int, error) {
		type result struct {
			n   int
			err error
		}
		done, buf := make(chan result, 1), make([]byte, len(p))
		go func() {
			n, err := s.In.Read(buf)
			done <- result{n, err}
		}()
		select {
		case r := <-done:
			return copy(p, buf[:r.n]), r.err
		case <-ctx.Done():
			return 0, context.Cause(ctx)
		}
	})
}

type readerFunc func([]byte) (int, error)

func (f readerFunc) Read(p []byte) (int, error) { return f(p) }
