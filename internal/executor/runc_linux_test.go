package executor_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"strake/internal/conformance"
	"strake/internal/executor"
	"strake/internal/mount"
)

// open returns a function that makes an executor by the runtime name, for the suite.
func open(name string) func(t *testing.T) executor.Executor {
	return func(t *testing.T) executor.Executor {
		path, err := exec.LookPath(name)
		if err != nil {
			t.Skipf("no %s", name)
		}
		r, err := executor.NewRunc(executor.RuncOptions{Path: path, StateDir: t.TempDir()})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			if err := r.Close(); err != nil {
				t.Error(err)
			}
		})
		return r
	}
}

func TestRunc(t *testing.T) { conformance.Executor(t, open("runc")) }

// TestOverlay: a process that changes nothing leaves nothing in the upper directory, whichever places of mounts are missing.
func TestOverlay(t *testing.T) {
	busybox := conformance.NeedBusybox(t)
	data, err := os.ReadFile(busybox)
	if err != nil {
		t.Fatal(err)
	}
	r := open("runc")(t)
	for _, exist := range [][]string{nil, {"etc"}, {"etc", "dev", "proc"}} {
		dir := t.TempDir()
		for _, name := range append([]string{"base", "empty", "upper", "work", "root"}, exist...) {
			path := filepath.Join(dir, name)
			if len(name) == 3 || name == "proc" {
				path = filepath.Join(dir, "base", name)
			}
			if err := os.Mkdir(path, 0o755); err != nil {
				t.Fatal(err)
			}
		}
		if err := os.WriteFile(filepath.Join(dir, "base/busybox"), data, 0o755); err != nil {
			t.Fatal(err)
		}
		ns, err := mount.New(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		overlay := mount.OverlayOptions{
			Lower: []string{dir + "/empty", dir + "/base"}, Upper: dir + "/upper", Work: dir + "/work", Volatile: true,
		}
		if err := ns.Do(func() error { return mount.Overlay(overlay, dir+"/root") }); err != nil {
			t.Skip(err)
		}
		code, err := r.Run(t.Context(), executor.Spec{
			Bundle: dir + "/bundle", Rootfs: dir + "/root", NS: ns, Args: []string{"/busybox", "true"},
		})
		if code != 0 || err != nil {
			t.Errorf("exit code %d, %v", code, err)
		}
		left, err := filepath.Glob(dir + "/upper/*")
		if err != nil || len(left) > 1 || len(left) == 1 && (filepath.Base(left[0]) != "etc" || exist == nil) {
			t.Errorf("with %v, left: %v, %v", exist, left, err)
		}
		if left, err = filepath.Glob(dir + "/upper/*/*"); err != nil || len(left) > 0 {
			t.Errorf("with %v, left: %v, %v", exist, left, err)
		}
		if err := ns.Close(); err != nil {
			t.Error(err)
		}
	}
}

// TestCrun runs the suite on crun.
func TestCrun(t *testing.T) { conformance.Executor(t, open("crun")) }
