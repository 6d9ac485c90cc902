package userns

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"os/signal"
	"os/user"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"strake/internal/flock"
)

// gate is the descriptor on which the program waits for its ids.
const gate = 3

// gateVariable says that it is to wait; where it has joined a namespace, which process it dies with.
const (
	gateVariable = "STRAKE_USERNS_GATE"
	waiting      = "1"
)

// NewPlan looks at the machine. A file that cannot be read is an error; what is not there is the Plan's Missing.
func NewPlan() (p Plan, err error) {
	for i, name := range []string{"newuidmap", "newgidmap"} {
		path, lookErr := exec.LookPath(name)
		if lookErr != nil {
			p.Missing = name + " is not in PATH: install the package uidmap"
			return p, nil //nolint:nilerr // which is no failure
		}
		p.helpers[i] = path
	}
	names := []string{strconv.Itoa(UID())}
	if who, err := user.LookupId(names[0]); err == nil {
		names = append(names, who.Username)
	}
	if p.Users, err = readRanges("/etc/subuid", names); err != nil {
		return Plan{}, err
	}
	if p.Groups, err = readRanges("/etc/subgid", names); err != nil {
		return Plan{}, err
	}
	if len(p.Users) == 0 || len(p.Groups) == 0 {
		p.Users, p.Groups = nil, nil
		p.Missing = fmt.Sprintf("/etc/subuid or /etc/subgid has no range for %s: usermod --add-subuids 100000-165535 --add-subgids 100000-165535 %[1]s",
			names[len(names)-1])
	}
	return p, nil
}

// readRanges reads the lines NAME:FIRST:COUNT of a file that are for one of names.
func readRanges(path string, names []string) (list []Range, err error) {
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }() // only read
	for lines := bufio.NewScanner(f); ; {
		if !lines.Scan() {
			return list, lines.Err()
		}
		fields := strings.Split(strings.TrimSpace(lines.Text()), ":")
		if len(fields) != 3 || !slices.Contains(names, fields[0]) {
			continue
		}
		first, err := strconv.Atoi(fields[1])
		n, countErr := strconv.Atoi(fields[2])
		if err = errors.Join(err, countErr); err != nil || first <= 0 || n <= 0 {
			return nil, fmt.Errorf("%s: %q is no range of ids: %w", path, lines.Text(), errdefs.ErrInvalidArgument)
		}
		list = append(list, Range{first, n})
	}
}

// Wait waits until the process has its ids. To be called first of all. io.EOF says that there are none: who ran the program says why.
func Wait() error {
	parent := os.Getenv(gateVariable)
	if parent == "" {
		return nil
	}
	f := os.NewFile(gate, "gate")
	var err error
	if parent != waiting {
		err = dieWith(parent)
	} else {
		_, err = f.Read(make([]byte, 1))
	}
	if err = errors.Join(err, f.Close(), os.Unsetenv(gateVariable)); err != nil {
		return fmt.Errorf("wait for the ids of the user namespace: %w", err)
	}
	return nil
}

// Enter runs the program again with args in a user namespace as p says, its environment the same, and returns its exit code, 128 + n if
// signal n ended it. The namespace is the one that the processes of dir are in (Stay), else a new one, which dir names until the
// program ends; with dir "" it is a new one that nobody joins. Signals that end the process are passed on; it dies with this process.
// Where the machine does not let ordinary users make namespaces the error is errdefs.ErrPermissionDenied.
func (p Plan) Enter(ctx context.Context, dir string, args []string, stdin io.Reader, stdout, stderr io.Writer) (code int, err error) {
	if err := ctx.Err(); err != nil {
		return 0, context.Cause(ctx)
	}
	runtime.LockOSThread() // whose death is the signal
	defer runtime.UnlockOSThread()
	cmd := &exec.Cmd{Stdin: stdin, Stdout: stdout, Stderr: stderr} // the signal that cancels ctx is passed on
	signals := make(chan os.Signal, 8)
	signal.Notify(signals, unix.SIGINT, unix.SIGTERM, unix.SIGHUP, unix.SIGQUIT)
	defer signal.Stop(signals)
	leave, err := p.start(ctx, cmd, dir, args)
	if err != nil {
		return 0, err
	}
	done := make(chan struct{})
	go forward(cmd.Process, signals, done)
	err = cmd.Wait()
	close(done)
	if err = errors.Join(ended(err), leave()); err != nil {
		return 0, err
	}
	if status, ok := cmd.ProcessState.Sys().(syscall.WaitStatus); ok && status.Signaled() {
		return 128 + int(status.Signal()), nil
	}
	return cmd.ProcessState.ExitCode(), nil
}

// start starts cmd in the namespace of dir or in a new one, one process at a time.
func (p Plan) start(ctx context.Context, cmd *exec.Cmd, dir string, args []string) (leave func() error, err error) {
	none := func() error { return nil }
	if dir == "" {
		return none, p.startNew(ctx, cmd, args)
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("make a user namespace: %w", err)
	}
	lock, err := flock.Open(ctx, dir, flock.Exclusive)
	if err != nil {
		return nil, fmt.Errorf("make a user namespace: %w", err)
	}
	if lock == nil { // removed meanwhile
		return none, p.startNew(ctx, cmd, args)
	}
	defer func() { err = errors.Join(err, lock.Close()) }()
	joined, err := startJoined(cmd, dir, args)
	if err != nil || joined {
		return none, err
	}
	if err := p.startNew(ctx, cmd, args); err != nil {
		return nil, err
	}
	if leave, err = stay(dir, cmd.Process.Pid); err != nil {
		_ = cmd.Process.Kill() // it may have ended
		return nil, errors.Join(err, ended(cmd.Wait()))
	}
	return leave, nil
}

// startNew starts the program again in a namespace of its own.
func (p Plan) startNew(ctx context.Context, cmd *exec.Cmd, args []string) error {
	wait, ready, err := os.Pipe()
	if err != nil {
		return fmt.Errorf("make a user namespace: %w", err)
	}
	defer func() { _ = ready.Close() }()
	cmd.Path, cmd.Args = "/proc/self/exe", append([]string{os.Args[0]}, args...)
	cmd.Env = environment(p.IDs(), waiting)
	cmd.ExtraFiles = []*os.File{wait}
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWUSER, Pdeathsig: syscall.SIGKILL, AmbientCaps: capabilities()}
	if len(p.Users) == 0 {
		cmd.SysProcAttr.UidMappings = []syscall.SysProcIDMap{{HostID: os.Getuid(), Size: 1}}
		cmd.SysProcAttr.GidMappings = []syscall.SysProcIDMap{{HostID: os.Getgid(), Size: 1}}
	}
	if err := errors.Join(cmd.Start(), wait.Close()); err != nil {
		return notAllowed(err)
	}
	if err := p.admit(ctx, cmd.Process.Pid, ready); err != nil {
		_ = ready.Close() // it ends
		return errors.Join(err, ended(cmd.Wait()))
	}
	return nil
}

// environment is the process's, with what the program is to know that has so many ids.
func environment(ids int, gate string) []string {
	return append(os.Environ(), fmt.Sprintf("%s=%d:%d", variable, ids, os.Getuid()), gateVariable+"="+gate)
}

// ended drops an error that only tells the exit code.
func ended(err error) error {
	if _, ok := errors.AsType[*exec.ExitError](err); ok {
		return nil
	}
	return err
}

// notAllowed says what a machine that refuses wants.
func notAllowed(err error) error {
	if errors.Is(err, unix.EPERM) || errors.Is(err, unix.EACCES) || errors.Is(err, unix.ENOSPC) {
		return fmt.Errorf("make a user namespace: %w: %w", errdefs.ErrPermissionDenied, err)
	}
	return fmt.Errorf("make a user namespace: %w", err)
}

// admit gives the process its ids, and opens the gate.
func (p Plan) admit(ctx context.Context, pid int, ready io.Writer) error {
	own := [2]int{os.Getuid(), os.Getgid()}
	for i, ranges := range [2][]Range{p.Users, p.Groups} {
		if len(ranges) == 0 {
			continue // the kernel was told of the one id
		}
		args := []string{strconv.Itoa(pid), "0", strconv.Itoa(own[i]), "1"}
		next := 1
		for _, r := range ranges {
			args = append(args, strconv.Itoa(next), strconv.Itoa(r.First), strconv.Itoa(r.Count))
			next += r.Count
		}
		out, err := exec.CommandContext(ctx, p.helpers[i], args...).CombinedOutput()
		if err != nil {
			return fmt.Errorf("%s %s: %w: %s", p.helpers[i], strings.Join(args, " "), err, strings.TrimSpace(string(out)))
		}
	}
	_, err := ready.Write([]byte{1})
	return err
}

// forward passes signals on until done. Those that a terminal sends reach the process without this.
func forward(process *os.Process, signals <-chan os.Signal, done <-chan struct{}) {
	for {
		select {
		case <-done:
			return
		case s := <-signals:
			if (s == unix.SIGINT || s == unix.SIGQUIT) && inForeground() {
				continue
			}
			_ = process.Signal(s) // it may have ended
		}
	}
}

// inForeground reports whether the process gets the signals of its terminal.
func inForeground() bool {
	tty, err := os.Open("/dev/tty")
	if err != nil {
		return false
	}
	defer func() { _ = tty.Close() }()
	group, err := unix.IoctlGetInt(int(tty.Fd()), unix.TIOCGPGRP)
	return err == nil && group == unix.Getpgrp()
}

// capabilities are all that the kernel knows: the program keeps them over the execve(2) that finds it without an id.
func capabilities() []uintptr {
	last := uintptr(unix.CAP_LAST_CAP)
	if text, err := os.ReadFile("/proc/sys/kernel/cap_last_cap"); err == nil {
		if n, err := strconv.Atoi(strings.TrimSpace(string(text))); err == nil {
			last = uintptr(n)
		}
	}
	var all []uintptr
	for c := range last + 1 {
		all = append(all, c)
	}
	return all
}
