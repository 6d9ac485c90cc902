package mount

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"strake/internal/usertest"
)

// newNamespace makes a namespace that is closed when the test ends.
func newNamespace(t *testing.T) *Namespace {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("mounts need root")
	}
	ns, err := New(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := errors.Join(ns.Close(), ns.Close()); err != nil {
			t.Error(err)
		}
	})
	return ns
}

// do calls fn inside of ns, where it must not fail.
func do(t *testing.T, ns *Namespace, fn func() error) {
	t.Helper()
	if err := ns.Do(fn); err != nil {
		t.Fatal(err)
	}
}

// dirs makes directories with one file each, named as the directory.
func dirs(t *testing.T, names ...string) (root string) {
	t.Helper()
	root = t.TempDir()
	for _, name := range names {
		if err := os.Mkdir(filepath.Join(root, name), 0o755); err != nil {
			t.Fatal(err)
		}
		if strings.HasPrefix(name, "t") || strings.HasPrefix(name, "w") {
			continue // target or work directory
		}
		if err := os.WriteFile(filepath.Join(root, name, name), []byte(name), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return root
}

func TestNamespace(t *testing.T) {
	root := dirs(t, "a", "t")
	var all sync.WaitGroup
	for i := range 8 {
		ns := newNamespace(t)
		all.Go(func() {
			err := ns.Do(func() error {
				if err := Tmpfs(TmpfsOptions{Size: 1 << 20, Mode: 0o751}, root+"/t"); err != nil {
					return err
				}
				if info, err := os.Stat(root + "/t"); err != nil || info.Mode().Perm() != 0o751 {
					return fmt.Errorf("mode of the tmpfs: %v, %w", info, err)
				}
				if err := os.WriteFile(root+"/t/f", []byte(fmt.Sprint(i)), 0o600); err != nil {
					return err
				}
				out, err := exec.Command("cat", root+"/t/f").Output()
				if string(out) != fmt.Sprint(i) {
					return fmt.Errorf("a child sees %q, %w", out, err)
				}
				return err
			})
			if err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
	if left, err := os.ReadDir(root + "/t"); err != nil || len(left) > 0 {
		t.Errorf("seen outside: %v, %v", left, err)
	}
	mounts, err := os.ReadFile("/proc/1/mountinfo")
	if err != nil || bytes.Contains(mounts, []byte(root)) {
		t.Errorf("mounted outside: %v", err)
	}
	ns := newNamespace(t)
	if err := ns.Close(); err != nil {
		t.Error(err)
	}
	if err := ns.Do(func() error { return nil }); !errors.Is(err, errdefs.ErrFailedPrecondition) {
		t.Errorf("after Close: %v", err)
	}
}

func TestOverlay(t *testing.T) {
	ns, root := newNamespace(t), dirs(t, "a", "b:,\\", "u", "work", "t", "told")
	o := OverlayOptions{Lower: []string{root + "/a", root + "/b:,\\"}}
	for _, mountIt := range []func() error{
		func() error { return Overlay(o, root+"/t") },
		func() error { return o.mountOld(root + "/t") },
	} {
		do(t, ns, func() error {
			if err := mountIt(); err != nil {
				return err
			}
			if list, err := os.ReadDir(root + "/t"); err != nil || len(list) != 2 {
				return fmt.Errorf("mounted: %v, %w", list, err)
			}
			if err := os.WriteFile(root+"/t/f", nil, 0o600); !errors.Is(err, unix.EROFS) {
				return fmt.Errorf("written to: %w", err)
			}
			return Unmount(root + "/t")
		})
	}
	o.Upper, o.Work, o.Volatile = root+"/u", root+"/work", true
	do(t, ns, func() error {
		if err := Overlay(o, root+"/t"); err != nil {
			return err
		}
		return errors.Join(os.Remove(root+"/t/a"), os.WriteFile(root+"/t/new", nil, 0o600), Unmount(root+"/t"))
	})
	list, err := os.ReadDir(root + "/u")
	if err != nil || len(list) != 3 || list[0].Type() != os.ModeDevice|os.ModeCharDevice {
		t.Errorf("in the upper directory: %v, %v", list, err)
	}
	for _, bad := range []OverlayOptions{{}, {Lower: []string{root + "/a"}}, {Lower: []string{root + "/none", root + "/a"}}} {
		if err := ns.Do(func() error { return Overlay(bad, root+"/t") }); err == nil {
			t.Errorf("%v: mounted", bad)
		}
	}
	if err := ns.Do(func() error { return Overlay(o, root+"/none") }); !errors.Is(err, errdefs.ErrNotFound) {
		t.Errorf("on a missing directory: %v", err)
	}
}

func TestBind(t *testing.T) {
	ns, root := newNamespace(t), dirs(t, "a", "t", "t2")
	if err := os.Symlink("/", root+"/link"); err != nil {
		t.Fatal(err)
	}
	do(t, ns, func() error {
		if err := errors.Join(Bind(root+"/a", root+"/t", false), Bind(root+"/a", root+"/t2", true)); err != nil {
			return err
		}
		if err := os.WriteFile(root+"/t2/x", nil, 0o600); !errors.Is(err, unix.EROFS) {
			return fmt.Errorf("written to: %w", err)
		}
		return os.WriteFile(root+"/t/x", nil, 0o600)
	})
	if _, err := os.Stat(root + "/a/x"); err != nil {
		t.Error(err)
	}
	if err := ns.Do(func() error { return Bind(root+"/a", root+"/link", false) }); err == nil {
		t.Error("a symbolic link was followed")
	}
	if err := ns.Do(func() error { return Unmount(root + "/a") }); err == nil {
		t.Error("unmounted what is not mounted")
	}
}

func TestEROFS(t *testing.T) {
	if _, err := exec.LookPath("mkfs.erofs"); err != nil {
		t.Skip("no mkfs.erofs (package erofs-utils)")
	}
	usertest.NeedRoot(t, "to mount EROFS")
	ns, root := newNamespace(t), dirs(t, "a", "t", "t2")
	if err := errors.Join(ns.Do(ProbeEROFS), ns.Do(ProbeOverlay)); err != nil {
		t.Skip(err)
	}
	image := root + "/image"
	if out, err := exec.Command("mkfs.erofs", image, root+"/a").CombinedOutput(); err != nil {
		t.Fatalf("mkfs.erofs: %v: %s", err, out)
	}
	for target, mountIt := range map[string]func(string, []string, string) error{root + "/t": EROFS, root + "/t2": erofsOnLoops} {
		do(t, ns, func() error {
			if err := mountIt(image, nil, target); err != nil {
				return err
			}
			if data, err := os.ReadFile(target + "/a"); err != nil || string(data) != "a" {
				return fmt.Errorf("read %q, %w", data, err)
			}
			return Unmount(target)
		})
	}
	loops, err := filepath.Glob("/sys/block/loop*/loop/backing_file")
	if err != nil {
		t.Fatal(err)
	}
	for _, loop := range loops {
		if file, err := os.ReadFile(loop); err == nil && strings.TrimSpace(string(file)) == image {
			t.Errorf("%s is left", loop)
		}
	}
	if err := os.WriteFile(image, make([]byte, 8192), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := ns.Do(func() error { return EROFS(image, nil, root+"/t") }); err == nil {
		t.Error("mounted zeroes")
	}
}

// TestBindInRace holds CVE-2024-23651: while one makes the name that another binds a link to the outside and back, what is bound is
// always inside.
func TestBindInRace(t *testing.T) {
	ns, root := newNamespace(t), dirs(t, "in", "out", "top")
	inside, outside := root+"/in", root+"/out"
	if err := errors.Join(os.Mkdir(inside+"/dir", 0o755), os.WriteFile(inside+"/dir/mark", nil, 0o600), os.Symlink(outside, inside+"/link")); err != nil {
		t.Fatal(err)
	}
	stop := make(chan struct{})
	var swapping sync.WaitGroup
	swapping.Go(func() {
		for {
			select {
			case <-stop:
				return
			default:
				_ = unix.Renameat2(unix.AT_FDCWD, inside+"/dir", unix.AT_FDCWD, inside+"/link", unix.RENAME_EXCHANGE)
			}
		}
	})
	bound, start := 0, time.Now()
	do(t, ns, func() error {
		for i := 0; i < 300 || bound == 0 && time.Since(start) < 10*time.Second; i++ { // the other may be stopped for long
			target := fmt.Sprintf("%s/top/%d", root, i)
			if err := BindIn(inside, "/dir", target, i%2 == 0); err != nil {
				continue // the link leads nowhere inside
			}
			if _, err := os.Stat(target + "/mark"); err != nil {
				return fmt.Errorf("bound what lies outside: %w", err)
			}
			bound++
			if err := Unmount(target); err != nil {
				return err
			}
		}
		return nil
	})
	close(stop)
	swapping.Wait()
	if bound == 0 {
		t.Error("nothing was bound")
	}
}

// TestBindIn: links stay inside, files and directories are shown as they are.
func TestBindIn(t *testing.T) {
	ns, root := newNamespace(t), dirs(t, "in", "out")
	err := errors.Join(
		os.Mkdir(root+"/in/sub", 0o755), os.Symlink("/", root+"/in/sub/root"), os.Symlink("../../../../out", root+"/in/up"), os.Symlink("/sub", root+"/in/abs"),
	)
	if err != nil {
		t.Fatal(err)
	}
	do(t, ns, func() error {
		for i, c := range []struct{ name, has string }{{"/", "in"}, {"", "in"}, {"sub/root", "in"}, {"abs/root/../..", "in"}, {"abs", "root"}} {
			target := fmt.Sprintf("%s/t%d", root, i)
			if err := BindIn(root+"/in", c.name, target, true); err != nil {
				return err
			}
			if _, err := os.Lstat(target + "/" + c.has); err != nil {
				return fmt.Errorf("%q: %w", c.name, err)
			}
			if err := os.WriteFile(target+"/new", nil, 0o600); !errors.Is(err, unix.EROFS) {
				return fmt.Errorf("%q is not read-only: %w", c.name, err)
			}
		}
		if err := BindIn(root+"/in", "in", root+"/file", false); err != nil {
			return err
		}
		if err := os.WriteFile(root+"/file", []byte("written"), 0o600); err != nil {
			return err
		}
		if err := BindIn(root+"/in", "up", root+"/none", false); !errors.Is(err, errdefs.ErrNotFound) {
			return fmt.Errorf("a link that leads nowhere inside: %w", err)
		}
		return nil
	})
	if b, err := os.ReadFile(root + "/in/in"); err != nil || string(b) != "written" {
		t.Errorf("written through the mount: %q, %v", b, err)
	}
}
