package executor_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"strake/internal/conformance"
	"strake/internal/executor"
	"strake/internal/mount"
)

// victimVariable makes the test binary a process that runs containers until it is killed: it holds the directory to use.
const victimVariable = "STRAKE_TEST_VICTIM"

// TestVictim is the process that TestKilled kills.
func TestVictim(t *testing.T) {
	dir := os.Getenv(victimVariable)
	if dir == "" {
		t.Skip("a helper of TestKilled")
	}
	ns, err := mount.New(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	r, err := executor.NewRunc(executor.RuncOptions{StateDir: filepath.Join(dir, "state")})
	if err != nil {
		t.Fatal(err)
	}
	root := filepath.Join(dir, "root")
	if err := ns.Do(func() error { return mount.Bind(root, root, false) }); err != nil {
		t.Fatal(err)
	}
	for i := range 1000 {
		spec := executor.Spec{
			ID: fmt.Sprintf("victim-%d-%d", os.Getpid(), i), Bundle: filepath.Join(dir, "bundle"), Rootfs: root, NS: ns,
			Args: []string{"/bin/busybox", "sleep", "0.02"}, AsStep: true,
		}
		if os.Getenv(victimVariable+"_LONG") != "" {
			spec.Args[2] = "1000"
		}
		spec.CgroupParent = os.Getenv(victimVariable + "_PARENT")
		if _, err := r.Run(t.Context(), spec); err != nil {
			t.Fatal(err)
		}
	}
}

// leftovers returns the processes and the cgroups with a name in theirs.
func leftovers(t *testing.T, name string) string {
	t.Helper()
	left := conformance.CgroupsNamed(t, name)
	out, err := exec.Command("ps", "-eo", "pid,args").Output()
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(out)) {
		if strings.Contains(line, name) {
			left = append(left, line)
		}
	}
	return strings.Join(left, "\n")
}

// TestKilled kills a process that runs containers at many moments: containers, state, cgroups and mounts go with it.
func TestKilled(t *testing.T) {
	busybox := conformance.NeedBusybox(t)
	for _, name := range []string{"runc", "crun"} {
		t.Run(name, func(t *testing.T) {
			t.Setenv(executor.RuntimeVariable, name)
			if _, err := executor.FindRuntime(); err != nil {
				t.Skip(err)
			}
			testKilled(t, busybox)
		})
	}
}

func testKilled(t *testing.T, busybox string) {
	data, err := os.ReadFile(busybox)
	if err != nil {
		t.Fatal(err)
	}
	for i := range 20 {
		dir := t.TempDir()
		if err := os.MkdirAll(filepath.Join(dir, "root/bin"), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, "root/bin/busybox"), data, 0o755); err != nil {
			t.Fatal(err)
		}
		cmd := exec.Command(os.Args[0], "-test.run=^TestVictim$")
		cmd.Env = append(os.Environ(), victimVariable+"="+dir)
		long := i%10 >= 8 // its container runs for sure when it is killed
		if long {
			cmd.Env = append(cmd.Env, victimVariable+"_LONG=1")
		}
		parent := fmt.Sprintf("strake-test-%d", os.Getpid())
		if i%10 == 8 {
			cmd.Env = append(cmd.Env, victimVariable+"_PARENT="+parent)
		}
		var out bytes.Buffer
		cmd.Stdout = &out
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		state := filepath.Join(dir, "state")
		var owned []string
		for ; len(owned) == 0; time.Sleep(time.Millisecond) {
			if owned, err = filepath.Glob(state + "/*.lock"); err != nil {
				t.Fatal(err)
			}
		}
		owner := strings.TrimSuffix(filepath.Base(owned[0]), ".lock")
		if long {
			time.Sleep(time.Second)
		}
		time.Sleep(time.Duration(i) * 5 * time.Millisecond)
		if err := cmd.Process.Signal(syscall.SIGKILL); err != nil {
			t.Fatal(err, out.String())
		}
		_ = cmd.Wait() // killed
		name := fmt.Sprintf("victim-%d-", cmd.Process.Pid)
		r, err := executor.NewRunc(executor.RuncOptions{StateDir: state})
		if err != nil {
			t.Fatal(err)
		}
		start := time.Now()
		deadline := start.Add(10 * time.Second)
		for {
			left, err := os.ReadDir(state)
			left = slices.DeleteFunc(left, func(e os.DirEntry) bool { return strings.HasPrefix(e.Name(), "filter-") })
			if err == nil && len(left) == 0 && leftovers(t, name) == "" && leftovers(t, owner) == "" {
				break
			}
			if time.Now().After(deadline) {
				t.Fatalf("round %d: left: %v, %v, %s %s", i, left, err, leftovers(t, name), leftovers(t, owner))
			}
			if !long && time.Since(start) > 2*time.Second { // it may have been killed before it had a watchdog
				if err := r.Reap(t.Context()); err != nil {
					t.Error(err)
				}
			}
			time.Sleep(10 * time.Millisecond)
		}
		for _, dir := range conformance.CgroupsNamed(t, parent) {
			if err := os.Remove(dir); err != nil {
				t.Error(err)
			}
		}
		if mounts, err := os.ReadFile("/proc/self/mountinfo"); err != nil || strings.Contains(string(mounts), dir) {
			t.Errorf("round %d: mounts are left: %v", i, err)
		}
	}
}

// TestReap: what the watchdog could not do is done by the next process.
func TestReap(t *testing.T) {
	conformance.NeedBusybox(t)
	path, err := exec.LookPath("runc")
	if err != nil {
		t.Skip("no runc")
	}
	state := t.TempDir()
	r, err := executor.NewRunc(executor.RuncOptions{Path: path, StateDir: state})
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"dead/one", "dead/two"} {
		if err := os.MkdirAll(filepath.Join(state, name), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	for _, name := range []string{"dead.lock", "alive.lock"} {
		if err := os.WriteFile(filepath.Join(state, name), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	alive, err := os.Open(filepath.Join(state, "alive.lock"))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = alive.Close() }()
	if err := syscall.Flock(int(alive.Fd()), syscall.LOCK_EX); err != nil {
		t.Fatal(err)
	}
	// A runtime was killed, and its container's first process waits for it, without state and cgroup.
	waits := exec.Command("/bin/sh", "-c", "read -r _", "crun", "--root", filepath.Join(state, "dead"), "create", "--bundle", "b", "id")
	stdin, err := waits.StdinPipe()
	if err := errors.Join(err, waits.Start()); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = stdin.Close() }()
	if err := r.Reap(context.Background()); err != nil {
		t.Fatal(err)
	}
	if err := waits.Wait(); err == nil || err.Error() != "signal: killed" {
		t.Errorf("the process that waits for a dead runtime: %v", err)
	}
	left, err := filepath.Glob(filepath.Join(state, "*"))
	if err != nil || len(left) != 1 || filepath.Base(left[0]) != "alive.lock" {
		t.Errorf("left: %v, %v", left, err)
	}
	if err := r.Close(); err != nil {
		t.Error(err)
	}
}
