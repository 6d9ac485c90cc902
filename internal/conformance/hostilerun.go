package conformance

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"strake/internal/executor"
	"strake/internal/usertest"
)

// testHostileRun has images that attack whoever runs them. Each attack has the number of the advisory that tells of it.
func testHostileRun(t *testing.T, b *box) {
	host := t.TempDir()
	must(t, os.WriteFile(filepath.Join(host, "key"), []byte("secret"), 0o600))
	for _, test := range []struct {
		name string
		run  func(t *testing.T)
	}{
		{"CVE_2026_41579", func(t *testing.T) { // /dev, /proc and /sys lead to the host
			for _, name := range []string{"dev", "proc", "sys"} {
				must(t, os.Symlink(host, filepath.Join(b.root, name)))
				if _, err := b.Run(t.Context(), b.spec("true")); err == nil {
					t.Errorf("started with a link in the place of /%s", name)
				}
				must(t, os.Remove(filepath.Join(b.root, name)))
			}
			if list, err := os.ReadDir(host); err != nil || len(list) != 1 {
				t.Errorf("the host's directory has %v, %v", list, err)
			}
		}},
		{"CVE_2019_16884", func(t *testing.T) { // a volume over /proc, by its name and by links
			must(t, os.Symlink("/proc/self/attr", filepath.Join(b.root, "attr")))
			must(t, os.Symlink("proc", filepath.Join(b.root, "p")))
			for _, target := range []string{"/proc", "/proc/", "//proc/self/attr", "/x/../proc", "/attr", "/p/self", "/p"} {
				spec := b.spec("cat " + target + "/key; cat /proc/self/attr/key")
				spec.Mounts = []executor.Mount{{Type: "bind", Source: host, Target: target, Options: []string{"rbind"}}}
				var out bytes.Buffer
				spec.Stdout = &out
				if _, err := b.Run(t.Context(), spec); err == nil || strings.Contains(out.String(), "secret") {
					t.Errorf("mount at %s: %v, %q", target, err, out.String())
				}
			}
		}},
		{"CVE_2022_2989", func(t *testing.T) { // the groups of the user, and no others, are set; the primary one is among them
			// The same in other programs: CVE-2022-2990, CVE-2022-36109, CVE-2023-25173.
			usertest.NeedIDs(t)
			b.write(t, "etc/passwd", "u:x:10:11::/:/bin/sh\n", 0o644)
			b.write(t, "etc/group", "g:x:11:\nmore:x:12:u\n", 0o644)
			spec := b.spec("")
			spec.Args = []string{"/bin/busybox", "id", "-G"}
			spec.User = "u"
			if got := b.out(t, spec); got != "11 12" {
				t.Errorf("groups %q", got)
			}
		}},
		{"CVE_2026_46680", func(t *testing.T) { usertest.NeedIDs(t); testNumericUser(t, b) }},
		{"CVE_2022_24769", func(t *testing.T) { // nothing is inheritable, for root and for others
			// The same in other programs: CVE-2022-27649, CVE-2022-27651, CVE-2022-29162.
			usertest.NeedIDs(t)
			for _, user := range []string{"0", "10"} {
				spec := b.spec("")
				spec.Args, spec.User = []string{"/bin/busybox", "grep", "-E", "Cap(Inh|Amb)", "/proc/self/status"}, user
				if got := strings.Count(b.out(t, spec), "\t0000000000000000"); got != 2 {
					t.Errorf("user %s has inheritable capabilities", user)
				}
			}
		}},
		{"CVE_2021_21334", func(t *testing.T) { // the environment of one container is not that of the next
			spec := b.spec("env")
			spec.Env = []string{"FIRST=1"}
			b.out(t, spec)
			if got := b.out(t, b.spec("env")); strings.Contains(got, "FIRST") {
				t.Errorf("environment %q", got)
			}
		}},
		{"CVE_2025_31133", func(t *testing.T) { // what is masked stays so when the image brings its own /dev/null
			b.write(t, "dev/null", "", 0o666)
			if got := b.out(t, b.spec("cat /proc/kcore /proc/keys 2>/dev/null | wc -c")); got != "0" {
				t.Errorf("masked files have %q bytes", got)
			}
		}},
	} {
		t.Run(test.name, test.run)
	}
}

// testNumericUser: a number is that user, whatever is called so; what is no number is not user 0.
func testNumericUser(t *testing.T, b *box) {
	t.Helper()
	b.write(t, "etc/passwd", "1000:x:0:0::/:/bin/sh\nroot:x:0:0::/:/bin/sh\n", 0o644)
	spec := b.spec("")
	spec.Args, spec.User = []string{"/bin/busybox", "id", "-u"}, "1000"
	if got := b.out(t, spec); got != "1000" {
		t.Errorf("user 1000 is %q", got)
	}
	for _, user := range []string{"0x0", " 0", "0 ", "0e0", "0_0", "\u0660", "root ", "Root"} {
		spec.User = user
		if _, err := b.Run(t.Context(), spec); err == nil {
			t.Errorf("started as user %q", user)
		}
	}
}
