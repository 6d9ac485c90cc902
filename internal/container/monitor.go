package container

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"strconv"
	"sync"
	"syscall"
	"time"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/container"

	"strake/internal/executor"
)

// Monitor looks after one container while it runs.
type Monitor struct {
	Table     *Table
	Container *Container
	Lock      *os.File // the container's; closed by Run
	Runtime   *executor.Runc
	// Prepare says what to run: the root file system is mounted, the network is there.
	Prepare func(ctx context.Context, c *Container) (Prepared, error)

	// Release gives up what is the container's when it has ended for good, before those who wait are told.
	Release  func() error
	released func() error // Release, once

	stateMu sync.Mutex // guards *Container

	freezing sync.Mutex // held while the container is paused or resumed, before stateMu
	killed   bool       // guarded by freezing: nothing pauses the process any more

	mu      sync.Mutex        // guards what follows
	changed *sync.Cond        // that process or ended did
	process *executor.Process // nil while there is none
	begun   bool              // there was one
	input   *os.File          // the end of the standard input's pipe, or the terminal; nil: none
	clients map[*Conn]bool    // attached, and whether for output
	size    *executor.Size    // that a client has told of its terminal last; nil: none has
	leaving bool              // clients shall not keep the monitor
	stop    chan struct{}     // closed by a command that stops the container for good
	stopped bool
	over    chan struct{} // closed when the container has ended, after all restarts
	ended   bool          // and clients are told last
	last    Reply         // the exit
	backoff time.Duration

	answering int // connections
}

// record is what the container's record is at the moment.
func (m *Monitor) record() Container {
	m.stateMu.Lock()
	defer m.stateMu.Unlock()
	return *m.Container
}

// set changes the state and writes it, with an event if action is not "".
func (m *Monitor) set(ctx context.Context, action string, attributes map[string]string, change func(*State)) error {
	m.stateMu.Lock()
	defer m.stateMu.Unlock()
	change(&m.Container.State)
	return m.Table.SetState(ctx, m.Container, action, attributes)
}

// Prepared is a container that is ready to be started.
type Prepared struct {
	Spec executor.Spec
	Undo func() error // called when the process has ended
}

// lateOutput is how long the end of a container waits for clients that do not read, and for children of its process that may write.
const lateOutput = 2 * time.Second

// Run starts the container, looks after it until it has ended and is not to be restarted, and removes it where it is to go. The
// first client, who may be nil, is told whether it started, and is attached as its request says. Cancelling ctx stops the container.
func (m *Monitor) Run(ctx context.Context, first *Conn) (err error) {
	m.clients, m.stop, m.over = map[*Conn]bool{}, make(chan struct{}), make(chan struct{})
	m.released = sync.OnceValue(m.Release)
	m.changed = sync.NewCond(&m.mu)
	log, err := m.Table.OpenLog(m.Container)
	if err != nil {
		return m.refuse(ctx, first, err)
	}
	if log != nil {
		defer func() { err = errors.Join(err, log.Close()) }()
	}
	socket, err := server{m}.listen(ctx)
	if err != nil {
		return m.refuse(ctx, first, err)
	}
	defer func() { _ = socket.Close() }() // removed below, or gone
	if first != nil {
		server{m}.admit(first)
	}
	defer context.AfterFunc(ctx, func() { m.halt(context.WithoutCancel(ctx)) })()
	var uncleaned error
	defer func() { err = errors.Join(err, uncleaned) }()
	for {
		started := time.Now()
		ended, err := m.once(ctx, log)
		if err != nil {
			return m.refuse(ctx, first, err)
		}
		uncleaned = errors.Join(uncleaned, ended.uncleaned)
		wait, again := m.restarts(time.Since(started), ended.reply.Code)
		if !again {
			return m.end(ctx, ended)
		}
		err = m.set(ctx, "die", exitAttribute(ended.reply), func(s *State) { s.Status = container.StateRestarting })
		if err != nil {
			return m.refuse(ctx, first, err)
		}
		ended.send(m)
		if !m.pause(wait) {
			return m.end(ctx, ended)
		}
		m.stateMu.Lock()
		m.Container.State.RestartCount++
		m.stateMu.Unlock()
	}
}

func exitAttribute(r Reply) map[string]string {
	return map[string]string{"exitCode": strconv.Itoa(r.Code)}
}

// pause waits before a restart; false where a command stops the container.
func (m *Monitor) pause(wait time.Duration) bool {
	select {
	case <-m.stop:
		return false
	case <-time.After(wait):
		return true
	}
}

// refuse ends a monitor whose container could not be started: again, or for the first time.
func (m *Monitor) refuse(ctx context.Context, first *Conn, why error) error {
	ctx = context.WithoutCancel(ctx)
	reply := failure(why)
	err := m.set(ctx, "", nil, func(s *State) {
		s.Pid, s.Error, s.ExitCode = 0, reply.Error, reply.Code
		if reply.Code == 0 || reply.Code == executor.CodeFailed {
			s.ExitCode = 128 // as docker has it
		}
		if s.Status != container.StateCreated {
			s.Status, s.Finished = container.StateExited, time.Now().UTC()
		}
	})
	if c := m.record(); err == nil && c.Spec.HostConfig.AutoRemove {
		err = m.Table.Remove(ctx, &c)
	}
	return errors.Join(err, m.finish(first, ending{reply: reply}))
}

// finish gives up all that is the container's and tells who waits for its end. Attached clients hear of it when they have all
// output; nobody else waits for them.
func (m *Monitor) finish(first *Conn, e ending) error {
	err := errors.Join(m.released(), m.Lock.Close())
	m.mu.Lock()
	m.ended, m.last = true, e.reply
	if first != nil {
		m.clients[first] = true
	}
	m.changed.Broadcast()
	m.mu.Unlock()
	close(m.over)
	m.awaitReaders(e)
	e.tell(m.takeClients())
	m.awaitAnswers()
	return err
}

// awaitAnswers waits until those who asked have their answers.
func (m *Monitor) awaitAnswers() {
	for start := time.Now(); time.Since(start) < lateOutput; time.Sleep(time.Millisecond) {
		m.mu.Lock()
		left := m.answering
		m.mu.Unlock()
		if left == 0 {
			return
		}
	}
}

// ending is what is left to say of a process that has ended.
type ending struct {
	reply  Reply
	copied chan struct{} // closed when all output was passed on

	uncleaned error // what of it could not be removed, which changes neither its exit nor what follows
}

// send tells the attached clients, when they have all output.
func (e ending) send(m *Monitor) {
	clients := m.takeClients()
	go func() {
		<-e.copied
		e.tell(clients)
	}()
}

// tell tells clients, each of which may take its time to read.
func (e ending) tell(clients map[*Conn]bool) {
	var telling sync.WaitGroup
	for c := range clients {
		telling.Go(func() {
			_ = c.writeJSON(frameReply, e.reply) // it may be gone
			_ = c.Close()
		})
	}
	telling.Wait()
}

// takeClients makes the attached clients the caller's.
func (m *Monitor) takeClients() map[*Conn]bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	clients := m.clients
	m.clients = map[*Conn]bool{}
	return clients
}

// once runs the container's process once. An error says that it was not started.
func (m *Monitor) once(ctx context.Context, log *Log) (e ending, err error) {
	ctx = context.WithoutCancel(ctx)
	c := m.record()
	prepared, err := m.Prepare(ctx, &c)
	if err != nil {
		return e, err
	}
	defer func() {
		if undoErr := prepared.Undo(); err != nil {
			err = errors.Join(err, undoErr)
		} else {
			e.uncleaned = errors.Join(e.uncleaned, undoErr)
		}
	}()
	spec := prepared.Spec
	io, err := openStreams(&c)
	if err != nil {
		return e, err
	}
	spec.Stdin, spec.Stdout, spec.Stderr = io.given()
	m.mu.Lock()
	spec.Size = m.size
	m.mu.Unlock()
	process, err := m.Runtime.Start(ctx, spec)
	io.closeGiven()
	if err != nil {
		return e, errors.Join(err, io.close())
	}
	if console := process.Console(); console != nil {
		io.console = console
	}
	probes := m.newProbes(process)
	m.mu.Lock()
	m.process, m.input, m.begun = process, io.input(), true
	m.changed.Broadcast()
	size := m.size
	m.mu.Unlock()
	if size != nil {
		m.resize(*size) // which may have changed since
	}
	err = m.set(ctx, "start", nil, func(s *State) {
		s.Status, s.Pid, s.ExitCode, s.Error, s.OOMKilled = container.StateRunning, process.Pid(), 0, "", false
		s.Started, s.Finished, s.Health = time.Now().UTC(), time.Time{}, probes.first()
	})
	if err != nil {
		_ = process.Signal(syscall.SIGKILL) // it may have ended
	}
	m.tellStarted()
	copied, ended := m.copyOutput(io, log) // only now: a client that does not read would keep the line above waiting
	e.copied = copied
	probes.start(ctx)
	exit, waitErr := process.Wait(ctx)
	ended()
	probes.end()
	m.mu.Lock()
	m.process, m.input = nil, nil
	m.mu.Unlock()
	select {
	case <-e.copied:
	case <-time.After(lateOutput / 40):
		// Its number may be another's while clients read.
		waitErr = errors.Join(waitErr, m.set(ctx, "", nil, func(s *State) { s.Pid = 0 }))
		select {
		case <-e.copied:
		case <-time.After(lateOutput):
		}
	}
	m.stateMu.Lock()
	s := &m.Container.State
	s.Status, s.Pid, s.ExitCode, s.OOMKilled, s.Finished = container.StateExited, 0, exit.Code, exit.OOMKilled, time.Now().UTC()
	if s.Health != nil {
		h := *s.Health
		h.Status = container.Unhealthy // as docker has it
		s.Health = &h
	}
	m.stateMu.Unlock()
	e.reply = Reply{Code: exit.Code}
	e.uncleaned = errors.Join(err, waitErr, io.close())
	return e, nil
}

// tellStarted tells the attached clients that the container has started.
func (m *Monitor) tellStarted() {
	m.mu.Lock()
	clients := maps.Clone(m.clients)
	m.mu.Unlock()
	for c := range clients {
		_ = c.writeJSON(frameReply, Reply{Started: true}) // it may be gone, which attach sees
	}
}

// end writes that the container has ended, or removes it, and tells who waits.
func (m *Monitor) end(ctx context.Context, e ending) error {
	ctx = context.WithoutCancel(ctx)
	go func() { _ = m.released() }() // finish waits for it, and returns its error
	err := m.set(ctx, "die", exitAttribute(e.reply), func(s *State) { s.Status = container.StateExited })
	c := m.record()
	if err == nil && c.Spec.HostConfig.AutoRemove {
		err = m.Table.Remove(ctx, &c)
	} else if removeErr := os.Remove(m.Table.Path(c.ID) + "/" + socketName); !errors.Is(removeErr, fs.ErrNotExist) {
		err = errors.Join(err, removeErr)
	}
	return errors.Join(err, m.finish(nil, e))
}

// awaitReaders waits for clients that have not read all output, unless nobody is to wait for them.
func (m *Monitor) awaitReaders(e ending) {
	for e.copied != nil {
		select {
		case <-e.copied:
			return
		case <-time.After(10 * time.Millisecond):
		}
		m.mu.Lock()
		leaving := m.leaving
		m.mu.Unlock()
		if leaving {
			for c := range m.takeClients() {
				_ = c.Close()
			}
			<-e.copied
			return
		}
	}
}

// Times between restarts, which are docker's.
const (
	firstRestart = 100 * time.Millisecond
	lastRestart  = time.Minute
	settledAfter = 10 * time.Second
)

// restarts says whether the container, which ran for a time, is to be started again, and when.
func (m *Monitor) restarts(ran time.Duration, code int) (wait time.Duration, again bool) {
	c := m.record()
	m.mu.Lock()
	defer m.mu.Unlock()
	switch {
	case ran >= settledAfter || m.backoff == 0:
		m.backoff = firstRestart
	default:
		m.backoff = min(2*m.backoff, lastRestart)
	}
	if m.stopped {
		return 0, false
	}
	policy := c.Spec.HostConfig.RestartPolicy
	switch {
	case policy.IsAlways(), policy.IsUnlessStopped():
		again = true
	case policy.IsOnFailure():
		again = code != 0 && (policy.MaximumRetryCount == 0 || c.State.RestartCount < policy.MaximumRetryCount)
	}
	return m.backoff, again
}

// markStopped says that a command stops the container for good.
func (m *Monitor) markStopped() {
	m.mu.Lock()
	defer m.mu.Unlock()
	if !m.stopped {
		m.stopped = true
		close(m.stop)
	}
}

// halt stops the container because the machine does: its policy may start it again.
func (m *Monitor) halt(ctx context.Context) {
	m.markStopped()
	c := m.record()
	m.stopProcess(ctx, StopSignal(&c), StopTimeout(&c))
}

// running is the process, or docker's error.
func (m *Monitor) running() (*executor.Process, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.process == nil {
		return nil, errorText{fmt.Sprintf("container %s is not running", m.record().ID), errdefs.ErrConflict}
	}
	return m.process, nil
}

// coming waits for the process that runs or is being started; nil where the container ends for good.
func (m *Monitor) coming() *executor.Process {
	m.mu.Lock()
	defer m.mu.Unlock()
	for m.process == nil && !m.ended {
		m.changed.Wait()
	}
	return m.process
}

// stopProcess sends a signal and, when the process lives on for a time, SIGKILL; a negative time is for ever. It returns when
// the container has ended.
func (m *Monitor) stopProcess(ctx context.Context, signal syscall.Signal, patience time.Duration) {
	p := m.coming()
	if p == nil {
		return
	}
	_ = m.signalEnd(ctx, p, signal) // it may have ended
	var late <-chan time.Time
	if patience >= 0 {
		timer := time.NewTimer(patience)
		defer timer.Stop()
		late = timer.C
	}
	select {
	case <-m.over:
		return
	case <-late:
		_ = m.signalEnd(ctx, p, syscall.SIGKILL) // it may have ended
	}
	<-m.over
}

// signalEnd sends a signal that is to end the process, which goes on if it is paused: it would not take it otherwise.
func (m *Monitor) signalEnd(ctx context.Context, p *executor.Process, s syscall.Signal) error {
	if err := p.Signal(s); err != nil {
		return err
	}
	m.freezing.Lock()
	defer m.freezing.Unlock()
	m.killed = m.killed || s == syscall.SIGKILL
	if m.record().State.Status != container.StatePaused || p.Resume(ctx) != nil {
		return nil // where it cannot be resumed it has ended
	}
	return m.setFrozen(ctx, false)
}

// setFrozen writes that the container was paused or resumed, unless it has ended since.
func (m *Monitor) setFrozen(ctx context.Context, paused bool) error {
	action, status := "unpause", container.StateRunning
	if paused {
		action, status = "pause", container.StatePaused
	}
	return m.set(ctx, action, nil, func(s *State) {
		if s.Pid != 0 {
			s.Status = status
		}
	})
}
