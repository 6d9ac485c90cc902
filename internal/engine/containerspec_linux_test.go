package engine

import (
	"archive/tar"
	"os"
	"os/exec"
	"testing"

	"github.com/containerd/errdefs"
	containertypes "github.com/moby/moby/api/types/container"
)

// A namespace is joined only where the process is still that of the container.
func TestJoined(t *testing.T) {
	env := imageOf(t, tar.Header{Name: "f"})
	table := containers(env)
	c, lock, err := createContainer(t.Context(), env, CreateOptions{
		Ref: "i", Config: &containertypes.Config{Cmd: []string{"/f"}}, HostConfig: &containertypes.HostConfig{},
	}, true)
	if err != nil {
		t.Fatal(err)
	}
	c.State.Status, c.State.Pid = containertypes.StateRunning, os.Getpid()
	if err := table.SetState(t.Context(), c, "", nil); err != nil {
		t.Fatal(err)
	}
	var others joined
	path, err := others.open(t.Context(), table, c, "net")
	if err != nil {
		t.Fatal(err)
	}
	same, _ := os.Readlink(path) // "" is not the same
	if want, err := os.Readlink("/proc/self/ns/net"); err != nil || same != want {
		t.Errorf("%s is %q, not %q: %v", path, same, want, err)
	}
	stranger := exec.Command("sleep", "100")
	if err := stranger.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { _, _ = stranger.Process.Kill(), stranger.Wait() }() // killed
	stale := *c
	stale.State.Pid = stranger.Process.Pid
	if _, err := others.open(t.Context(), table, &stale, "net"); !errdefs.IsConflict(err) {
		t.Errorf("a process that is another's: %v", err)
	}
	if err := lock.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := others.open(t.Context(), table, c, "net"); !errdefs.IsConflict(err) {
		t.Errorf("a container without a monitor: %v", err)
	}
	if err := others.close(); err != nil {
		t.Fatal(err)
	}
}
