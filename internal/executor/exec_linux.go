package executor

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/containerd/errdefs"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// An execution is one more process that is run in a container.
//
// crun ends with the process. runc, which copies the streams, waits for all that hold them, so it is told to leave the process to us: it
// becomes a child of ours, as the container's own is. A terminal is sent to us, and the copying is ours.
type execution struct {
	p        *Process
	spec     ExecSpec
	cmd      *exec.Cmd // the runtime
	detached bool      // the runtime leaves the process to us
	base     string    // how the names of its files begin

	consoled func() error // takes the terminal; nil: there is none
	relay    relay

	stderr  *Tail // what the runtime and the process say; nil: none
	faults  *faultFilter
	copying sync.WaitGroup

	mu     sync.Mutex
	ended  bool // the process's id may soon be another's
	killed bool
}

// Exec runs one more process in the container and returns its exit code. One that could not be started gives a *StartError.
// started is called with what tells it that the window of its terminal has another size. Cancelling ctx kills it, and gives its error.
// Children of the process are not waited for: what they write to Stderr later than execGrace is lost.
func (p *Process) Exec(ctx context.Context, spec ExecSpec, started func(resize func(Size))) (code int, err error) {
	e, err := newExecution(p, spec)
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, removeAll(e.base, e.log(), e.pidFile())) }()
	stop := func() bool { return true }
	status, err := e.run(func() {
		started(e.relay.resize)
		stop = context.AfterFunc(ctx, e.kill)
	})
	stop()
	if drainErr := e.drain(); err == nil && status == 0 {
		err = drainErr
	}
	if e.wasKilled() {
		return 0, errors.Join(context.Cause(ctx), e.faults.end(true))
	}
	message, readErr := readFault(e.log())
	if message != "" {
		if cwd, why, ok := strings.Cut(strings.TrimPrefix(message, crunCwdFault), "`: "); ok && strings.HasPrefix(message, crunCwdFault) {
			message = fmt.Sprintf("chdir to cwd (%q) set in config.json failed: %s", cwd, strings.ToLower(why))
		}
		fault := newStartError(strings.Replace(commandFault(message, spec.Args[0]), "crun run failed: unable to start container process: ", "", 1))
		fault.Message = "OCI runtime exec failed: exec failed: unable to start container process: " + strings.TrimPrefix(fault.Message, "exec failed: unable to start container process: ")
		return 0, errors.Join(fault, readErr, e.faults.end(false))
	}
	return exitCode(status), errors.Join(err, readErr, e.faults.end(true))
}

// newExecution writes what the runtime reads, and opens the streams.
func newExecution(p *Process, spec ExecSpec) (*execution, error) {
	process, err := p.execProcess(spec)
	if err != nil {
		return nil, err
	}
	e := &execution{p: p, spec: spec, detached: !p.x.runc.isCrun}
	e.faults = &faultFilter{faults: append(crunFaults(), "exec failed: ", crunCwdFault)}
	p.mu.Lock()
	p.execs++
	e.base = p.x.file(fmt.Sprintf("exec-%d", p.execs))
	p.mu.Unlock()
	data, err := json.Marshal(process)
	if err != nil {
		return nil, err
	}
	if err := writeScratch(e.base, data, 0o600); err != nil {
		return nil, err
	}
	args := append(p.x.runtimeArgs(e.log(), p.x.runc.cgroups != cgroupNone), "exec", "--pid-file", e.pidFile(), "--process", e.base)
	if e.detached {
		args = append(args, "--detach")
	}
	if spec.Terminal {
		if spec.Stdin != nil {
			e.relay.join(spec.Stdin, spec.Stdin)
		}
		l, err := listenConsole(p.x.spec.Bundle, filepath.Base(e.base)+".console", e.relay.begin)
		if err != nil {
			return nil, errors.Join(err, os.Remove(e.base))
		}
		e.consoled = l.close
		args = append(args, l.args()...)
	}
	e.cmd = p.x.runtime(append(args, p.x.spec.ID)...)
	e.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if !spec.Terminal {
		if err = setStreams(e.cmd, spec.Stdin, spec.Stdout, nil); err == nil && spec.Stderr != nil {
			err = e.filter()
		}
	}
	if err != nil {
		return nil, errors.Join(err, os.Remove(e.base))
	}
	return e, nil
}

func (e *execution) log() string     { return e.base + ".log" }
func (e *execution) pidFile() string { return e.base + ".pid" }

// filter passes the standard error on, but for what the runtime itself says.
func (e *execution) filter() error {
	read, write, err := os.Pipe()
	if err != nil {
		return err
	}
	e.stderr, e.cmd.Stderr, e.faults.w = NewTail(read, execGrace), write, e.spec.Stderr
	e.copying.Go(func() {
		_, _ = io.Copy(e.faults, e.stderr) // nobody may read it any more
		_ = read.Close()                   // whoever writes is told
	})
	return nil
}

// run runs the runtime and waits for the end of the process; started is called between. The status of a runtime that failed is its own.
func (e *execution) run(started func()) (unix.WaitStatus, error) {
	p := e.p
	if e.detached {
		p.adopting.Add(1)
	}
	err := p.run(e.cmd, func() error {
		err := e.cmd.Start()
		if w, ok := e.cmd.Stderr.(*os.File); ok {
			_ = w.Close() // the process has its own
		}
		return err
	}, started)
	if w, ok := e.cmd.Stderr.(*os.File); ok && err != nil {
		_ = w.Close() // it may not have been started
	}
	pid := 0
	if e.detached {
		if err == nil {
			pid, err = e.adopt()
		}
		p.adopting.Add(-1)
	}
	if pid > 0 {
		return e.await(pid)
	}
	e.end()
	p.reapOrphans()
	if _, isExit := errors.AsType[*exec.ExitError](err); err != nil && !isExit {
		return 0, err
	}
	status, _ := e.cmd.ProcessState.Sys().(syscall.WaitStatus)
	return unix.WaitStatus(status), nil
}

// adopt makes the process, which the runtime has left to us, one that reapOrphans lets be.
func (e *execution) adopt() (pid int, err error) {
	if pid, err = readPid(e.pidFile()); err != nil {
		return 0, fmt.Errorf("what the runtime says of its process: %w", err)
	}
	e.p.mu.Lock()
	defer e.p.mu.Unlock()
	e.p.children[pid] = true
	return pid, nil
}

// await waits for the end of a process that adopt returned.
func (e *execution) await(pid int) (status unix.WaitStatus, err error) {
	defer e.p.reapOrphans()
	if err := awaitChild(pid); err != nil {
		return 0, err
	}
	e.end()
	e.p.mu.Lock()
	defer e.p.mu.Unlock()
	_, err = unix.Wait4(pid, &status, 0, nil)
	delete(e.p.children, pid)
	return status, err
}

// end says that the process has ended.
func (e *execution) end() {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.ended = true
}

// kill kills the process, whose id the runtime wrote, and the runtime.
func (e *execution) kill() {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.ended {
		return
	}
	e.killed = true
	if pid, err := readPid(e.pidFile()); err == nil {
		_ = unix.Kill(pid, unix.SIGKILL) // it may have ended
	}
	_ = e.cmd.Process.Kill() // it may have ended
}

func (e *execution) wasKilled() bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.killed
}

// execGrace is how long a process's children are given to write to its standard error when it has ended. What it wrote itself is there,
// and whoever reads it gives the children more time.
const execGrace = 50 * time.Millisecond

// drain waits until what the process wrote to its terminal, or to its standard error, was passed on. It fails where there is to be a
// terminal and none came.
func (e *execution) drain() (err error) {
	if e.consoled != nil {
		err = e.consoled()
	}
	e.relay.end()
	if e.stderr != nil {
		e.stderr.End()
	}
	e.copying.Wait()
	return err
}

// readPid reads the id of a process that the runtime wrote.
func readPid(file string) (int, error) {
	text, err := os.ReadFile(file)
	if err != nil {
		return 0, err
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(text)))
	if err == nil && pid <= 1 {
		err = fmt.Errorf("process %d: %w", pid, errdefs.ErrUnknown)
	}
	return pid, err
}

// end is End for a filter that may have nowhere to write to.
func (f *faultFilter) end(started bool) error {
	if f.w == nil {
		return nil
	}
	return f.End(started)
}

// crunCwdFault is how crun begins to say that a process cannot be in its working directory.
const crunCwdFault = "chdir `"

func exitCode(status unix.WaitStatus) int {
	if status.Signaled() {
		return 128 + int(status.Signal())
	}
	return status.ExitStatus()
}

func removeAll(paths ...string) (err error) {
	for _, path := range paths {
		if removeErr := os.Remove(path); !errors.Is(removeErr, os.ErrNotExist) {
			err = errors.Join(err, removeErr)
		}
	}
	return err
}

// execProcess is the container's process with what spec says instead.
func (p *Process) execProcess(spec ExecSpec) (*specs.Process, error) {
	process := *p.x.process
	process.Args, process.Terminal, process.ConsoleSize = spec.Args, spec.Terminal, nil
	if spec.Terminal && spec.Stdin != nil {
		if size, err := unix.IoctlGetWinsize(int(spec.Stdin.Fd()), unix.TIOCGWINSZ); err == nil && size.Row > 0 && size.Col > 0 {
			process.ConsoleSize = &specs.Box{Height: uint(size.Row), Width: uint(size.Col)} // runc would tell it a little later
		}
	}
	if spec.Cwd != "" {
		process.Cwd = spec.Cwd
	}
	process.Env = slices.Clone(process.Env)
	if spec.User != "" {
		var who account
		err := p.x.inside(func() (err error) {
			who, err = findAccount(p.x.stubs.root, spec.User)
			return err
		})
		if fault, ok := errors.AsType[*StartError](err); ok {
			fault.Code = CodeNotExecutable // as docker has it
		}
		if err != nil {
			return nil, err
		}
		process.User = who.user
		process.Env = slices.DeleteFunc(process.Env, func(e string) bool { return strings.HasPrefix(e, "HOME=") })
		process.Env = environment(process.Env, who.home)
	}
	for _, e := range spec.Env {
		key, _, _ := strings.Cut(e, "=")
		process.Env = append(slices.DeleteFunc(process.Env, func(old string) bool { return strings.HasPrefix(old, key+"=") }), e)
	}
	if spec.Privileged {
		all, err := ownCapabilities()
		if err != nil {
			return nil, err
		}
		process.Capabilities = &specs.LinuxCapabilities{Bounding: all, Effective: all, Permitted: all}
	}
	return &process, nil
}
