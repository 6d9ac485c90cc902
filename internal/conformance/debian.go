package conformance

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"
)

// DebianTar is a Debian minbase root file system. It is made once a machine and
// day, as it takes a while.
func DebianTar(t *testing.T) string {
	t.Helper()
	if _, err := exec.LookPath("mmdebstrap"); err != nil {
		t.Skip("needs mmdebstrap")
	}
	cache, err := os.UserCacheDir()
	ok(t, err)
	out := filepath.Join(cache, "strake-tests", "bookworm-minbase.tar")
	if info, err := os.Stat(out); err == nil && time.Since(info.ModTime()) < 24*time.Hour {
		return out
	}
	ok(t, os.MkdirAll(filepath.Dir(out), 0o755))
	part, err := os.MkdirTemp(filepath.Dir(out), "minbase-")
	ok(t, err)
	defer os.RemoveAll(part)
	if text, err := exec.Command("mmdebstrap", "--variant=minbase", "bookworm", part+"/tar").CombinedOutput(); err != nil {
		t.Fatalf("mmdebstrap: %v\n%s", err, text)
	}
	ok(t, os.Rename(part+"/tar", out))
	return out
}
