package container

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/container"

	"strake/internal/executor"
)

func now() time.Time { return time.Now() }

// A server is the side of a monitor that clients speak to.
type server struct{ *Monitor }

// listen serves the monitor's socket.
func (m server) listen(ctx context.Context) (net.Listener, error) {
	dir := m.Table.Path(m.record().ID)
	if err := os.Remove(filepath.Join(dir, socketName)); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	path, done, err := shortPath(dir, socketName)
	if err != nil {
		return nil, err
	}
	defer done()
	l, err := (&net.ListenConfig{}).Listen(ctx, "unix", path)
	if err != nil {
		return nil, fmt.Errorf("serve the container's socket: %w", err)
	}
	if u, ok := l.(*net.UnixListener); ok {
		u.SetUnlinkOnClose(false) // by a path that is no more
	}
	if err := os.Chmod(path, 0o600); err != nil {
		return nil, errors.Join(err, l.Close())
	}
	go accept(l, func(c net.Conn) { m.serve(ctx, c) })
	return l, nil
}

// accept serves what connects until the listener is closed: all other errors, of descriptors above all, pass.
func accept(l net.Listener, serve func(net.Conn)) {
	for {
		c, err := l.Accept()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			time.Sleep(10 * time.Millisecond)
			continue
		}
		serve(c)
	}
}

// maxAnswering bounds the connections of a monitor at any time.
const maxAnswering = 512

// serve greets who connects, if there are not too many already.
func (m server) serve(ctx context.Context, c net.Conn) {
	u, ok := c.(*net.UnixConn)
	if !ok {
		_ = c.Close() // there are no others
		return
	}
	if m.count(1) > maxAnswering {
		m.count(-1)
		_ = newConn(u).Refuse(fmt.Errorf("%w: too many connections", errdefs.ErrUnavailable)) // it may be gone
		return
	}
	go func() {
		defer m.count(-1)
		m.greet(ctx, newConn(u))
	}()
}

// count counts the connections that are being answered.
func (m server) count(n int) int {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.answering += n
	return m.answering
}

// greet serves one connection.
func (m server) greet(ctx context.Context, c *Conn) {
	req, err := c.request()
	if err != nil {
		_ = c.Close() // it is no client
		return
	}
	if req.Op == OpAttach {
		if m.join(c, req) {
			m.attach(c, req)
		}
		return
	}
	defer func() { _ = c.Close() }() // all is said
	reply, err := m.answer(context.WithoutCancel(ctx), c, req)
	if err != nil {
		reply = failure(err)
	}
	_ = c.writeJSON(frameReply, reply) // it may be gone
}

// admit serves the first client, who sees all that the process says.
func (m server) admit(c *Conn) {
	req, err := c.request()
	if err != nil || req.Op != OpAttach {
		_ = c.Close() // it went away
		return
	}
	m.join(c, req)
	go m.attach(c, req)
}

// request reads what a connection begins with.
func (c *Conn) request() (req Request, err error) {
	kind, data, err := c.read()
	if err == nil && kind != frameRequest {
		err = fmt.Errorf("a frame of kind %d: %w", kind, errdefs.ErrInvalidArgument)
	}
	if err != nil {
		return req, err
	}
	return req, json.Unmarshal(data, &req)
}

// answer does what is asked.
func (m server) answer(ctx context.Context, c *Conn, req Request) (Reply, error) {
	switch req.Op {
	case OpWait:
		<-m.over
		m.mu.Lock()
		defer m.mu.Unlock()
		return m.last, nil
	case OpSignal:
		return Reply{}, m.kill(ctx, syscall.Signal(req.Signal))
	case OpStop:
		if req.Remove {
			m.mu.Lock()
			m.leaving = true
			m.mu.Unlock()
		}
		m.stopForGood()
		m.stopProcess(ctx, syscall.Signal(req.Signal), req.Timeout)
		return Reply{}, nil
	case OpPause, OpResume:
		return Reply{}, m.freeze(ctx, req.Op == OpPause)
	case OpExec:
		return m.exec(ctx, c, req)
	case OpReload:
		return Reply{}, m.reload(ctx)
	case OpUpdate:
		p, err := m.running()
		if err == nil && req.Resources != nil {
			err = p.Update(req.Resources)
		}
		return Reply{}, err
	case OpDrop:
		m.mu.Lock()
		m.leaving = true
		m.mu.Unlock()
		return Reply{}, nil
	}
	return Reply{}, fmt.Errorf("operation %q: %w", req.Op, errdefs.ErrNotImplemented)
}

// join adds a client, or tells it that all is over.
func (m server) join(c *Conn, req Request) bool {
	m.mu.Lock()
	running, ended, last := m.process != nil, m.ended, m.last
	if !ended {
		m.clients[c] = req.Output
	}
	m.mu.Unlock()
	if ended {
		_ = c.writeJSON(frameReply, last) // it may be gone
		_ = c.Close()
		return false
	}
	if running {
		_ = c.writeJSON(frameReply, Reply{Started: true}) // it may be gone
	}
	if req.Size != nil {
		m.resize(*req.Size)
	}
	return true
}

// attach takes what a client sends, until it goes away or the process ends.
func (m server) attach(c *Conn, req Request) {
	for {
		kind, data, err := c.read()
		if err != nil {
			break
		}
		switch {
		case kind == frameStdin && req.Stdin:
			m.feed(data)
		case kind == frameResize:
			var size executor.Size
			if json.Unmarshal(data, &size) == nil {
				m.resize(size)
			}
		}
	}
	m.mu.Lock()
	delete(m.clients, c)
	m.mu.Unlock()
	if req.Stdin && m.record().Spec.Config.StdinOnce {
		m.feed(nil)
	}
	_ = c.Close() // it is gone
}

// feed gives the process standard input, when it has started; the end is none.
func (m server) feed(data []byte) {
	m.mu.Lock()
	for m.process == nil && !m.ended {
		m.changed.Wait()
	}
	input := m.input
	isPipe := m.process != nil && m.process.Console() == nil
	m.mu.Unlock()
	switch {
	case input == nil:
	case len(data) > 0:
		_, _ = input.Write(data) // it may not read
	case isPipe:
		_ = input.Close()
	}
}

// stopForGood says that a command stops the container, and its policy shall not start it again.
func (m server) stopForGood() {
	m.stateMu.Lock()
	m.Container.State.Stopped = true
	m.stateMu.Unlock()
	m.markStopped()
}

// kill sends a signal for a command, after which the container is not restarted, unless the signal is one among others. One
// that waits to be restarted takes no other.
func (m server) kill(ctx context.Context, s syscall.Signal) error {
	c := m.record()
	ends := s == syscall.SIGKILL || s == StopSignal(&c)
	p, err := m.running()
	if err != nil && !m.restarting() {
		return err
	}
	if ends {
		m.stopForGood()
		if p == nil {
			p = m.coming()
		}
	}
	if p == nil {
		return nil
	}
	if ends {
		err = m.signalEnd(ctx, p, s)
	} else {
		err = p.Signal(s)
	}
	if errdefs.IsNotFound(err) {
		return nil // it has just ended
	}
	if err != nil {
		return err
	}
	return m.Table.Tell(ctx, "kill", &c, map[string]string{"signal": fmt.Sprint(int(s))})
}

// restarting says that the process ended and the container perhaps has not.
func (m server) restarting() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.begun && m.process == nil && !m.ended
}

// freeze pauses the container, or lets it go on.
func (m server) freeze(ctx context.Context, pause bool) error {
	m.freezing.Lock()
	defer m.freezing.Unlock()
	p, err := m.running()
	if err != nil {
		return err
	}
	c := m.record()
	switch paused := c.State.Status == container.StatePaused; {
	case pause && paused:
		return errorText{fmt.Sprintf("Container %s is already paused", c.ID), errdefs.ErrConflict}
	case !pause && !paused:
		return errorText{fmt.Sprintf("Container %s is not paused", c.ID), errdefs.ErrConflict}
	case pause && m.killed:
		return errorText{fmt.Sprintf("container %s is not running", c.ID), errdefs.ErrConflict}
	case pause:
		err = p.Pause(ctx)
	default:
		err = p.Resume(ctx)
	}
	if err != nil {
		return err
	}
	return m.setFrozen(ctx, pause)
}

// reload reads the record again, which a command changed.
func (m server) reload(ctx context.Context) error {
	m.stateMu.Lock()
	defer m.stateMu.Unlock()
	found, err := m.Table.list(ctx, "WHERE id = $1", m.Container.ID)
	if err != nil || len(found) == 0 {
		return err
	}
	m.Container.Name, m.Container.Spec = found[0].Name, found[0].Spec
	return nil
}

// exec runs one more process, whose streams came with the request.
func (m server) exec(ctx context.Context, c *Conn, req Request) (Reply, error) {
	files := c.takeFiles()
	defer func() {
		for _, f := range files {
			_ = f.Close() // the process has its own
		}
	}()
	p, err := m.running()
	if err != nil {
		return Reply{}, err
	}
	if c := m.record(); c.State.Status == container.StatePaused {
		return Reply{}, errorText{fmt.Sprintf("Container %s is paused, unpause the container before exec", c.Name), errdefs.ErrConflict}
	}
	if req.Exec == nil || len(req.Exec.Args) == 0 || len(files) != 3 {
		return Reply{}, fmt.Errorf("exec with %d streams: %w", len(files), errdefs.ErrInvalidArgument)
	}
	spec := *req.Exec
	for _, f := range files {
		if err := executor.CheckStream(f, spec.Terminal); err != nil {
			return Reply{}, err
		}
	}
	spec.Stdin, spec.Stdout, spec.Stderr = files[0], files[1], files[2]
	code, err := p.Exec(ctx, spec, func(resize func(executor.Size)) {
		_ = c.writeJSON(frameReply, Reply{Started: true}) // it may be gone
		if spec.Terminal {
			go forwardResizes(c, resize)
		}
	})
	return Reply{Code: code}, err
}

// forwardResizes passes on how the window of a terminal changes.
func forwardResizes(c *Conn, resize func(executor.Size)) {
	for {
		kind, data, err := c.read()
		if err != nil {
			return
		}
		var size executor.Size
		if kind == frameResize && json.Unmarshal(data, &size) == nil {
			resize(size)
		}
	}
}
