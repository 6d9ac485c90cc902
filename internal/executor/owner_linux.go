package executor

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"strake/internal/flock"
)

// lockSuffix ends the name of an owner's lock file in the state directory; the directory with the name before it holds the
// runtime's state of the owner's containers.
const lockSuffix = ".lock"

// An owner is what the containers of one Runc belong to: a directory for the runtime, a file that is flock'ed as long as the
// process lives, and a watchdog that ends what is left when it dies.
type owner struct {
	dir     string
	lock    *os.File
	exe     *os.File  // sealed copy of the runtime; nil where there is none
	nursing sync.Once // makes nursery
	nursery *nursery
	life    io.Closer   // the watchdog acts when the last copy of this end of a pipe is closed
	dog     *exec.Cmd   // nil where there is no shell
	left    atomic.Bool // something of a container could not be removed
}

// newOwner makes an owner under the state directory.
func newOwner(ctx context.Context, runtime, stateDir string) (*owner, error) {
	if err := os.MkdirAll(stateDir, 0o700); err != nil {
		return nil, fmt.Errorf("make the runtime's state directory: %w", err)
	}
	if err := errors.Join(safeDir(filepath.Dir(stateDir), true), safeDir(stateDir, false)); err != nil {
		return nil, fmt.Errorf("the runtime's state directory: %w", err)
	}
	o := &owner{dir: filepath.Join(stateDir, rand.Text()[:12])}
	lock, err := os.OpenFile(o.dir+".new", os.O_CREATE|os.O_EXCL|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("own containers: %w", err)
	}
	// Locked before it has the name that Reap looks for.
	err = flock.Try(lock, flock.Exclusive)
	if err == nil {
		err = os.Rename(lock.Name(), o.dir+lockSuffix)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("own containers: %w", err), os.Remove(lock.Name()), lock.Close())
	}
	o.lock = lock
	if err := os.Mkdir(o.dir, 0o700); err != nil {
		return nil, errors.Join(fmt.Errorf("own containers: %w", err), o.close(ctx))
	}
	if err := o.watch(runtime); err != nil {
		return nil, errors.Join(err, o.close(ctx))
	}
	return o, nil
}

// seal makes the copy of runc or crun. What cannot be copied makes its own.
func (o *owner) seal(r *Runc) {
	if !r.isCrun && !strings.Contains(filepath.Base(r.path), "runc") {
		return
	}
	if exe, err := sealedCopy(r.path); err == nil {
		o.exe = exe
	}
}

// shared returns the owner's nursery, made when it is first asked for; nil where the runtime makes the cgroups, or says why it cannot.
func (o *owner) shared(ctx context.Context, r *Runc) *nursery {
	o.nursing.Do(func() {
		if !r.hasNurseries() {
			return
		}
		if n, err := newNursery(ctx, cgroupName(o.dir, "")); err == nil {
			o.nursery = n
		}
	})
	return o.nursery
}

// hasNurseries reports whether the runtime leaves cgroups alone, and they are such that it matters.
func (r *Runc) hasNurseries() bool {
	return r.isCrun && (r.cgroups == cgroupLegacy || r.cgroups == cgroupHybrid)
}

// safeDir fails unless a path is a directory, no link to one, that nobody else can put files in. One that is shared may also be
// root's, and others may write to it where they cannot touch what is not theirs, as in /tmp.
func safeDir(path string, shared bool) error {
	info, err := os.Lstat(path)
	if err != nil {
		return err
	}
	st, ok := info.Sys().(*syscall.Stat_t)
	switch {
	case !info.IsDir() || !ok:
		return fmt.Errorf("%s is not a directory: %w", path, errdefs.ErrFailedPrecondition)
	case int(st.Uid) != os.Geteuid() && (!shared || st.Uid != 0):
		return fmt.Errorf("%s belongs to user %d: %w", path, st.Uid, errdefs.ErrFailedPrecondition)
	case info.Mode().Perm()&0o022 != 0 && (!shared || info.Mode()&os.ModeSticky == 0):
		return fmt.Errorf("%s can be written to by others: %w", path, errdefs.ErrFailedPrecondition)
	}
	return nil
}

// watchdog waits until its standard input ends, and then ends the containers of the owner directory $2 by the runtime $1. It gives
// the runtimes of a dead owner time to die. A runtime that was killed while it made a container leaves a directory without
// state, and cgroups, or, where there are none, a process that waits for it (killOwned); a privileged container makes cgroups
// inside its own, of any name.
const watchdog = `read -r _
for n in 1 2 3 4 5 6 7 8 9; do
	sleep 0.05
	for c in "$2"/*/; do
		[ -d "$c" ] || continue
		c=${c%/}
		c=${c##*/}
		"$1" --root "$2" delete --force "$c"
	done
	find /sys/fs/cgroup -depth -type d -name "strake-${2##*/}*" | while read -r g; do
		m=0
		while find "$g" -depth -type d -exec rmdir {} \; ; [ -d "$g" ] && [ $m -lt 100 ]; do
			m=$((m + 1))
			for p in $(find "$g" -name cgroup.procs -exec cat {} \;); do kill -9 "$p"; done
			sleep 0.01
		done
	done
	for p in $(grep -lszxF -- "$2" /proc/[0-9]*/cmdline); do
		case "$(tr '\0' ' ' <"$p")" in *" --root $2 "*" --bundle "*) p=${p#/proc/}; kill -9 "${p%/cmdline}" ;; esac
	done
	rmdir "$2" && rm -f "$2.lock" && break
done`

// watch starts the watchdog, in a session of its own so that signals of the terminal pass it by. Without a shell there is none,
// and Reap does its work.
func (o *owner) watch(runtime string) error {
	shell, err := exec.LookPath("sh")
	if err != nil {
		return nil //nolint:nilerr // see above
	}
	read, write, err := os.Pipe()
	if err != nil {
		return fmt.Errorf("watch over containers: %w", err)
	}
	dog := exec.Command(shell, "-c", watchdog, "strake-watchdog", runtime, o.dir) //nolint:noctx // outlives the caller
	dog.Stdin = read
	dog.Dir = "/"
	dog.Env = []string{"PATH=" + os.Getenv("PATH")}
	dog.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	err = dog.Start()
	closeErr := read.Close()
	if err := errors.Join(err, closeErr); err != nil {
		return errors.Join(fmt.Errorf("watch over containers: %w", err), write.Close())
	}
	o.dog, o.life = dog, write
	return nil
}

// watches reports whether a process is the watchdog.
func (r *Runc) watches(pid int) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.owner != nil && r.owner.dog != nil && r.owner.dog.Process.Pid == pid
}

// cleaned notes whether something could not be removed.
func (o *owner) cleaned(err error) error {
	if err != nil {
		o.left.Store(true)
	}
	return err
}

// close gives the owner up; its containers have ended. What is left is for Reap, by the lock file that stays.
func (o *owner) close(ctx context.Context) error {
	var failed []error
	if o.dog != nil {
		if err := o.dog.Process.Kill(); err != nil && !errors.Is(err, os.ErrProcessDone) {
			failed = append(failed, err)
		}
		_ = o.dog.Wait() // killed
		failed = append(failed, o.life.Close())
	}
	if o.exe != nil {
		failed = append(failed, o.exe.Close())
	}
	if o.nursery != nil {
		failed = append(failed, o.cleaned(o.nursery.close(ctx)))
	}
	if !o.left.Load() {
		err := os.RemoveAll(o.dir)
		if err == nil {
			err = os.Remove(o.dir + lockSuffix)
		}
		failed = append(failed, err)
	}
	failed = append(failed, o.lock.Close())
	if err := errors.Join(failed...); err != nil {
		return fmt.Errorf("give up the ownership of containers: %w", err)
	}
	return nil
}

// Reap ends the containers whose owners died, and removes their state. The watchdog of an owner does so at once; Reap is for what
// that could not do, and the first Run begins with it. It may run at any time, in any number of processes.
func (r *Runc) Reap(ctx context.Context) error {
	entries, err := os.ReadDir(r.stateDir)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("reap containers: %w", err)
	}
	var failed []error
	for _, e := range entries {
		name, isLock := strings.CutSuffix(e.Name(), lockSuffix)
		if !isLock && !e.IsDir() {
			continue // a lock file to be
		}
		if err := r.reapOwner(ctx, filepath.Join(r.stateDir, name)); err != nil {
			failed = append(failed, fmt.Errorf("reap containers: %w", err))
		}
	}
	return errors.Join(failed...)
}

// reapOwner ends the containers of the owner whose directory is dir unless it lives. A directory without a lock file is one that
// a dying runtime made again.
func (r *Runc) reapOwner(ctx context.Context, dir string) error {
	lock := dir + lockSuffix
	f, err := os.OpenFile(lock, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return err
	}
	defer func() { _ = f.Close() }() // nothing was written
	if err := flock.Try(f, flock.Exclusive); errdefs.IsUnavailable(err) {
		return nil // alive
	} else if err != nil {
		return err
	}
	entries, err := os.ReadDir(dir)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	for _, e := range entries {
		if err := r.delete(ctx, dir, e.Name()); err != nil {
			return err
		}
	}
	cgroups, err := ownedCgroups(dir)
	if err != nil {
		return err
	}
	if err := errors.Join(removeCgroups(ctx, cgroups), killOwned(dir)); err != nil {
		return err
	}
	if err := os.RemoveAll(dir); err != nil {
		return err
	}
	if err := os.Remove(lock); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return nil
}

// killOwned kills what runtimes of a dead owner left that were killed before they had noted their container: its first process, which still
// has the runtime's command line, and waits.
func killOwned(ownerDir string) error {
	lines, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		return err
	}
	for _, line := range lines {
		text, err := os.ReadFile(line)
		if err != nil || !bytes.Contains(text, []byte("\x00--root\x00"+ownerDir+"\x00")) || !bytes.Contains(text, []byte("\x00--bundle\x00")) {
			continue // it has ended, or is another
		}
		pid, err := strconv.Atoi(filepath.Base(filepath.Dir(line)))
		if err != nil {
			return err
		}
		if err := unix.Kill(pid, unix.SIGKILL); err != nil && !errors.Is(err, unix.ESRCH) {
			return fmt.Errorf("end the runtime's process %d: %w", pid, err)
		}
	}
	return nil
}

// destroy kills whatever lives of a container, and removes its state and its cgroups. It may be gone already.
func (x *run) destroy(ctx context.Context, id string, cgroups []string) error {
	if err := x.runc.delete(ctx, x.owner.dir, id); err != nil {
		return err
	}
	return removeCgroups(ctx, cgroups)
}

// delete kills what the runtime knows of a container and removes its state.
func (r *Runc) delete(ctx context.Context, ownerDir, id string) error {
	out, err := exec.CommandContext(ctx, r.path, "--root", ownerDir, "delete", "--force", id).CombinedOutput()
	state := filepath.Join(ownerDir, id)
	if err != nil && !exists(filepath.Join(state, "config.json")) && !exists(filepath.Join(state, "state.json")) {
		err = os.RemoveAll(state) // the runtime was killed before it had made anything else
	}
	if err != nil && exists(state) {
		return fmt.Errorf("delete the container %s: %w: %s", id, err, strings.TrimSpace(string(out)))
	}
	return nil
}
