package engine

import (
	"os"
	"path/filepath"
	"testing"
)

// The entries are what qemu-user-static and its kin register.
func TestInterpreted(t *testing.T) {
	const arm64 = "enabled\ninterpreter /usr/bin/qemu-aarch64\nflags: OCF\noffset 0\n" +
		"magic 7f454c460201010000000000000000000200b700\nmask ffffffffffffff00fffffffffffffffffeffffff\n"
	for name, c := range map[string]struct {
		entry, architecture string
		want                bool
	}{
		"arm64":                      {arm64, "arm64", true},
		"another architecture":       {arm64, "s390x", false},
		"unknown architecture":       {arm64, "pdp11", false},
		"s390x":                      {"enabled\nflags: F\noffset 0\nmagic 7f454c4602020100000000000000000000020016\nmask ffffffffffffff00fffffffffffffffffffeffff\n", "s390x", true},
		"disabled":                   {"disabled\nflags: F\noffset 0\nmagic 7f454c46\n", "arm64", false},
		"interpreter not held open":  {"enabled\nflags: OC\noffset 0\nmagic 7f454c46\n", "arm64", false},
		"by the name's ending":       {"enabled\nflags: F\nextension .jar\n", "arm64", false},
		"more magic than the header": {"enabled\nflags: F\noffset 0\nmagic 7f454c460201010000000000000000000200b70001\n", "arm64", false},
	} {
		dir := t.TempDir()
		if err := os.WriteFile(filepath.Join(dir, "handler"), []byte(c.entry), 0o600); err != nil {
			t.Fatal(err)
		}
		if got := interpreted(dir, c.architecture); got != c.want {
			t.Errorf("%s: %v", name, got)
		}
	}
	if interpreted(filepath.Join(t.TempDir(), "none"), "arm64") {
		t.Error("no binfmt_misc, and an interpreter")
	}
}
