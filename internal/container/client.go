package container

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"syscall"

	"github.com/containerd/errdefs"

	"strake/internal/executor"
)

// Dial connects to the monitor of a container. It fails with errdefs.ErrUnavailable where there is none.
func (t *Table) Dial(ctx context.Context, id string) (*Conn, error) {
	path, done, err := shortPath(t.Path(id), socketName)
	if err != nil {
		return nil, fmt.Errorf("container %s: %w: %w", id, errdefs.ErrUnavailable, err)
	}
	defer done()
	c, err := (&net.Dialer{}).DialContext(ctx, "unix", path)
	if err != nil {
		return nil, fmt.Errorf("container %s: %w: %w", id, errdefs.ErrUnavailable, err)
	}
	u, ok := c.(*net.UnixConn)
	if !ok {
		return nil, fmt.Errorf("container %s: a %T: %w", id, c, errdefs.ErrInternal)
	}
	return newConn(u), nil
}

// Call asks the monitor of a container for something, with files, and waits for its last reply. It fails with
// errdefs.ErrUnavailable where the monitor is not there or dies.
func (t *Table) Call(ctx context.Context, id string, req Request, files ...*os.File) (Reply, error) {
	c, err := t.Dial(ctx, id)
	if err != nil {
		return Reply{}, err
	}
	defer func() { _ = c.Close() }() // all was said
	defer context.AfterFunc(ctx, func() { _ = c.Close() })()
	if err := c.writeJSON(frameRequest, req, files...); err != nil {
		return Reply{}, fmt.Errorf("container %s: %w: %w", id, errdefs.ErrUnavailable, err)
	}
	return c.last(ctx)
}

// last reads until the last reply.
func (c *Conn) last(ctx context.Context) (Reply, error) {
	for {
		kind, data, err := c.read()
		if err != nil {
			if ctx.Err() != nil {
				return Reply{}, context.Cause(ctx)
			}
			return Reply{}, fmt.Errorf("the container's monitor: %w: %w", errdefs.ErrUnavailable, err)
		}
		if kind != frameReply {
			continue
		}
		var r Reply
		if err := json.Unmarshal(data, &r); err != nil {
			return Reply{}, err
		}
		if !r.Started {
			return r, r.Err()
		}
	}
}

// Streams are what a client attaches to a container.
type Streams struct {
	Stdin          io.Reader // nil: none
	Stdout, Stderr io.Writer // nil: discarded
	Resize         <-chan executor.Size
	Signals        <-chan os.Signal // sent to the process
	Signal         func(syscall.Signal) error
	Detached       <-chan struct{} // closed when the user goes away
	Started        func()          // called when the container was started; nil: nobody asks
}

// ErrDetached says that the user went away before the process ended.
var ErrDetached = errors.New("detached")

// Attach streams until the process ends, and returns its exit code. The request was sent.
func (c *Conn) Attach(ctx context.Context, s Streams) (code int, err error) {
	done := make(chan struct{})
	var sending sync.WaitGroup
	defer sending.Wait()
	defer close(done)
	var detached bool
	var mu sync.Mutex
	sending.Go(func() {
		c.send(ctx, s, done, func() {
			mu.Lock()
			detached = true
			mu.Unlock()
			_ = c.Close() // which ends the loop below
		})
	})
	if s.Stdin != nil {
		go c.sendInput(s.Stdin) // a read may never return
	}
	for {
		kind, data, err := c.read()
		mu.Lock()
		away := detached
		mu.Unlock()
		switch {
		case away:
			return 0, ErrDetached
		case err != nil && ctx.Err() != nil:
			return 0, context.Cause(ctx)
		case err != nil:
			return 0, fmt.Errorf("the container's monitor: %w: %w", errdefs.ErrUnavailable, err)
		}
		switch kind {
		case frameStdout:
			err = writeAll(s.Stdout, data)
		case frameStderr:
			err = writeAll(s.Stderr, data)
		case frameReply:
			var r Reply
			if err := json.Unmarshal(data, &r); err != nil {
				return 0, err
			}
			if !r.Started {
				return r.Code, r.Err()
			}
			if s.Started != nil {
				s.Started()
			}
		}
		if err != nil {
			return 0, err
		}
	}
}

func writeAll(w io.Writer, data []byte) error {
	if w == nil {
		return nil
	}
	_, err := w.Write(data)
	return err
}

// send passes on what is no stream, until done.
func (c *Conn) send(ctx context.Context, s Streams, done <-chan struct{}, leave func()) {
	for {
		select {
		case <-done:
			return
		case <-ctx.Done():
			_ = c.Close()
			return
		case <-s.Detached:
			leave()
			return
		case size := <-s.Resize:
			_ = c.writeJSON(frameResize, size) // it may be over
		case sig := <-s.Signals:
			if n, ok := sig.(syscall.Signal); ok && s.Signal != nil {
				_ = s.Signal(n) // it may be over
			}
		}
	}
}

// sendInput passes standard input on to its end.
func (c *Conn) sendInput(stdin io.Reader) {
	buf := make([]byte, 32<<10)
	for {
		n, err := stdin.Read(buf)
		if n > 0 && c.write(frameStdin, buf[:n]) != nil {
			return
		}
		if err != nil {
			_ = c.write(frameStdin, nil) // it may be over
			return
		}
	}
}

// Ask sends the request that begins a connection, with files.
func (c *Conn) Ask(req Request, files ...*os.File) error {
	return c.writeJSON(frameRequest, req, files...)
}

// Launch tells a monitor that waits which container to look after, and gives it the container's lock, and the file that its own errors go
// to. The first client's request follows.
func (c *Conn) Launch(id string, lock, log *os.File) error {
	return c.writeJSON(frameRequest, Request{Op: opLaunch, ID: id}, lock, log)
}

// AwaitLaunch is the other side of Launch. It fails with io.EOF where the monitor is not needed.
func (c *Conn) AwaitLaunch() (id string, lock, log *os.File, err error) {
	req, err := c.request()
	files := c.takeFiles()
	if err == nil && (req.Op != opLaunch || len(files) != 2) {
		err = fmt.Errorf("operation %q with %d files: %w", req.Op, len(files), errdefs.ErrInvalidArgument)
	}
	if err != nil {
		for _, f := range files {
			err = errors.Join(err, f.Close())
		}
		return "", nil, nil, err
	}
	return req.ID, files[0], files[1], nil
}

// AwaitStart waits until the container was started, and fails where it could not be. The request, OpAttach, was sent.
func (c *Conn) AwaitStart(ctx context.Context) error {
	defer context.AfterFunc(ctx, func() { _ = c.Close() })()
	for {
		kind, data, err := c.read()
		if err != nil {
			if ctx.Err() != nil {
				return context.Cause(ctx)
			}
			return fmt.Errorf("the container's monitor: %w: %w", errdefs.ErrUnavailable, err)
		}
		var r Reply
		if kind != frameReply {
			continue
		}
		if err := json.Unmarshal(data, &r); err != nil || r.Started {
			return err
		}
		return r.Err() // nil: it has ended already
	}
}

// Refuse tells a client that its container cannot be started.
func (c *Conn) Refuse(why error) error {
	return errors.Join(c.writeJSON(frameReply, failure(why)), c.Close())
}
