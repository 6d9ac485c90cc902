package executor

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/containerd/errdefs"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"strake/internal/mount"
	"strake/internal/userns"
)

// RuncOptions are the settings of a Runc.
type RuncOptions struct {
	Path     string // of runc or crun; "" = what FindRuntime finds
	StateDir string // where the runtimes of all processes of a store keep their state; "" = one for the user in /run or the temporary directory
}

// Runc is an Executor by runc, or by crun, which has the same command line.
type Runc struct {
	path     string
	stateDir string
	isCrun   bool
	cgroups  cgroupMode  // cgroupNone where they cannot be written to
	place    cgroupPlace // where containers have theirs, if they are of version 2 alone
	hybrid   bool        // cgroups are mounted in the hybrid way

	mu    sync.Mutex
	owner *owner           // made by the first Run
	ns    *mount.Namespace // for the runtime, where the caller's Spec has none and it needs one

	filterMu sync.Mutex // held while a filter is made
	filters  map[string][]byte
}

var _ Executor = (*Runc)(nil)

// NewRunc returns an Executor. It runs and writes nothing yet. The caller closes it.
func NewRunc(o RuncOptions) (*Runc, error) {
	if o.Path == "" {
		path, err := FindRuntime()
		if err != nil {
			return nil, err
		}
		o.Path = path
	}
	if o.StateDir == "" {
		o.StateDir = defaultStateDir()
	}
	r := &Runc{
		path: o.Path, stateDir: o.StateDir, isCrun: strings.Contains(filepath.Base(o.Path), "crun"), filters: map[string][]byte{},
	}
	r.cgroups, r.place = usableCgroups()
	r.hybrid = currentCgroups() == cgroupHybrid
	return r, nil
}

// defaultStateDir returns a directory that does not survive a reboot, as containers do not.
func defaultStateDir() string {
	if userns.IsRoot() {
		return "/run/strake/runc"
	}
	if dir := os.Getenv("XDG_RUNTIME_DIR"); dir != "" {
		return filepath.Join(dir, "strake/runc")
	}
	return filepath.Join(os.TempDir(), fmt.Sprintf("strake-%d/runc", userns.UID()))
}

// controllersFile says which controllers cgroups of version 2 have where version 1 is mounted too.
const controllersFile = cgroupRoot + "/unified/cgroup.controllers"

// hidesControllers reports whether the runtime is to see that file empty: crun refuses to run where both versions have
// controllers, of which it would use those of version 1.
func (r *Runc) hidesControllers() bool { return r.isCrun && r.hybrid }

// hideControllers hides it in the calling thread's mount namespace.
func hideControllers() error {
	text, err := os.ReadFile(controllersFile)
	if err != nil {
		return fmt.Errorf("look at the cgroups: %w", err)
	}
	if len(text) == 0 {
		return nil
	}
	return mount.Bind(os.DevNull, controllersFile, false)
}

// Close gives up the state directory. No Run may be under way.
func (r *Runc) Close() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.owner == nil {
		return nil
	}
	err := r.owner.close(context.Background())
	if r.ns != nil {
		err = errors.Join(err, r.ns.Close())
	}
	r.owner, r.ns = nil, nil
	return err
}

// Run implements Executor.
func (r *Runc) Run(ctx context.Context, spec Spec) (int, error) {
	if err := ctx.Err(); err != nil {
		return 0, context.Cause(ctx)
	}
	own, spec, err := r.begin(ctx, spec)
	if err != nil {
		return 0, err
	}
	run := &run{runc: r, spec: spec, owner: own, log: filepath.Join(spec.Bundle, "runtime.log")}
	if spec.AsStep && !spec.needsCgroups() && spec.Isolation.CgroupNamespace == "" {
		if n := own.shared(ctx, r); n != nil {
			run.cgroup = filepath.Join(n.devices, cgroupName(own.dir, spec.ID))
		}
	}
	run.memory = watchMemory(run)
	if err := run.inside(func() error { return run.prepare(ctx) }); err != nil {
		return 0, errors.Join(err, run.cleanUp(ctx))
	}
	code, err := run.execute(ctx)
	if run.memory != nil && run.memory.verdict(code != 0) && err == nil {
		err = unix.ENOMEM
	}
	if cleanErr := run.cleanUp(ctx); cleanErr != nil {
		err = errors.Join(err, cleanErr)
	}
	return code, err
}

// Ready does what does not depend on what is to run, so that Start and Run find it done.
func (r *Runc) Ready(ctx context.Context) error {
	_, err := r.own(ctx)
	return err
}

// begin completes a Spec, and returns who is to own its container.
func (r *Runc) begin(ctx context.Context, spec Spec) (*owner, Spec, error) {
	spec, err := complete(spec)
	if err != nil {
		return nil, spec, err
	}
	own, err := r.own(ctx)
	if err == nil && spec.NS == nil {
		spec.NS, err = r.namespace(ctx)
	}
	return own, spec, err
}

// namespace is where the runtime runs if the caller has no namespace for it; nil is the host's.
func (r *Runc) namespace(ctx context.Context) (ns *mount.Namespace, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.ns == nil && r.hidesControllers() {
		r.ns, err = mount.New(context.WithoutCancel(ctx))
	}
	return r.ns, err
}

// own returns the owner of the containers of r.
func (r *Runc) own(ctx context.Context) (*owner, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.owner == nil {
		_ = r.Reap(ctx) // no matter for this Run; the next process tries again
		if err := r.place.settle(); err != nil {
			return nil, err
		}
		own, err := newOwner(ctx, r.path, r.stateDir)
		if err != nil {
			return nil, err
		}
		own.seal(r)
		r.owner = own
	}
	return r.owner, nil
}

// validID is what both the runtimes and the watchdog's shell take for a name.
func validID(id string) bool {
	const letters = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789"
	return id != "" && len(id) <= 128 && strings.Contains(letters, id[:1]) && strings.Trim(id, letters+"_+.-") == ""
}

// complete fills in the defaults of a Spec and refuses an impossible one.
func complete(s Spec) (Spec, error) {
	if s.ID == "" {
		s.ID = strings.ToLower(rand.Text())
	}
	if s.Network == "" {
		s.Network = NetworkNone
	}
	if s.Cwd == "" {
		s.Cwd = "/"
	}
	if s.Hostname == "" {
		s.Hostname = s.ID[:min(12, len(s.ID))]
		if s.Network == NetworkHost {
			name, err := os.Hostname()
			if err != nil {
				return s, fmt.Errorf("name the container as its host: %w", err)
			}
			s.Hostname = name
		}
	}
	bad := ""
	switch {
	case !validID(s.ID):
		bad = fmt.Sprintf("ID %q", s.ID)
	case s.Network != NetworkNone && s.Network != NetworkHost:
		bad = fmt.Sprintf("network %q", s.Network)
	case len(s.Args) == 0 || s.Args[0] == "":
		bad = "empty command"
	case !filepath.IsAbs(s.Bundle) || !filepath.IsAbs(s.Rootfs):
		bad = fmt.Sprintf("bundle %q or root file system %q: not an absolute path", s.Bundle, s.Rootfs)
	case strings.ContainsRune(strings.Join(s.Env, ""), 0) || strings.ContainsRune(strings.Join(s.Args, ""), 0):
		bad = "zero byte in the command or its environment"
	}
	if bad != "" {
		return s, fmt.Errorf("run a container: %s: %w", bad, errdefs.ErrInvalidArgument)
	}
	s.Rootfs = filepath.Clean(s.Rootfs)
	return s, s.addInit()
}

// A run is one run of a container.
type run struct {
	runc   *Runc
	spec   Spec
	owner  *owner
	log    string // file to which the runtime tells what went wrong
	stubs  stubMaker
	cgroup string   // made for the container, in its owner's nursery; "" = it has more than that
	alone  *nursery // the container's own; nil = the runtime makes its cgroups
	memory *memoryWatch
	killed bool // the runtime was, or failed: it may not have cleaned up

	process *specs.Process // as the runtime is told
}

// inside calls fn where the root file system is mounted.
func (x *run) inside(fn func() error) error {
	if x.spec.NS == nil {
		return fn()
	}
	return x.spec.NS.Do(fn)
}

// prepare fills the bundle and makes the stubs.
func (x *run) prepare(ctx context.Context) error {
	if x.runc.hidesControllers() {
		if err := hideControllers(); err != nil {
			return err
		}
	}
	if err := os.MkdirAll(x.spec.Bundle, 0o700); err != nil {
		return fmt.Errorf("make the bundle: %w", err)
	}
	root, err := os.OpenFile(x.spec.Rootfs, unix.O_PATH|unix.O_DIRECTORY, 0)
	if err != nil {
		return fmt.Errorf("open the root file system: %w", err)
	}
	x.stubs.root = root
	who, err := findAccount(root, x.spec.User, x.spec.Isolation.Groups...)
	if err != nil {
		return err
	}
	if err := errors.Join(checkPlaces(root), checkCwd(x.spec.Rootfs, x.spec.Cwd)); err != nil {
		return err
	}
	netFiles, err := writeNetFiles(x.spec)
	if err != nil {
		return err
	}
	ofDevices, err := deviceMounts(x.spec.Devices)
	if err != nil {
		return err
	}
	x.spec.Mounts = slices.Concat(x.spec.Mounts, ofDevices)
	defaults := defaultMounts(x.runc.cgroups != cgroupNone, x.spec.Network)
	if x.spec.Isolation.NoShm {
		defaults = slices.DeleteFunc(defaults, func(m Mount) bool { return m.Target == "/dev/shm" })
	}
	mounts, err := allMounts(append(defaults, netFiles...), x.spec.Mounts)
	if err != nil {
		return err
	}
	for _, m := range x.spec.Mounts {
		if err := checkTarget(x.spec.Rootfs, m, mounts); err != nil {
			return err
		}
	}
	if err := errors.Join(x.setModes(mounts), x.makeStubs(mounts)); err != nil {
		return err
	}
	config, err := x.newConfig(who, mounts)
	if err != nil {
		return err
	}
	if err := inject(config, x.spec.Devices); err != nil {
		return err
	}
	x.process = config.Process
	x.setFilter(ctx, config)
	return writeConfig(x.spec.Bundle, config)
}

// makeStubs makes the missing targets of mounts that lie in the root file system itself, and not in another mount.
func (x *run) makeStubs(mounts []Mount) error {
	for _, m := range mounts {
		if nested(m, mounts) {
			continue
		}
		isDir, err := m.isDir()
		if err != nil {
			return err
		}
		made := len(x.stubs.stubs)
		if err := x.stubs.make(m.Target, isDir); err != nil && !errors.Is(err, unix.EROFS) {
			return err
		}
		if m.Stays || x.spec.AsStep && (m.Target == "/dev" || m.Target == "/proc" || m.Target == "/sys") {
			x.stubs.stubs = x.stubs.stubs[:made]
		}
	}
	return nil
}

// nested reports whether a mount lies in another one.
func nested(m Mount, mounts []Mount) bool {
	return slices.ContainsFunc(mounts, func(other Mount) bool { return strings.HasPrefix(m.Target, other.Target+"/") })
}

// setModes gives each tmpfs without a mode the one of the directory that it is mounted on, and 1777 where there is none, as runc does
// that finds no stub.
func (x *run) setModes(mounts []Mount) error {
	for i, m := range mounts {
		hasMode := slices.ContainsFunc(m.Options, func(o string) bool { return strings.HasPrefix(o, "mode=") })
		if m.Type != "tmpfs" || hasMode || nested(m, mounts) {
			continue
		}
		mode := uint32(0o1777)
		dir, err := openIn(x.stubs.root, strings.TrimPrefix(m.Target, "/"), unix.O_PATH)
		if err == nil {
			var st unix.Stat_t
			err = errors.Join(unix.Fstat(int(dir.Fd()), &st), dir.Close())
			mode = st.Mode & 0o7777
		}
		if err != nil && !errors.Is(err, unix.ENOENT) {
			return fmt.Errorf("mount at %s: %w", m.Target, err)
		}
		mounts[i].Options = append(slices.Clone(m.Options), fmt.Sprintf("mode=%04o", mode))
	}
	return nil
}

// cleanUp removes what prepare made and what the runtime left, even if ctx is cancelled.
func (x *run) cleanUp(ctx context.Context) error {
	var failed []error
	if x.stubs.root != nil {
		failed = append(failed, x.inside(x.stubs.remove), x.stubs.root.Close())
	}
	failed = append(failed, x.inside(x.emptyBundle))
	if x.killed || exists(filepath.Join(x.owner.dir, x.spec.ID)) {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), destroyTimeout)
		defer cancel()
		failed = append(failed, x.owner.cleaned(x.destroy(ctx, x.spec.ID, x.cgroups())))
	}
	if x.cgroup != "" {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), destroyTimeout)
		defer cancel()
		failed = append(failed, removeCgroup(ctx, x.cgroup))
	}
	if x.alone != nil {
		failed = append(failed, x.owner.cleaned(x.alone.close(ctx)))
	}
	if x.memory != nil {
		failed = append(failed, x.owner.cleaned(x.memory.close(ctx)))
	}
	return errors.Join(failed...)
}

// emptyBundle removes what prepare and the runtime put into the bundle.
func (x *run) emptyBundle() error {
	var failed []error
	for _, name := range []string{"config.json", "hosts", "hostname", "resolv.conf", "runtime.log", pidFile, consoleSocket} {
		if err := os.Remove(filepath.Join(x.spec.Bundle, name)); err != nil && !errors.Is(err, os.ErrNotExist) {
			failed = append(failed, err)
		}
	}
	return errors.Join(failed...)
}

// destroyTimeout bounds how long the runtime may take to remove a container whose processes have been killed.
const destroyTimeout = 20 * time.Second

// runtimeArgs begins a command line of the runtime that makes a container.
func (x *run) runtimeArgs(log string, cgroups bool) []string {
	args := []string{"--root", x.owner.dir, "--log", log, "--log-format", "json"}
	switch {
	case cgroups:
		return args
	case x.runc.isCrun:
		return append(args, "--cgroup-manager=disabled")
	}
	return append(args, "--rootless=true") // ignore that there are no cgroups
}

// command returns the runtime's command line.
func (x *run) command() *exec.Cmd {
	args := append(x.runtimeArgs(x.log, x.runc.cgroups != cgroupNone && x.cgroup == ""), "run", "--bundle", x.spec.Bundle, x.spec.ID)
	cmd := x.runtime(args...)
	// The runtime dies with this process, and the watchdog ends the container. In a process group of its own it gets only the
	// signals that it is sent; but the terminal obeys only the foreground group.
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL, Setpgid: !x.spec.Terminal}
	return cmd
}

// execute runs the runtime until the container's process ends.
func (x *run) execute(ctx context.Context) (int, error) {
	if x.spec.NS == nil { // the parent of the runtime, for its death signal, is a thread
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
	}
	cmd := x.command()
	stderr := &faultFilter{w: io.Discard, faults: []string{runcFailed}}
	if x.runc.isCrun {
		stderr.faults = crunFaults()
	}
	if x.spec.Stderr != nil && !x.spec.Terminal {
		stderr.w = x.spec.Stderr
	}
	cmd.Stderr = stderr
	finish, err := x.connect(cmd)
	if err != nil {
		return 0, err
	}
	if err := x.inside(func() error { return x.start(cmd) }); err != nil {
		finish()
		return 0, &StartError{Code: CodeFailed, Message: fmt.Sprintf("%s: %v", x.runc.path, err), Err: err}
	}
	ended := make(chan struct{})
	var watching sync.WaitGroup
	watching.Go(func() { x.watch(ctx, cmd.Process, ended) })
	err = cmd.Wait()
	close(ended)
	watching.Wait()
	finish()
	if ctx.Err() != nil {
		return 0, errors.Join(fmt.Errorf("container %s: %w", x.spec.ID, context.Cause(ctx)), stderr.End(true))
	}
	return x.result(cmd, err, stderr)
}

// cgroups are the container's, those that need to be removed.
func (x *run) cgroups() []string {
	if x.cgroup != "" {
		return []string{x.cgroup}
	}
	return cgroupDirs(x.runc.place.inner(x.spec.CgroupParent), cgroupName(x.owner.dir, x.spec.ID))
}

// start starts the runtime, in the container's cgroups where they are there already.
func (x *run) start(cmd *exec.Cmd) (err error) {
	switch {
	case x.alone != nil:
		err = x.alone.within(cmd.Start)
	case x.cgroup != "":
		err = x.owner.nursery.inner(x.cgroup, cmd.Start)
	default:
		return cmd.Start()
	}
	if err != nil && cmd.Process != nil {
		_ = cmd.Process.Kill() // it may have ended
		_ = cmd.Wait()         // killed
	}
	return err
}

// result turns the runtime's end into the result of Run.
func (x *run) result(cmd *exec.Cmd, err error, stderr *faultFilter) (int, error) {
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		return 0, errors.Join(fmt.Errorf("container %s: %w", x.spec.ID, err), stderr.End(true))
	}
	if exit == nil {
		return 0, stderr.End(true)
	}
	if status, ok := cmd.ProcessState.Sys().(syscall.WaitStatus); ok && status.Signaled() {
		x.killed = true
		return 128 + int(status.Signal()), stderr.End(true)
	}
	var message string
	readErr := x.inside(func() (err error) {
		message, err = readFault(x.log)
		return err
	})
	if readErr != nil {
		return 0, errors.Join(readErr, stderr.End(true))
	}
	if message != "" && (x.runc.isCrun || strings.HasPrefix(message, runcFailed)) {
		x.killed = x.runc.isCrun // which leaves the cgroup behind
		return 0, errors.Join(newStartError(commandFault(message, x.spec.Args[0])), stderr.End(false))
	}
	return exit.ExitCode(), stderr.End(true)
}

// connect joins the runtime's streams to the caller's; the function that it returns waits for what is under way.
func (x *run) connect(cmd *exec.Cmd) (finish func(), err error) {
	if x.spec.Terminal && x.runc.isCrun {
		return connectConsole(x, cmd)
	}
	if x.spec.Terminal && !isTerminal(x.spec.Stdin) && !isTerminal(x.spec.Stdout) {
		t, err := openTerminal()
		if err != nil {
			return nil, err
		}
		cmd.Stdin, cmd.Stdout = t.slave, t.slave
		t.join(x.spec.Stdin, x.spec.Stdout)
		return t.close, nil
	}
	if x.spec.Stdout != nil {
		cmd.Stdout = x.spec.Stdout
	}
	if x.spec.Stdin == nil {
		return func() {}, nil
	}
	if f, ok := x.spec.Stdin.(*os.File); ok {
		cmd.Stdin = f
		return func() {}, nil
	}
	pipe, err := cmd.StdinPipe() // exec would wait for a reader that may block for ever
	if err != nil {
		return nil, fmt.Errorf("connect the standard input: %w", err)
	}
	go func() {
		_, _ = io.Copy(pipe, x.spec.Stdin) // the process may not read it all
		_ = pipe.Close()
	}()
	return func() {}, nil
}

// watch passes signals on until the runtime has ended, and ends the container when ctx is cancelled or SIGKILL is to be sent: the
// runtime first, so that it makes nothing more, then what it made.
func (x *run) watch(ctx context.Context, process *os.Process, ended <-chan struct{}) {
	for {
		select {
		case <-ended:
			return
		case <-ctx.Done():
			x.kill(ctx, process)
			<-ended
			return
		case s, ok := <-x.spec.Signals:
			if !ok {
				x.spec.Signals = nil
			} else if s == syscall.SIGKILL {
				x.kill(ctx, process)
			} else {
				_ = process.Signal(s) // it may have ended
			}
		}
	}
}

// kill ends the runtime and every process of the container.
func (x *run) kill(ctx context.Context, process *os.Process) {
	x.killed = true
	if x.runc.cgroups == cgroupNone {
		killMaker(process)
	} else {
		_ = process.Kill() // it may have ended
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), destroyTimeout)
	defer cancel()
	_ = x.destroy(ctx, x.spec.ID, x.cgroups()) // cleanUp tries again and reports
}
