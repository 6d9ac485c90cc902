package volume

import (
	"context"
	"database/sql"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/containerd/errdefs"

	"strake/internal/sqldb"
)

// newTable is a table in a store of its own, with the tables that the store makes.
func newTable(t *testing.T) *Table {
	t.Helper()
	root := t.TempDir()
	db, err := sqldb.Open(t.Context(), sqldb.Options{Path: filepath.Join(root, "strake.db")})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := db.Close(); err != nil {
			t.Error(err)
		}
	})
	schema, err := os.ReadFile("../store/migrations/0003_volumes.sql")
	if err != nil {
		t.Fatal(err)
	}
	if err := db.Update(t.Context(), func(tx *sql.Tx) error {
		_, err := tx.ExecContext(t.Context(), string(schema))
		return err
	}); err != nil {
		t.Fatal(err)
	}
	return &Table{DB: db, Root: root, Event: func(context.Context, *sql.Tx, string, string) error { return nil }}
}

// write makes a file with the directories above it.
func write(t *testing.T, path, text string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

func (t *Table) mustFill(tt *testing.T, name, rootfs, path string) {
	tt.Helper()
	f, err := t.Filler(name, rootfs, path)
	if err != nil {
		tt.Fatal(err)
	}
	if err := f.Fill(tt.Context()); err != nil {
		tt.Fatal(err)
	}
	if err := f.Close(); err != nil {
		tt.Fatal(err)
	}
}

func TestFill(t *testing.T) {
	table := newTable(t)
	rootfs := t.TempDir()
	write(t, filepath.Join(rootfs, "data/sub/file"), "text")
	if err := os.Chmod(filepath.Join(rootfs, "data"), 0o710); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("sub/file", filepath.Join(rootfs, "data/link")); err != nil {
		t.Fatal(err)
	}
	if err := table.Create(t.Context(), Volume{Name: "vol"}); err != nil {
		t.Fatal(err)
	}
	// What a crash in the middle of an earlier copy left.
	write(t, filepath.Join(table.Root, "volumes/vol", filling, "half"), "ha")
	var all sync.WaitGroup
	for range 8 {
		all.Go(func() { table.mustFill(t, "vol", rootfs, "/data") })
	}
	all.Wait()
	if got, err := os.ReadFile(filepath.Join(table.Path("vol"), "link")); err != nil || string(got) != "text" {
		t.Errorf("link: %q, %v", got, err)
	}
	info, err := os.Stat(table.Path("vol"))
	if err != nil || info.Mode().Perm() != 0o710 {
		t.Errorf("mode of the volume: %v, %v", info.Mode(), err)
	}
	if names, err := filepath.Glob(filepath.Join(table.Root, "volumes/vol/*")); err != nil || len(names) != 1 {
		t.Errorf("the volume's directory has %q, %v", names, err)
	}
	// A volume that has files stays as it is, and one whose files were copied, but not yet moved, gets them.
	write(t, filepath.Join(rootfs, "data/more"), "more")
	table.mustFill(t, "vol", rootfs, "data")
	if _, err := os.Lstat(filepath.Join(table.Path("vol"), "more")); err == nil {
		t.Error("a volume with files was filled")
	}
	write(t, filepath.Join(table.Root, "volumes/vol", filled, "late"), "late")
	table.mustFill(t, "vol", rootfs, "data")
	if got, err := os.ReadFile(filepath.Join(table.Path("vol"), "late")); err != nil || string(got) != "late" {
		t.Errorf("late: %q, %v", got, err)
	}
}

// TestCVE_2022_23648 has volumes whose place in the image is, or leads over, a symbolic link to the host: what is copied is the image's.
func TestCVE_2022_23648(t *testing.T) {
	table := newTable(t)
	host, rootfs := t.TempDir(), t.TempDir()
	write(t, filepath.Join(host, "secret/key"), "host")
	write(t, filepath.Join(rootfs, "inside/key"), "image")
	for name, target := range map[string]string{
		"absolute": filepath.Join(host, "secret"), "relative": strings.Repeat("../", 40) + filepath.Join(host, "secret"),
		"proc": "/proc/self/root" + filepath.Join(host, "secret"), "fd": "/proc/self/fd", "loop": "loop", "good": "/inside",
	} {
		if err := os.Symlink(target, filepath.Join(rootfs, name)); err != nil {
			t.Fatal(err)
		}
		for _, path := range []string{"/" + name, "/" + name + "/."} {
			vol := name + "-" + strings.Trim(path, "/.")
			if err := table.Create(t.Context(), Volume{Name: vol}); err != nil {
				t.Fatal(err)
			}
			table.mustFill(t, vol, rootfs, path)
			got, err := os.ReadFile(filepath.Join(table.Path(vol), "key"))
			if name == "good" && string(got) != "image" {
				t.Errorf("%s: %q, %v", path, got, err)
			}
			if name != "good" && err == nil {
				t.Errorf("%s: the volume has %q", path, got)
			}
		}
	}
	// In the volume itself, and in what a copy left behind: links are not followed.
	if err := table.Create(t.Context(), Volume{Name: "evil"}); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(host, filepath.Join(table.Root, "volumes/evil", filled)); err != nil {
		t.Fatal(err)
	}
	f, err := table.Filler("evil", rootfs, "/inside")
	if err == nil {
		err = f.Fill(t.Context())
	}
	if err == nil {
		t.Error("a link in the place of a copy was followed")
	}
	if _, err := os.Stat(filepath.Join(host, "secret/key")); err != nil {
		t.Error(err)
	}
}

func TestRemove(t *testing.T) {
	table := newTable(t)
	if err := table.Create(t.Context(), Volume{Name: "used"}); err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(table.Path("used"), "file"), "text")
	if err := table.DB.Update(t.Context(), func(tx *sql.Tx) error { return table.Use(t.Context(), tx, "used", "c1") }); err != nil {
		t.Fatal(err)
	}
	err := table.Remove(t.Context(), "used")
	if want := "remove used: volume is in use - [c1]"; !errdefs.IsConflict(err) || err.Error() != want {
		t.Errorf("%v, want %s", err, want)
	}
	if v, err := table.Get(t.Context(), "used"); err != nil || len(v.Users) != 1 {
		t.Errorf("%+v, %v", v, err)
	}
	if err := table.DB.Update(t.Context(), func(tx *sql.Tx) error {
		_, err := tx.ExecContext(t.Context(), "DELETE FROM volume_users")
		return err
	}); err != nil {
		t.Fatal(err)
	}
	if err := table.Remove(t.Context(), "used"); err != nil {
		t.Fatal(err)
	}
	if left, err := os.ReadDir(Dir(table.Root)); err != nil || len(left) > 0 {
		t.Errorf("%v is left, %v", left, err)
	}
	if err := table.Remove(t.Context(), "used"); !errdefs.IsNotFound(err) {
		t.Errorf("removed twice: %v", err)
	}
}

func TestDevice(t *testing.T) {
	for _, c := range []struct{ kind, device, options, want string }{
		{"nfs", ":/export", "addr=127.0.0.1,rw", "addr=127.0.0.1,rw"},
		{"nfs", ":/export", "addr=localhost,rw", "addr="},
		{"tmpfs", "tmpfs", "size=1m", "size=1m"},
	} {
		v := Volume{Options: map[string]string{"type": c.kind, "device": c.device, "o": c.options}}
		d, err := v.Device(t.Context())
		if err != nil || !strings.HasPrefix(d.Options, c.want) || strings.Contains(d.Options, "localhost") {
			t.Errorf("%+v: %+v, %v", c, d, err)
		}
	}
}
