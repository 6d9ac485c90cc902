package userns

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"strake/internal/flock"
)

// enterProgram enters namespaces that are there, of package util-linux: a program in Go has several threads, and the kernel lets none
// with several enter a user namespace.
const enterProgram = "nsenter"

// CanJoin fails where programs cannot enter a namespace that is there: each is in one of its own then, and what runs in one has nothing
// in common with what runs in another.
func CanJoin() error {
	if _, err := exec.LookPath(enterProgram); err != nil {
		return fmt.Errorf("%s (package util-linux) is not in PATH: %w", enterProgram, errdefs.ErrFailedPrecondition)
	}
	return nil
}

// Stay notes in dir, a directory that Enter knows, that this process is in its namespace, so that others join it, until leave is called
// or the process ends. Outside of a namespace that Enter made it does nothing.
func Stay(ctx context.Context, dir string) (leave func() error, err error) {
	if IDs() == 0 {
		return func() error { return nil }, nil
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	lock, err := flock.Open(ctx, dir, flock.Exclusive)
	if err != nil || lock == nil {
		return nil, errors.Join(fmt.Errorf("stay in the user namespace of %s", dir), err)
	}
	leave, err = stay(dir, os.Getpid())
	return leave, errors.Join(err, lock.Close())
}

// stay writes the file of a process, which is locked as long as that is alive; who calls holds the lock of dir.
func stay(dir string, pid int) (leave func() error, err error) {
	path := filepath.Join(dir, strconv.Itoa(pid))
	f, err := os.OpenFile(path, os.O_RDONLY|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	if err := flock.Try(f, flock.Exclusive); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return func() error { return errors.Join(os.Remove(path), f.Close()) }, nil
}

// startJoined starts cmd as the program with args in the namespace of a process that dir names; false: there is none. Files of dead
// processes are removed.
func startJoined(cmd *exec.Cmd, dir string, args []string) (joined bool, err error) {
	nsenter, err := exec.LookPath(enterProgram)
	if err != nil {
		return false, nil // CanJoin says so to who needs it
	}
	ns, ids, err := findMember(dir)
	if err != nil || ns == nil {
		return false, err
	}
	defer func() { err = errors.Join(err, ns.Close()) }()
	program, err := self()
	if err != nil {
		return false, err
	}
	cmd.Path = nsenter
	cmd.Args = append([]string{enterProgram, fmt.Sprintf("--user=/proc/self/fd/%d", gate), "--preserve-credentials", "--", program}, args...)
	cmd.Env = environment(ids, strconv.Itoa(os.Getpid()))
	cmd.ExtraFiles = []*os.File{ns}
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL} // which the kernel forgets when the namespace is entered
	if err := cmd.Start(); err != nil {
		return false, fmt.Errorf("enter a user namespace: %w", err)
	}
	return true, nil
}

// findMember opens the namespace of a process that dir names, and tells how many ids it has; nil: there is none.
func findMember(dir string) (ns *os.File, ids int, err error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, 0, err
	}
	for _, e := range entries {
		path := filepath.Join(dir, e.Name())
		f, err := flock.TryOpen(path, flock.Shared)
		if f != nil { // its process is dead
			err = errors.Join(err, os.Remove(path), f.Close())
		}
		if err == nil {
			continue
		}
		if !errdefs.IsUnavailable(err) {
			return nil, 0, err
		}
		ns, err := os.Open(filepath.Join("/proc", e.Name(), "ns/user"))
		if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ESRCH) {
			continue // it has ended, and who waits for it does not know yet
		}
		if err != nil {
			return nil, 0, fmt.Errorf("enter a user namespace: %w", err)
		}
		users, err := countMapped(filepath.Join("/proc", e.Name(), "uid_map"))
		groups, groupsErr := countMapped(filepath.Join("/proc", e.Name(), "gid_map"))
		if err = errors.Join(err, groupsErr); err != nil {
			return nil, 0, errors.Join(fmt.Errorf("enter a user namespace: %w", err), ns.Close())
		}
		return ns, min(users, groups), nil
	}
	return nil, 0, nil
}

// countMapped counts the ids of a file uid_map or gid_map of proc(5).
func countMapped(path string) (n int, err error) {
	f, err := os.Open(path)
	if err != nil {
		return 0, err
	}
	defer func() { _ = f.Close() }() // only read
	for lines := bufio.NewScanner(f); ; {
		if !lines.Scan() {
			return n, lines.Err()
		}
		var inside, outside, count int
		if _, err := fmt.Sscan(lines.Text(), &inside, &outside, &count); err != nil {
			return 0, fmt.Errorf("%s: %w", path, err)
		}
		n += count
	}
}

// self is a path of this program; by the name that it was called with, where that is one.
func self() (string, error) {
	running, err := os.Stat("/proc/self/exe")
	if err != nil {
		return "", err
	}
	if path, err := exec.LookPath(os.Args[0]); err == nil && strings.HasPrefix(path, "/") {
		if is, err := os.Stat(path); err == nil && os.SameFile(is, running) {
			return path, nil
		}
	}
	return os.Executable()
}

// dieWith makes the process die with its parent, which has the number pid.
func dieWith(pid string) error {
	if err := unix.Prctl(unix.PR_SET_PDEATHSIG, uintptr(unix.SIGKILL), 0, 0, 0); err != nil {
		return err
	}
	if strconv.Itoa(os.Getppid()) != pid {
		return errors.New("who started this program is dead")
	}
	return nil
}
