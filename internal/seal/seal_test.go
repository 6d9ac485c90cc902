package seal

import (
	"os"
	"path/filepath"
	"sync"
	"testing"

	"github.com/containerd/errdefs"
)

// All that make the key file at once have the same key.
func TestKey(t *testing.T) {
	path := filepath.Join(t.TempDir(), "key")
	var wait sync.WaitGroup
	keys := make([]*Key, 8)
	for i := range keys {
		wait.Go(func() {
			var err error
			if keys[i], err = Load(path); err != nil {
				t.Error(err)
			}
		})
	}
	wait.Wait()
	sealed, err := keys[0].Seal("secret", "upstream of a")
	if err != nil {
		t.Fatal(err)
	}
	if again, err := keys[0].Seal("secret", "upstream of a"); err != nil || again == sealed {
		t.Error("the same text is sealed alike")
	}
	for i, k := range keys {
		if got, err := k.Open(sealed, "upstream of a"); err != nil || got != "secret" {
			t.Errorf("key %d: %q, %v", i, got, err)
		}
		if _, err := k.Open(sealed, "upstream of b"); !errdefs.IsFailedPrecondition(err) {
			t.Errorf("opened for another purpose: %v", err)
		}
	}
	for _, bad := range []string{"x", "AAAA", sealed[:10]} {
		if _, err := keys[0].Open(bad, "upstream of a"); !errdefs.IsFailedPrecondition(err) {
			t.Errorf("%q: %v", bad, err)
		}
	}
	var none *Key
	if _, err := none.Seal("x", "y"); !errdefs.IsFailedPrecondition(err) {
		t.Errorf("sealed without a key: %v", err)
	}
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, %v", info.Mode(), err)
	}
	entries, err := os.ReadDir(filepath.Dir(path))
	if err != nil || len(entries) != 1 {
		t.Errorf("left %v, %v", entries, err)
	}
	if err := os.WriteFile(path, []byte("short"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Load(path); !errdefs.IsInvalidArgument(err) {
		t.Errorf("a broken key file: %v", err)
	}
}
