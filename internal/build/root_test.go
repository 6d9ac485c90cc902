package build

import (
	"io"
	"os"
	"path/filepath"
	"testing"
)

// rooted is a context with the file d/f beside a directory outside that has a
// longer file f.
func rooted(t *testing.T) (dir, outside string, c *Context) {
	t.Helper()
	base := t.TempDir()
	dir, outside = filepath.Join(base, "context"), filepath.Join(base, "outside")
	for name, text := range map[string]string{filepath.Join(dir, "d", "f"): "own", filepath.Join(outside, "f"): "somebody else's"} {
		if err := os.MkdirAll(filepath.Dir(name), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	c, err := LoadContext(t.Context(), ContextOptions{Dir: dir})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	})
	return dir, outside, c
}

// swap puts a symlink to outside in the place of d.
func swap(t *testing.T, dir, outside string) {
	t.Helper()
	if err := os.Rename(filepath.Join(dir, "d"), filepath.Join(dir, "e")); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(outside, filepath.Join(dir, "d")); err != nil {
		t.Fatal(err)
	}
}

// TestCVE_2026_39822_TrailingSlash swaps a directory of a loaded context for a
// symlink out of it, and names things through it with and without a slash.
func TestCVE_2026_39822_TrailingSlash(t *testing.T) {
	dir, outside, c := rooted(t)
	swap(t, dir, outside)
	if rc, err := c.open("d/f"); err == nil { // of the directory that it was, which may be open still
		b, err := io.ReadAll(rc)
		if string(b) != "own" || err != nil || rc.Close() != nil {
			t.Errorf("read %q, %v", b, err)
		}
	}
	for _, name := range []string{"d", "d/", "d//", "d/.", "d/./", "./d/"} {
		if r, err := c.dir.OpenRoot(name); err == nil {
			t.Errorf("%s: opened as a root, %v", name, r.Close())
		}
		if f, err := c.dir.OpenFile(name, os.O_RDONLY, 0); err == nil {
			t.Errorf("%s: opened, %v", name, f.Close())
		}
		if err := c.dir.Mkdir(name+"/made", 0o700); err == nil {
			t.Errorf("%s: made a directory in it", name)
		}
	}
}

// TestCVE_2025_22873_Parent names the directory above a context.
func TestCVE_2025_22873_Parent(t *testing.T) {
	_, _, c := rooted(t)
	for _, name := range []string{"..", "../", "d/../..", "d/../../", "../outside", "../outside/", "/"} {
		if f, err := c.dir.Open(name); err == nil {
			t.Errorf("%s: opened, %v", name, f.Close())
		}
	}
}

// TestCVE_2026_27139_ReadDir reads a directory and swaps it then: what is told of
// the files in it is not of those that the symlink leads to.
func TestCVE_2026_27139_ReadDir(t *testing.T) {
	dir, outside, c := rooted(t)
	d, err := c.dir.Open("d")
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	entries, err := d.ReadDir(-1)
	if err != nil || len(entries) != 1 {
		t.Fatal(entries, err)
	}
	swap(t, dir, outside)
	if info, err := entries[0].Info(); err == nil && info.Size() != int64(len("own")) {
		t.Errorf("%d bytes: the file outside", info.Size())
	}
}

// TestCVE_2026_32282_Chmod changes modes through a symlink out of a context.
func TestCVE_2026_32282_Chmod(t *testing.T) {
	dir, outside, c := rooted(t)
	swap(t, dir, outside)
	if err := os.Symlink("../outside/f", filepath.Join(dir, "l")); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"d", "d/f", "l"} {
		if err := c.dir.Chmod(name, 0o777); err == nil {
			t.Errorf("%s: changed", name)
		}
	}
	for name, want := range map[string]os.FileMode{outside: 0o700, filepath.Join(outside, "f"): 0o600} {
		if info, err := os.Stat(name); err != nil || info.Mode().Perm() != want {
			t.Errorf("%s: %v, %v", name, info.Mode(), err)
		}
	}
}
