package container

import (
	"errors"
	"fmt"
	"io"
	"os"
	"sync"

	"strake/internal/executor"
)

// streams are those of the container's process: pipes, or a terminal.
type streams struct {
	stdin, stdout, stderr *os.File // the monitor's ends; nil: none
	theirs                []*os.File
	console               *os.File
}

// openStreams makes what the process of c gets.
func openStreams(c *Container) (s *streams, err error) {
	s = &streams{theirs: make([]*os.File, 3)}
	if c.Spec.Config.Tty {
		return s, nil
	}
	defer func() {
		if err != nil {
			s.closeGiven()
			err = errors.Join(fmt.Errorf("make the streams of a container: %w", err), s.close())
		}
	}()
	if c.Spec.Config.OpenStdin {
		if s.theirs[0], s.stdin, err = os.Pipe(); err != nil {
			return nil, err
		}
	}
	if s.stdout, s.theirs[1], err = os.Pipe(); err != nil {
		return nil, err
	}
	s.stderr, s.theirs[2], err = os.Pipe()
	return s, err
}

// given are the process's ends.
func (s *streams) given() (stdin, stdout, stderr *os.File) {
	return s.theirs[0], s.theirs[1], s.theirs[2]
}

func (s *streams) closeGiven() {
	for i, f := range s.theirs {
		if f != nil {
			_ = f.Close() // the process has its own
			s.theirs[i] = nil
		}
	}
}

// input is where standard input goes.
func (s *streams) input() *os.File {
	if s.console != nil {
		return s.console
	}
	return s.stdin
}

// close ends what is left.
func (s *streams) close() (err error) {
	for _, f := range []*os.File{s.stdin, s.stdout, s.stderr, s.console} {
		if f == nil {
			continue
		}
		if closeErr := f.Close(); !errors.Is(closeErr, os.ErrClosed) {
			err = errors.Join(err, closeErr)
		}
	}
	return err
}

// copyOutput passes what the process says on to the log and to the clients, however late they read it. The channel is closed when it is
// over; ended is to be called when the process has ended, and closes what is read then.
func (m *Monitor) copyOutput(s *streams, log *Log) (done chan struct{}, ended func()) {
	var copying sync.WaitGroup
	var tails []*executor.Tail
	one := func(f *os.File, kind byte, name string) {
		if f != nil {
			tail := executor.NewTail(f, lateOutput)
			tails = append(tails, tail)
			copying.Go(func() { m.copyStream(tail, kind, &stream{log: log, name: name}) })
		}
	}
	one(s.console, frameStdout, "stdout")
	one(s.stdout, frameStdout, "stdout")
	one(s.stderr, frameStderr, "stderr")
	read := streams{console: s.console, stdout: s.stdout, stderr: s.stderr}
	s.console, s.stdout, s.stderr = nil, nil, nil
	done = make(chan struct{})
	go func() {
		copying.Wait()
		close(done)
	}()
	return done, func() {
		for _, tail := range tails {
			tail.End()
		}
		go func() { // a terminal that was closed would end who still has it
			<-done
			_ = read.close() // nothing was written
		}()
	}
}

// copyStream copies one stream to its end. A log that cannot be written loses what it cannot take: the container goes on.
func (m *Monitor) copyStream(from io.Reader, kind byte, to *stream) {
	buf := make([]byte, 32<<10)
	for {
		n, err := from.Read(buf)
		if n > 0 {
			_ = to.write(buf[:n])
			m.broadcast(kind, buf[:n])
		}
		if err != nil { // a terminal ends with EIO
			_ = to.flush(now())
			return
		}
	}
}

// broadcast gives the clients what the process says. One that does not read makes the process wait, as in a pipe.
func (m *Monitor) broadcast(kind byte, data []byte) {
	m.mu.Lock()
	clients := make([]*Conn, 0, len(m.clients))
	for c, output := range m.clients {
		if output {
			clients = append(clients, c)
		}
	}
	m.mu.Unlock()
	for _, c := range clients {
		if c.write(kind, data) != nil {
			m.mu.Lock()
			delete(m.clients, c)
			m.mu.Unlock()
		}
	}
}

// resize sets the size of the terminal, if there is one: now, and that of the one that the next process gets.
func (m *Monitor) resize(size executor.Size) {
	m.mu.Lock()
	m.size = &size
	m.mu.Unlock()
	if p, err := m.running(); err == nil && p.Console() != nil {
		_ = p.Resize(size) // it may be ending
	}
}
