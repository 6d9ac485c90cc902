package executor

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"strake/internal/systemd"
	"strake/internal/userns"
)

// A cgroupPlace is the cgroup of version 2 in which containers have theirs, below cgroupRoot: the top for who may write there, for others
// what systemd delegated to the service or scope that the process is in, which it leaves alone.
type cgroupPlace struct {
	dir     string // "/" is the top
	crowded bool   // processes are in it, and have to leave before it hands controllers down
}

// cgroupLeaf is the cgroup that settle makes. No owner's name is like it.
const cgroupLeaf = "strake"

// findCgroupPlace returns the place of this process, and ok = false where it may make no cgroups.
func findCgroupPlace() (p cgroupPlace, ok bool) {
	if mayMakeCgroups("/") {
		return cgroupPlace{dir: "/"}, true
	}
	text, err := os.ReadFile("/proc/self/cgroup")
	if err != nil {
		return p, false
	}
	own := ownCgroup(string(text))
	for _, p := range []cgroupPlace{{dir: own, crowded: true}, {dir: filepath.Dir(own)}} {
		if own != "" && isDelegated(p.dir) && mayMakeCgroups(p.dir) {
			return p, true
		}
	}
	return p, false
}

// usableCgroups returns how cgroups are mounted, cgroupNone if they cannot be written to, and the place of those of version 2.
func usableCgroups() (mode cgroupMode, place cgroupPlace) {
	mode = currentCgroups()
	ok := false
	if mode == cgroupUnified {
		place, ok = findCgroupPlace()
	} else {
		ok = unix.Access(cgroupRoot+"/devices", unix.W_OK) == nil
	}
	if !ok {
		mode = cgroupNone
	}
	return mode, place
}

// inner returns the cgroup that parent, as a user says it, is in the place.
func (p cgroupPlace) inner(parent string) string {
	return filepath.Join("/", p.dir, filepath.Join("/", parent))
}

// ownCgroup returns the cgroup of version 2 that the text of /proc/PID/cgroup has: "" where it is out of sight.
func ownCgroup(text string) string {
	for line := range strings.Lines(text) {
		own, ok := strings.CutPrefix(strings.TrimSuffix(line, "\n"), "0::")
		if ok && filepath.IsAbs(own) && own != "/.." && !strings.HasPrefix(own, "/../") {
			return own
		}
	}
	return ""
}

// delegatedMark is systemd's mark of cgroups that it leaves to others.
const delegatedMark = "user.delegate"

// isDelegated reports whether a cgroup has systemd's mark that it leaves what is in it to others. Users' instances of older versions, as
// 252, set none; Delegate does.
func isDelegated(dir string) bool {
	value := make([]byte, 1)
	n, err := unix.Getxattr(filepath.Join(cgroupRoot, dir), delegatedMark, value)
	return err == nil && n == 1 && value[0] == '1'
}

// mayMakeCgroups reports whether this process may make cgroups in one, hand controllers down to them and move processes into them.
func mayMakeCgroups(dir string) bool {
	for _, file := range []string{"", "cgroup.procs", "cgroup.subtree_control"} {
		if unix.Access(filepath.Join(cgroupRoot, dir, file), unix.W_OK) != nil {
			return false
		}
	}
	return true
}

// settle moves the processes that are in the place itself to a leaf of it: a cgroup with processes hands no controllers down. It may run
// in several processes at a time.
func (p cgroupPlace) settle() error {
	if !p.crowded {
		return nil
	}
	dir := filepath.Join(cgroupRoot, p.dir)
	leaf := filepath.Join(dir, cgroupLeaf)
	if err := unix.Mkdir(leaf, 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
		return fmt.Errorf("make the cgroup %s: %w", leaf, err)
	}
	const rounds = 100 // processes may start others meanwhile
	for range rounds {
		procs, err := os.ReadFile(filepath.Join(dir, "cgroup.procs"))
		if err != nil {
			return fmt.Errorf("look into the cgroup %s: %w", dir, err)
		}
		pids := strings.Fields(string(procs))
		if len(pids) == 0 {
			return nil
		}
		for _, pid := range pids {
			if err := os.WriteFile(filepath.Join(leaf, "cgroup.procs"), []byte(pid), 0); err != nil && !errors.Is(err, unix.ESRCH) { // it is there
				return fmt.Errorf("move process %s to the cgroup %s: %w", pid, leaf, err)
			}
		}
	}
	return fmt.Errorf("the processes in the cgroup %s start others faster than they are moved: %w", dir, errdefs.ErrUnavailable)
}

// UnifiedControllers returns the controllers that a container's cgroup can have where cgroups are of version 2 alone, also by Delegate, none
// where this user may make no cgroups.
func UnifiedControllers() []string {
	dir := ""
	if p, ok := findCgroupPlace(); ok {
		dir = p.dir
	} else if m, ok := delegator(); ok {
		dir = m.Cgroup()
	} else {
		return nil
	}
	text, err := os.ReadFile(filepath.Join(cgroupRoot, dir, "cgroup.controllers"))
	if err != nil {
		return nil // not mounted
	}
	return strings.Fields(string(text))
}

// delegator is the user's systemd, and ok = false where none can give cgroups.
func delegator() (m systemd.Manager, ok bool) {
	if currentCgroups() != cgroupUnified {
		return m, false
	}
	return systemd.Find(userns.UID())
}

// MayDelegate reports whether containers have cgroups by Delegate alone.
func MayDelegate() bool {
	mode, _ := usableCgroups()
	_, ok := delegator()
	return mode == cgroupNone && ok
}

// Delegate gives containers cgroups that would have none, as in a session of an ordinary user: it asks the user's systemd to move this process
// to a scope whose cgroups are its own. Where there are cgroups already, and where there is no such systemd, it does nothing. A systemd that
// fails is errdefs.ErrUnavailable. To be called before the first Run or Start.
func (r *Runc) Delegate(ctx context.Context) error {
	m, ok := delegator()
	if !ok || r.cgroups != cgroupNone {
		return nil
	}
	if err := m.MoveToScope(ctx, "Containers of Strake"); err != nil {
		return err
	}
	text, err := os.ReadFile("/proc/self/cgroup")
	if err != nil {
		return fmt.Errorf("look at the cgroup of this process: %w", err)
	}
	own := ownCgroup(string(text))
	if err := unix.Setxattr(filepath.Join(cgroupRoot, own), delegatedMark, []byte("1"), 0); err != nil { // older versions do not
		return fmt.Errorf("mark the cgroup %s: %w", own, err)
	}
	if r.cgroups, r.place = usableCgroups(); r.cgroups == cgroupNone {
		return fmt.Errorf("the cgroup %s, which the user's systemd made, cannot be written to: %w", own, errdefs.ErrUnavailable)
	}
	return r.place.settle()
}

// checkCgroups fails with errdefs.ErrFailedPrecondition where containers have no cgroups, which what needs.
func (r *Runc) checkCgroups(what string) error {
	if r.cgroups != cgroupNone {
		return nil
	}
	if _, ok := delegator(); ok {
		return fmt.Errorf("%s needs a cgroup, and this one has none: start it with a limit, or after `loginctl enable-linger`: %w", what, errdefs.ErrFailedPrecondition)
	}
	return fmt.Errorf("%s needs a cgroup, and this user may make none: %w", what, errdefs.ErrFailedPrecondition)
}

// DelegateWhereKept is Delegate where the user's systemd outlives the user's sessions. Elsewhere containers that need no cgroups are better off
// without: those of a session live on when it ends, those of the user's systemd do not.
func (r *Runc) DelegateWhereKept(ctx context.Context) error {
	if r.cgroups != cgroupNone {
		return nil
	}
	if m, ok := delegator(); !ok || !m.Stays() {
		return nil
	}
	return r.Delegate(ctx)
}

// ControllersOf returns the controllers that the cgroup of a running container has, of whose processes pid is one; ok = false where cgroups
// are not of version 2 alone, or that one is out of sight.
func ControllersOf(pid int) (controllers []string, ok bool) {
	if !UnifiedCgroups() {
		return nil, false
	}
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", pid))
	if err != nil {
		return nil, false
	}
	dir := containerCgroup(string(text))
	if dir == "" {
		return nil, false
	}
	if text, err = os.ReadFile(filepath.Join(cgroupRoot, dir, "cgroup.controllers")); err != nil {
		return nil, false
	}
	return strings.Fields(string(text)), true
}

// containerCgroup returns the cgroup of a container that the text of a process's /proc/PID/cgroup has, which may lie deeper: "" where
// there is none.
func containerCgroup(text string) string {
	for dir := ownCgroup(text); dir != "" && dir != "/"; dir = filepath.Dir(dir) {
		if strings.HasPrefix(filepath.Base(dir), cgroupPrefix) {
			return dir
		}
	}
	return ""
}
