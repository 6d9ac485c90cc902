package executor

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

// A process that moves to another cgroup makes the kernel wait for all processors, for 10 ms and more; a thread that moves itself does
// not. So where cgroups are of version 1, and the runtime leaves them alone if asked, the thread that starts it goes to the container's
// cgroups for that long: the runtime and all its children are born there. An owner's containers share their cgroups but those of
// devices, by which the processes of one are found; a container that Start starts has all of them to itself.

// cgroupPrefix begins the names of containers' cgroups.
const cgroupPrefix = "strake-"

// cgroupName names a container's cgroup by its owner's directory and its ID, and the owner's own for the ID "". It lies at the top
// unless asked otherwise, so that nothing is left when it is removed.
func cgroupName(ownerDir, id string) string {
	name := cgroupPrefix + filepath.Base(ownerDir)
	if id != "" {
		name += "-" + id
	}
	return name
}

// nursery is cgroups of version 1 in which containers are started.
type nursery struct {
	dirs         []string // one in each hierarchy
	devices      string   // that of devices; where containers share a nursery, each has one inside
	enter, leave []int    // descriptors: what is written to them moves the thread to dirs, and back to where it came from
}

// newNursery makes one of a name at the top. It fails where the directories of the process's own cgroups are not where they should be, as
// in a container that is shown a part of them.
func newNursery(ctx context.Context, name string) (_ *nursery, err error) {
	text, err := os.ReadFile("/proc/self/cgroup")
	if err != nil {
		return nil, err
	}
	n := &nursery{}
	defer func() {
		if err != nil {
			err = errors.Join(err, n.close(ctx))
		}
	}()
	for line := range strings.Lines(string(text)) {
		part := strings.SplitN(strings.TrimSuffix(line, "\n"), ":", 3)
		if len(part) != 3 || part[1] == "" { // version 2
			continue
		}
		top := filepath.Join(cgroupRoot, strings.TrimPrefix(part[1], "name="))
		if !exists(top) {
			continue // not mounted
		}
		if part[2] == "/.." || strings.HasPrefix(part[2], "/../") {
			return nil, fmt.Errorf("the cgroup %s is out of sight", part[2])
		}
		if err := n.add(strings.Split(part[1], ","), top, filepath.Join(top, part[2]), name); err != nil {
			return nil, err
		}
	}
	if n.devices == "" {
		return nil, errors.New("there are no cgroups of devices")
	}
	return n, nil
}

// add makes the cgroup of one hierarchy, at top; own is that of the process.
func (n *nursery) add(controllers []string, top, own, name string) error {
	leave, err := unix.Open(filepath.Join(own, "tasks"), unix.O_WRONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	n.leave = append(n.leave, leave)
	dir := filepath.Join(top, name)
	if err := unix.Mkdir(dir, 0o755); err != nil {
		return err
	}
	n.dirs = append(n.dirs, dir)
	for _, c := range controllers {
		switch c {
		case "devices":
			n.devices, err = dir, allowDevices(dir)
		case "cpuset": // which begins empty, and then takes nobody
			err = errors.Join(inherit(top, dir, "cpuset.cpus"), inherit(top, dir, "cpuset.mems"))
		}
		if err != nil {
			return err
		}
	}
	enter, err := unix.Open(filepath.Join(dir, "tasks"), unix.O_WRONLY|unix.O_CLOEXEC, 0)
	if err == nil {
		n.enter = append(n.enter, enter)
	}
	return err
}

// inherit copies a setting of a cgroup from the one that it lies in.
func inherit(from, to, name string) error {
	value, err := os.ReadFile(filepath.Join(from, name))
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(to, name), value, 0) // it is there
}

// allowDevices lets the processes of a cgroup make every device, and use docker's and terminals only. Cgroups that are made inside are
// the same.
func allowDevices(dir string) error {
	if err := os.WriteFile(filepath.Join(dir, "devices.deny"), []byte("a"), 0); err != nil { // it is there
		return err
	}
	for _, device := range []string{
		"c *:* m", "b *:* m",
		"c 1:3 rwm", "c 1:5 rwm", "c 1:7 rwm", "c 1:8 rwm", "c 1:9 rwm", // null, zero, full, random, urandom
		"c 5:0 rwm", "c 5:1 rwm", "c 5:2 rwm", "c 136:* rwm", // tty, console, ptmx, pts
	} {
		if err := os.WriteFile(filepath.Join(dir, "devices.allow"), []byte(device), 0); err != nil {
			return err
		}
	}
	return nil
}

// within calls start while the calling thread, which is locked, is in the nursery.
func (n *nursery) within(start func() error) (err error) {
	defer func() { err = errors.Join(err, move(n.leave)) }()
	if err := move(n.enter); err != nil {
		return err
	}
	return start()
}

// inner is within for a container that shares the nursery: it has dir, a cgroup inside that of devices, to itself, which is made.
func (n *nursery) inner(dir string, start func() error) (err error) {
	if err := unix.Mkdir(dir, 0o755); err != nil {
		return fmt.Errorf("make the cgroup %s: %w", dir, err)
	}
	own, err := unix.Open(filepath.Join(dir, "tasks"), unix.O_WRONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("open the cgroup %s: %w", dir, err)
	}
	defer func() { err = errors.Join(err, unix.Close(own)) }()
	return n.within(func() error {
		if err := move([]int{own}); err != nil {
			return err
		}
		return start()
	})
}

// move moves the calling thread to the cgroups whose tasks files are open.
func move(tasks []int) error {
	var failed []error
	for _, fd := range tasks {
		if _, err := unix.Write(fd, []byte("0")); err != nil {
			failed = append(failed, fmt.Errorf("change the cgroup: %w", err))
		}
	}
	return errors.Join(failed...)
}

// close removes the nursery, whose containers have ended.
func (n *nursery) close(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), destroyTimeout)
	defer cancel()
	err := removeCgroups(ctx, n.dirs)
	for _, fd := range append(n.enter, n.leave...) {
		err = errors.Join(err, unix.Close(fd))
	}
	return err
}

// tellCgroup tells crun, which was told to leave cgroups alone, which ones the container has: for what pauses it, limits it or runs
// one more process in it.
func tellCgroup(ownerDir, id string) error {
	path := filepath.Join(ownerDir, id, "status")
	text, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	var status map[string]any
	numbers := json.NewDecoder(bytes.NewReader(text))
	numbers.UseNumber()
	if err := numbers.Decode(&status); err != nil {
		return err
	}
	if _, ok := status["cgroup-path"]; !ok {
		return fmt.Errorf("%s has no cgroup-path: %w", path, errdefs.ErrUnknown)
	}
	status["cgroup-path"] = "/" + cgroupName(ownerDir, id)
	if text, err = json.Marshal(status); err != nil {
		return err
	}
	if err := os.WriteFile(path+".new", text, 0o600); err != nil {
		return err
	}
	return os.Rename(path+".new", path)
}

// cgroupDirs returns where the runtime makes a cgroup in parent, and where it might have if it knew more hierarchies.
func cgroupDirs(parent, name string) []string {
	dirs := []string{filepath.Join(cgroupRoot, filepath.Join("/", parent), name)}
	tops, err := os.ReadDir(cgroupRoot)
	if err != nil {
		return dirs
	}
	for _, top := range tops {
		dirs = append(dirs, filepath.Join(cgroupRoot, top.Name(), filepath.Join("/", parent), name))
	}
	return dirs
}

// ownedCgroups returns the cgroups of all containers of an owner, wherever they lie, the inner ones first.
func ownedCgroups(ownerDir string) ([]string, error) {
	var found []string
	err := filepath.WalkDir(cgroupRoot, func(path string, d fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) {
			return nil // gone meanwhile
		}
		if err == nil && d.IsDir() && strings.HasPrefix(d.Name(), cgroupName(ownerDir, "")) {
			found = append(found, path)
		}
		return err
	})
	slices.Reverse(found)
	return found, err
}

// removeCgroups removes cgroups, in that order.
func removeCgroups(ctx context.Context, dirs []string) error {
	for _, dir := range dirs {
		if err := removeCgroup(ctx, dir); err != nil {
			return err
		}
	}
	return nil
}

// removeCgroup kills the processes in a cgroup, which may be gone already, and in those that a container made inside, and removes them.
func removeCgroup(ctx context.Context, dir string) error {
	for {
		err := unix.Rmdir(dir)
		if err == nil || errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENOTDIR) || errors.Is(err, unix.EROFS) {
			return nil
		}
		if !errors.Is(err, unix.EBUSY) {
			return fmt.Errorf("delete the cgroup %s: %w", dir, err)
		}
		procs, err := os.ReadFile(filepath.Join(dir, "cgroup.procs"))
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			return fmt.Errorf("delete the cgroup %s: %w", dir, err)
		}
		for _, p := range strings.Fields(string(procs)) {
			if pid, err := strconv.Atoi(p); err == nil && pid > 1 && pid != os.Getpid() {
				_ = unix.Kill(pid, unix.SIGKILL) // it may be ending
			}
		}
		inner, err := os.ReadDir(dir)
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			return fmt.Errorf("delete the cgroup %s: %w", dir, err)
		}
		for _, e := range inner {
			if e.IsDir() {
				if err := removeCgroup(ctx, filepath.Join(dir, e.Name())); err != nil {
					return err
				}
			}
		}
		if unix.Rmdir(dir) == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("delete the cgroup %s: %w", dir, ctx.Err())
		case <-time.After(cgroupPause):
		}
	}
}

// cgroupPause is the time that killed processes are given to leave their cgroup before they are looked at again.
const cgroupPause = 2 * time.Millisecond
