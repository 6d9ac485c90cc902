package systemd

import (
	"context"
	"errors"
	"net"
	"os"
	"path/filepath"
	"testing"

	"github.com/godbus/dbus/v5"
)

// TestFind: a manager is known by its socket, which is no file of another kind.
func TestFind(t *testing.T) {
	const nobody = 4294967294 // has no directory below runtimeDirs
	dir := t.TempDir()
	if err := os.Mkdir(filepath.Join(dir, "systemd"), 0o700); err != nil {
		t.Fatal(err)
	}
	socket := filepath.Join(dir, "systemd/private")
	if err := os.WriteFile(socket, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, ok := find(dir, nobody); ok {
		t.Error("a file is taken for a socket")
	}
	if err := os.Remove(socket); err != nil {
		t.Fatal(err)
	}
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: socket})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	m, ok := find(dir, nobody)
	if !ok || m.socket != socket || m.Cgroup() != "/user.slice/user-4294967294.slice/user@4294967294.service" || m.Stays() {
		t.Errorf("found %v, %v: cgroup %s", m, ok, m.Cgroup())
	}
	if _, ok := find("", nobody); ok {
		t.Error("a manager is found where there is none")
	}
}

// TestAwaitJob: the end of the own job counts, whatever else systemd tells.
func TestAwaitJob(t *testing.T) {
	ended := func(job, result string) *dbus.Signal {
		return &dbus.Signal{Name: jobRemoved, Body: []any{uint32(7), dbus.ObjectPath(job), "a.scope", result}}
	}
	for _, test := range []struct {
		signals []*dbus.Signal
		closed  bool
		want    string
	}{
		{signals: []*dbus.Signal{{Name: "other"}, ended("/2", "failed"), {Name: jobRemoved, Body: []any{"odd"}}, ended("/1", "done")}},
		{signals: []*dbus.Signal{ended("/1", "canceled")}, want: "the start of a.scope is canceled"},
		{closed: true, want: dbus.ErrClosed.Error()},
		{want: "stop"},
	} {
		ctx, cancel := context.WithCancelCause(t.Context())
		c := make(chan *dbus.Signal, len(test.signals))
		for _, s := range test.signals {
			c <- s
		}
		if test.closed {
			close(c)
		} else if len(test.signals) == 0 {
			cancel(errors.New("stop"))
		}
		err := awaitJob(ctx, c, "/1")
		cancel(nil)
		if got := errorText(err); got != test.want {
			t.Errorf("%v: %q, want %q", test.signals, got, test.want)
		}
	}
}

func errorText(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}
