package executor

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/containerd/errdefs"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// A Process is that of a container which Start started. Its methods may be called from any goroutine.
type Process struct {
	x       *run
	pid     int
	console *os.File // the terminal's other side; nil where it has none

	mu       sync.Mutex // held while processes must not be reaped
	reaped   bool
	execs    int          // so far, to name their files
	children map[int]bool // others that somebody waits for

	adopting atomic.Int32 // runtimes that are about to leave us a process that somebody will wait for
}

// Start starts the process of spec and does not wait for it; the runtime is gone when it returns. The streams of spec are nil or
// *os.File, which the process gets as they are; with Terminal it gets a terminal, whose other side is Console. Signals are
// ignored. What a Start that was killed left in the bundle is removed first. The caller calls Wait. It makes this process the one that orphans of its descendants go to.
func (r *Runc) Start(ctx context.Context, spec Spec) (p *Process, err error) {
	own, spec, err := r.begin(ctx, spec)
	if err != nil {
		return nil, err
	}
	if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
		return nil, fmt.Errorf("become the parent of a container: %w", err)
	}
	x := &run{runc: r, spec: spec, owner: own, log: filepath.Join(spec.Bundle, "runtime.log")}
	p = &Process{x: x, children: map[int]bool{}}
	defer func() {
		if err != nil {
			x.killed = true
			err = errors.Join(err, x.cleanUp(ctx))
			if p.console != nil {
				err = errors.Join(err, p.console.Close())
			}
		}
	}()
	if !spec.needsCgroups() && r.hasNurseries() {
		x.alone, _ = newNursery(ctx, cgroupName(own.dir, spec.ID)) // or the runtime makes them, or says why it cannot
	}
	if err := x.inside(func() error { return errors.Join(x.emptyBundle(), x.prepare(ctx)) }); err != nil {
		return p, err
	}
	return p, p.start()
}

// start runs the runtime.
func (p *Process) start() (err error) {
	x := p.x
	args := append(x.runtimeArgs(x.log, x.runc.cgroups != cgroupNone && x.alone == nil), "run", "--detach", "--pid-file", x.file(pidFile), "--bundle", x.spec.Bundle)
	consoled := func() error { return nil }
	if x.spec.Terminal {
		l, err := listenConsole(x.spec.Bundle, consoleSocket, func(console *os.File) { p.console = console })
		if err != nil {
			return err
		}
		consoled = sync.OnceValue(l.close)
		defer func() { _ = consoled() }() // where the runtime failed it may have sent nothing
		args = append(args, l.args()...)
	}
	if x.spec.NS == nil { // the parent of the runtime, for its death signal, is a thread
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
	}
	cmd := x.runtime(append(args, x.spec.ID)...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL, Setpgid: true}
	var said bytes.Buffer
	if x.spec.Terminal {
		cmd.Stderr = &said
		cmd.WaitDelay = time.Second
	} else if err := setStreams(cmd, x.spec.Stdin, x.spec.Stdout, x.spec.Stderr); err != nil {
		return err
	}
	if err := x.inside(func() error { return unprotected(func() error { return x.start(cmd) }) }); err != nil {
		return &StartError{Code: CodeFailed, Message: fmt.Sprintf("%s: %v", x.runc.path, err), Err: err}
	}
	if err := cmd.Wait(); err != nil {
		return x.startFault(err, said.String())
	}
	if err := consoled(); err != nil {
		return err
	}
	p.pid, err = readPid(x.file(pidFile))
	if err == nil && x.alone != nil {
		err = tellCgroup(x.owner.dir, x.spec.ID)
	}
	if err != nil {
		return fmt.Errorf("start container: what the runtime says of its process: %w", err)
	}
	p.adopt()
	return nil
}

// adopt waits until this process is the parent of the container's: crun starts it by one more process, which has told that all is
// well and is about to end. What has ended is reaped.
func (p *Process) adopt() {
	if parent := parentOf(p.pid); parent > 1 && parent != os.Getpid() {
		_, _ = unix.Wait4(parent, nil, 0, nil) // it may have ended
	}
	p.reapOrphans()
}

// reapOrphans reaps the children of this process that have ended and that nobody waits for: what the runtime leaves, and the orphans of
// a container without a process namespace of its own. As long as one is there the namespace of a container does not end.
func (p *Process) reapOrphans() {
	for _, pid := range childrenOf(os.Getpid()) {
		p.reap(pid)
	}
}

func (p *Process) reap(pid int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if pid != p.pid && !p.children[pid] && p.adopting.Load() == 0 && !p.x.runc.watches(pid) {
		_, _ = unix.Wait4(pid, nil, unix.WNOHANG, nil) // it may live
	}
}

// run starts a command by start in the container's mount namespace and waits for it; started is called between, if it is not nil.
func (p *Process) run(cmd *exec.Cmd, start func() error, started func()) error {
	p.mu.Lock()
	err := p.x.inside(func() error { return unprotected(start) })
	if err == nil {
		p.children[cmd.Process.Pid] = true
	}
	p.mu.Unlock()
	if err != nil {
		return err
	}
	if started != nil {
		started()
	}
	err = cmd.Wait()
	p.mu.Lock()
	delete(p.children, cmd.Process.Pid)
	p.mu.Unlock()
	p.reapOrphans()
	return err
}

// parentOf returns the parent of a process, 0 where there is no such process.
func parentOf(pid int) int {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0
	}
	_, rest, _ := strings.Cut(string(text[bytes.LastIndexByte(text, ')')+1:]), " ")
	fields := strings.Fields(rest) // state, parent...
	if len(fields) < 2 {
		return 0
	}
	parent, err := strconv.Atoi(fields[1])
	if err != nil {
		return 0
	}
	return parent
}

// runtime is a command of the runtime.
func (x *run) runtime(args ...string) *exec.Cmd {
	cmd := exec.Command(x.runc.path, args...) //nolint:noctx // a cancelled context ends the container first
	if x.owner.exe != nil {                   // by the name of the program that it is a copy of
		cmd.Path = x.owner.exe.Name()
	}
	return cmd
}

func (x *run) file(name string) string { return filepath.Join(x.spec.Bundle, name) }

// setStreams gives a command the streams of a Spec, of which those that are set are files.
func setStreams(cmd *exec.Cmd, stdin, stdout, stderr any) error {
	for _, s := range []any{stdin, stdout, stderr} {
		if _, isFile := s.(*os.File); s != nil && !isFile {
			return fmt.Errorf("start container: a stream is a %T: %w", s, errdefs.ErrInvalidArgument)
		}
	}
	if f, ok := stdin.(*os.File); ok && f != nil {
		cmd.Stdin = f
	}
	if f, ok := stdout.(*os.File); ok && f != nil {
		cmd.Stdout = f
	}
	if f, ok := stderr.(*os.File); ok && f != nil {
		cmd.Stderr = f
	}
	return nil
}

// startFault says why the runtime failed.
func (x *run) startFault(err error, said string) error {
	message, readErr := readFault(x.log)
	if readErr != nil {
		return errors.Join(err, readErr)
	}
	if message = cmp.Or(message, strings.TrimSpace(said)); message == "" {
		return &StartError{Code: CodeFailed, Message: fmt.Sprintf("%s: %v", x.runc.path, err), Err: err}
	}
	return newStartError(commandFault(message, x.spec.Args[0]))
}

// Pid is the process's id on this machine.
func (p *Process) Pid() int { return p.pid }

// Console is the other side of the process's terminal, nil where it has none. Wait does not close it.
func (p *Process) Console() *os.File { return p.console }

// Wait waits for the end of the process, which takes all others of its container with it, and removes what Start made. The
// exit is told even where something could not be removed. To be called once.
func (p *Process) Wait(ctx context.Context) (exit Exit, err error) {
	ended, done := make(chan os.Signal, 1), make(chan struct{})
	signal.Notify(ended, unix.SIGCHLD)
	defer signal.Stop(ended)
	defer close(done)
	go func() {
		for {
			select {
			case <-done:
				return
			case <-ended:
				p.reapOrphans()
			}
		}
	}()
	if err := awaitChild(p.pid); err != nil {
		return Exit{Code: CodeUnknown}, fmt.Errorf("wait for container %s: %w", p.x.spec.ID, err)
	}
	exit.OOMKilled = p.x.oomKilled()
	p.mu.Lock()
	var status unix.WaitStatus
	_, err = unix.Wait4(p.pid, &status, 0, nil)
	p.reaped = true
	p.mu.Unlock()
	if err != nil {
		return Exit{Code: CodeUnknown}, fmt.Errorf("wait for container %s: %w", p.x.spec.ID, err)
	}
	exit.Code = exitCode(status)
	return exit, p.x.remove(ctx)
}

// awaitChild waits until a process, which is a child of this one or about to become one, has ended, and does not reap it.
func awaitChild(pid int) error {
	for {
		err := unix.Waitid(unix.P_PID, pid, nil, unix.WEXITED|unix.WNOWAIT, nil)
		if err == nil {
			return nil
		}
		if errors.Is(err, unix.ECHILD) && parentOf(pid) > 0 { // its parent is about to end
			time.Sleep(time.Millisecond)
		} else if !errors.Is(err, unix.EINTR) {
			return err
		}
	}
}

// remove is cleanUp for a container whose processes have ended: the runtime is not needed for it.
func (x *run) remove(ctx context.Context) error {
	failed := []error{x.inside(x.stubs.remove), x.stubs.root.Close(), x.inside(x.emptyBundle)}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), destroyTimeout)
	defer cancel()
	left := os.RemoveAll(filepath.Join(x.owner.dir, x.spec.ID))
	if x.alone != nil {
		left = errors.Join(left, x.alone.close(ctx))
	} else {
		left = errors.Join(left, removeCgroups(ctx, x.cgroups()))
	}
	return errors.Join(append(failed, x.owner.cleaned(left))...)
}

// Signal sends a signal to the process. It fails with errdefs.ErrNotFound when the process has ended.
func (p *Process) Signal(s syscall.Signal) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.reaped {
		return fmt.Errorf("signal container %s: it has ended: %w", p.x.spec.ID, errdefs.ErrNotFound)
	}
	if err := unix.Kill(p.pid, s); err != nil {
		return fmt.Errorf("signal container %s: %w", p.x.spec.ID, err)
	}
	return nil
}

// Resize sets the size of the process's terminal.
func (p *Process) Resize(size Size) error {
	if p.console == nil {
		return fmt.Errorf("resize container %s: it has no terminal: %w", p.x.spec.ID, errdefs.ErrFailedPrecondition)
	}
	return SetSize(p.console, size)
}

// SetSize sets the size of a terminal.
func SetSize(terminal *os.File, size Size) error {
	conn, err := terminal.SyscallConn()
	if err != nil {
		return err
	}
	var setErr error
	err = conn.Control(func(fd uintptr) {
		setErr = unix.IoctlSetWinsize(int(fd), unix.TIOCSWINSZ, &unix.Winsize{Row: size.Height, Col: size.Width})
	})
	return errors.Join(err, setErr)
}

// Pause stops all processes of the container, Resume lets them go on. Without cgroups it fails with errdefs.ErrFailedPrecondition.
func (p *Process) Pause(context.Context) error {
	if err := p.x.runc.checkCgroups("pausing a container"); err != nil {
		return err
	}
	return p.command("pause", p.x.spec.ID)
}

// Resume is the opposite of Pause.
func (p *Process) Resume(context.Context) error { return p.command("resume", p.x.spec.ID) }

// Update changes the container's limits.
func (p *Process) Update(resources *specs.LinuxResources) (err error) {
	if err := p.x.runc.checkCgroups("changing the limits of a container that runs"); err != nil {
		return err
	}
	data, err := json.Marshal(resources)
	if err != nil {
		return fmt.Errorf("update: %w", err)
	}
	p.mu.Lock()
	p.execs++
	file := p.x.file(fmt.Sprintf("update-%d", p.execs))
	p.mu.Unlock()
	if err := writeScratch(file, data, 0o600); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.Remove(file)) }()
	return p.command("update", "--resources", file, p.x.spec.ID)
}

// command runs the runtime on the container.
func (p *Process) command(args ...string) error {
	cmd := p.x.runtime(append([]string{"--root", p.x.owner.dir}, args...)...)
	var said bytes.Buffer
	cmd.Stderr = &said
	if err := p.run(cmd, cmd.Start, nil); err != nil {
		return fmt.Errorf("%s: %w: %s", args[0], err, strings.TrimSpace(said.String()))
	}
	return nil
}

// oomKilled reports whether the kernel killed a process of the container for want of memory.
func (x *run) oomKilled() bool {
	dir := filepath.Join(x.runc.place.inner(x.spec.CgroupParent), cgroupName(x.owner.dir, x.spec.ID))
	return countsKill(cgroupRoot+"/memory"+dir+"/memory.oom_control") || countsKill(cgroupRoot+dir+"/memory.events")
}

// countsKill reports whether a file of a cgroup, which may not be there, counts a process that the kernel killed for want of memory.
func countsKill(file string) bool {
	text, err := os.ReadFile(file)
	if err != nil {
		return false
	}
	for line := range strings.Lines(string(text)) {
		if n, ok := strings.CutPrefix(strings.TrimSpace(line), "oom_kill "); ok && n != "0" {
			return true
		}
	}
	return false
}

// KeepFiles keeps files that this process was started with, as a lock of the script that calls it, from the processes that it starts:
// those that outlive it would hold them.
func KeepFiles() error {
	err := unix.CloseRange(3, math.MaxUint32, unix.CLOSE_RANGE_CLOEXEC)
	if errors.Is(err, unix.ENOSYS) || errors.Is(err, unix.EINVAL) {
		return nil // before Linux 5.11
	}
	return err
}
