// Package systemd asks a user's instance of systemd, the manager, for cgroups of version 2 that it leaves to who asks (delegates).
package systemd

import (
	"context"
	"crypto/rand"
	"fmt"
	"os"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"github.com/godbus/dbus/v5"
)

// A Manager is the instance of systemd of one user.
type Manager struct {
	uid    int
	socket string
}

// runtimeDirs is where the managers have their sockets by convention, also for processes that logind told nothing of.
const runtimeDirs = "/run/user"

// Find returns the manager of a user, and ok = false where none runs.
func Find(uid int) (m Manager, ok bool) {
	return find(os.Getenv("XDG_RUNTIME_DIR"), uid)
}

func find(runtimeDir string, uid int) (m Manager, ok bool) {
	for _, dir := range []string{runtimeDir, filepath.Join(runtimeDirs, strconv.Itoa(uid))} {
		socket := filepath.Join(dir, "systemd/private")
		if info, err := os.Stat(socket); filepath.IsAbs(dir) && err == nil && info.Mode().Type() == os.ModeSocket {
			return Manager{uid, socket}, true
		}
	}
	return m, false
}

// Cgroup is the manager's own cgroup, as a path below the mount of cgroups: what it delegates has the controllers of this one.
func (m Manager) Cgroup() string {
	return fmt.Sprintf("/user.slice/user-%d.slice/user@%[1]d.service", m.uid)
}

// Stays reports whether the manager, and what it manages, goes on when the user has logged out, as `loginctl enable-linger` has it.
func (m Manager) Stays() bool {
	who, err := user.LookupId(strconv.Itoa(m.uid))
	if err != nil {
		return false // logind knows users by their names
	}
	_, err = os.Stat(filepath.Join("/var/lib/systemd/linger", who.Username))
	return err == nil
}

// askTimeout bounds how long the manager may take for an answer.
const askTimeout = 20 * time.Second

// Interfaces, objects and structures of systemd's, as org.freedesktop.systemd1(5) has them.
const (
	destination = "org.freedesktop.systemd1"
	managerPath = "/org/freedesktop/systemd1"
	startUnit   = "org.freedesktop.systemd1.Manager.StartTransientUnit"
	jobRemoved  = "org.freedesktop.systemd1.Manager.JobRemoved"
)

// A property is one of a unit: (sv).
type property struct {
	Name  string
	Value dbus.Variant
}

// auxiliary is a unit that is made with another: (sa(sv)).
type auxiliary struct {
	Name       string
	Properties []property
}

// MoveToScope moves this process, with all its threads, to a new scope of the manager whose cgroups are delegated to the user, and returns when
// it is there. The scope ends with the last process in it. What is refused or takes too long is errdefs.ErrUnavailable.
func (m Manager) MoveToScope(ctx context.Context, description string) (err error) {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	defer func() {
		if err != nil {
			err = fmt.Errorf("ask the user's systemd for cgroups: %w: %w", errdefs.ErrUnavailable, err)
		}
	}()
	conn, err := dbus.Dial("unix:path="+m.socket, dbus.WithContext(ctx))
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close() }()                                                    // all is said
	if err := conn.Auth([]dbus.Auth{dbus.AuthExternal(strconv.Itoa(m.uid))}); err != nil { // in a user namespace the id is another
		return err
	}
	removed := make(chan *dbus.Signal, 16)
	conn.Signal(removed)
	properties := []property{
		{"Description", dbus.MakeVariant(description)},
		{"Delegate", dbus.MakeVariant(true)},
		{"CollectMode", dbus.MakeVariant("inactive-or-failed")},
		{"PIDs", dbus.MakeVariant([]uint32{uint32(os.Getpid())})},
	}
	var job dbus.ObjectPath
	name := "run-strake-" + strings.ToLower(rand.Text()) + ".scope"
	call := conn.Object(destination, managerPath).CallWithContext(ctx, startUnit, 0, name, "fail", properties, []auxiliary{})
	if err := call.Store(&job); err != nil {
		return err
	}
	return awaitJob(ctx, removed, job)
}

// awaitJob waits until systemd says how a job ended.
func awaitJob(ctx context.Context, removed <-chan *dbus.Signal, job dbus.ObjectPath) error {
	for {
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case s, ok := <-removed:
			if !ok {
				return dbus.ErrClosed
			}
			var number uint32
			var path dbus.ObjectPath
			var unit, result string
			if s.Name != jobRemoved || dbus.Store(s.Body, &number, &path, &unit, &result) != nil || path != job {
				continue // of another job
			}
			if result != "done" {
				return fmt.Errorf("the start of %s is %s", unit, result)
			}
			return nil
		}
	}
}
