package mount

import (
	"context"
	"errors"
	"fmt"
	"os"
	"runtime"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

// New makes a mount namespace that sees the mounts of the host, and their coming and going, and shows it none of its own.
// It needs CAP_SYS_ADMIN: without it the error is errdefs.ErrPermissionDenied (a Go process has many threads and so cannot
// enter a user namespace of its own). The caller closes it.
func New(ctx context.Context) (*Namespace, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	ns := &Namespace{jobs: make(chan job), ended: make(chan struct{})}
	ready := make(chan error, 1)
	go ns.start(ready)
	if err := <-ready; err != nil {
		return nil, err
	}
	return ns, nil
}

// start makes the calling goroutine's thread the namespace's. The thread is never unlocked, so it ends with the goroutine.
// The process's first thread cannot end, and /proc/self shows its mounts: it is passed over.
func (ns *Namespace) start(ready chan<- error) {
	runtime.LockOSThread()
	if unix.Gettid() == os.Getpid() {
		started := make(chan error, 1)
		go ns.start(started)
		err := <-started
		runtime.UnlockOSThread()
		ready <- err
		return
	}
	if err := unshare(); err != nil {
		ready <- err
		return
	}
	ready <- nil
	ns.serve()
}

// unshare gives the calling thread a mount namespace from which nothing propagates back.
func unshare() error {
	err := unix.Unshare(unix.CLONE_NEWNS)
	if errors.Is(err, unix.EPERM) {
		return needsRoot{}
	}
	if err != nil {
		return failed("make a private mount namespace", err)
	}
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_SLAVE, ""); err != nil {
		return failed("cut the mount namespace off from the host", err)
	}
	return nil
}

// needsRoot is the kernel's answer to an ordinary user.
type needsRoot struct{}

func (needsRoot) Error() string {
	return "running a process in a container needs root or a user namespace, which this machine gives to no ordinary user " +
		"(strake doctor says what unlocks it; a build without RUN works)"
}

func (needsRoot) Unwrap() error { return errdefs.ErrPermissionDenied }

// failed says what was tried and classifies the kernel's answer by an errdefs kind.
func failed(what string, err error) error {
	if kind := kindOf(err); kind != nil {
		return fmt.Errorf("%s: %w: %w", what, kind, err)
	}
	return fmt.Errorf("%s: %w", what, err)
}
