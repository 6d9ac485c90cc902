package rootfs_test

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"

	"strake/internal/conformance"
	"strake/internal/layer"
	"strake/internal/mount"
	"strake/internal/rootfs"
	"strake/internal/userns"
	"strake/internal/usertest"
)

func TestEROFS(t *testing.T) {
	usertest.NeedRoot(t, "to mount EROFS")
	conformance.Mounter(t, func(t *testing.T, dir string, ns *mount.Namespace) rootfs.Mounter {
		if err := ns.Do(mount.ProbeEROFS); err != nil {
			t.Skip(err)
		}
		return rootfs.NewEROFS(dir, ns)
	})
}

func TestUnpacked(t *testing.T) {
	conformance.Mounter(t, func(_ *testing.T, dir string, ns *mount.Namespace) rootfs.Mounter {
		return rootfs.NewUnpacked(dir, ns)
	})
}

// emptyLayer makes a layer that has nothing in it.
func emptyLayer(t *testing.T) layer.Files {
	t.Helper()
	dir := t.TempDir()
	l := layer.Files{Tar: filepath.Join(dir, "tar"), Index: filepath.Join(dir, "index")}
	data := make([]byte, 1024)
	var index bytes.Buffer
	if _, err := layer.WriteIndex(t.Context(), bytes.NewReader(data), &index, nil); err != nil {
		t.Fatal(err)
	}
	l.DiffID = digest.FromBytes(data)
	if err := errors.Join(os.WriteFile(l.Tar, data, 0o600), os.WriteFile(l.Index, index.Bytes(), 0o600)); err != nil {
		t.Fatal(err)
	}
	return l
}

// unpackedName is the name of a layer's directory; a user namespace has its own.
func unpackedName(l layer.Files) string {
	name := digest.FromString(l.DiffID.String() + "\n").Encoded()
	if ids := userns.IDs(); ids > 0 {
		name = digest.FromString(fmt.Sprintf("%s as %d ids show it", name, ids)).Encoded()
	}
	return name
}

// TestUnpackedShared: what a crash left is done again, and many find one result.
func TestUnpackedShared(t *testing.T) {
	ns, err := mount.New(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	dir, layers := t.TempDir(), []layer.Files{emptyLayer(t)}
	left := filepath.Join(dir, unpackedName(layers[0])+".partial")
	if err := os.MkdirAll(filepath.Join(left, "half/done"), 0o755); err != nil {
		t.Fatal(err)
	}
	var all sync.WaitGroup
	for range 8 {
		target := t.TempDir()
		all.Go(func() {
			m, err := rootfs.NewUnpacked(dir, ns).Mount(t.Context(), rootfs.MountOptions{Layers: layers, Target: target})
			if err != nil {
				t.Error(err)
				return
			}
			err = ns.Do(func() error {
				found, err := os.ReadDir(target)
				if len(found) > 0 {
					t.Errorf("found %v", found)
				}
				return err
			})
			if err := errors.Join(err, m.Close()); err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
	entries, err := os.ReadDir(dir)
	if err != nil || len(entries) != 1 || len(entries[0].Name()) != 64 {
		t.Errorf("in the directory: %v, %v", entries, err)
	}
	if err := ns.Close(); err != nil {
		t.Error(err)
	}
}

func TestPick(t *testing.T) {
	ns, err := mount.New(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	o := rootfs.PickOptions{Dir: filepath.Join(dir, "a"), UnpackedDir: filepath.Join(dir, "b"), NS: ns}
	for _, name := range []string{"erofs", "unpacked"} {
		t.Setenv(rootfs.Variable, name)
		if m, reason, err := rootfs.Pick(t.Context(), o); err != nil || m.Name() != name || reason == "" {
			t.Errorf("%s: got %v, %q, %v", name, m, reason, err)
		}
	}
	t.Setenv(rootfs.Variable, "aufs")
	if _, _, err := rootfs.Pick(t.Context(), o); !errors.Is(err, errdefs.ErrInvalidArgument) {
		t.Errorf("got error %v", err)
	}
	t.Setenv(rootfs.Variable, "")
	m, reason, err := rootfs.Pick(t.Context(), o)
	if err != nil || reason == "" {
		t.Fatal(err)
	}
	t.Log(m.Name(), reason)
	testChoose(t, o, m.Name())
	if left, err := filepath.Glob(filepath.Join(dir, "*", "*")); err != nil || len(left) > 0 {
		t.Errorf("left: %v, %v", left, err)
	}
	if err := ns.Close(); err != nil {
		t.Error(err)
	}
}

// testChoose: Choose mounts by what Pick names, and by Unpacked where EROFS does not work at all.
func testChoose(t *testing.T, o rootfs.PickOptions, name string) {
	t.Helper()
	files := []layer.Files{emptyLayer(t)}
	for _, broken := range []bool{false, true} {
		c := o
		if broken { // EROFS has no place to mount at
			c.Dir, name = "/proc/self/none", "unpacked"
		}
		m, err := rootfs.Choose(t.Context(), c)
		if err != nil {
			t.Fatal(err)
		}
		target := t.TempDir()
		mounted, err := m.Mount(t.Context(), rootfs.MountOptions{Layers: files, Target: target})
		if err != nil || m.Name() != name {
			t.Fatalf("mounted by %s: %v, want %s", m.Name(), err, name)
		}
		if err := mounted.Close(); err != nil {
			t.Error(err)
		}
	}
	if err := errors.Join(os.RemoveAll(o.Dir), os.RemoveAll(o.UnpackedDir)); err != nil {
		t.Error(err)
	}
}

// TestUnpackedLock: who mounts a chain shares a lock on it, so that nobody removes it.
func TestUnpackedLock(t *testing.T) {
	ns, err := mount.New(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = ns.Close() }()
	dir, l := t.TempDir(), emptyLayer(t)
	mounted, err := rootfs.NewUnpacked(dir, ns).Mount(t.Context(), rootfs.MountOptions{Layers: []layer.Files{l}, Target: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	tree, err := os.Open(filepath.Join(dir, unpackedName(l)))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = tree.Close() }()
	var before, after unix.Stat_t
	if err := unix.Fstat(int(tree.Fd()), &before); err != nil {
		t.Fatal(err)
	}
	time.Sleep(20 * time.Millisecond) // more than a tick of the kernel's clock
	again, err := rootfs.NewUnpacked(dir, ns).Mount(t.Context(), rootfs.MountOptions{Layers: []layer.Files{l}, Target: t.TempDir()})
	if err == nil {
		err = errors.Join(again.Close(), unix.Fstat(int(tree.Fd()), &after))
	}
	if err != nil || after.Ctim.Nano() <= before.Ctim.Nano() || after.Mtim != before.Mtim {
		t.Errorf("a chain that is used again: changed at %d, then at %d: %v", before.Ctim.Nano(), after.Ctim.Nano(), err)
	}
	lock := func() error { return unix.Flock(int(tree.Fd()), unix.LOCK_EX|unix.LOCK_NB) }
	if err := lock(); !errors.Is(err, unix.EWOULDBLOCK) {
		t.Errorf("a mounted chain can be locked: %v", err)
	}
	if err := errors.Join(mounted.Close(), lock()); err != nil {
		t.Error(err)
	}
}
