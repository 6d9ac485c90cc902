package conformance

import (
	"crypto/sha256"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"

	"strake/internal/executor"
)

// testHostileRuntime has attacks on the runtime itself: on its program, and on what it does before the container is closed.
func testHostileRuntime(t *testing.T, b *box) {
	for _, test := range []struct {
		name string
		run  func(t *testing.T, b *box)
	}{
		{"CVE_2019_5736", testOverwrittenRuntime},
		{"CVE_2024_45310", testSwappedTarget},
		{"CVE_2025_52565", testHostileConsole},
		{"CVE_2025_52881", testHostileProc},
	} {
		t.Run(test.name, func(t *testing.T) { test.run(t, b) })
	}
}

// testOverwrittenRuntime: a command that is the runtime, as seen from the container, cannot be used to write to the host's.
func testOverwrittenRuntime(t *testing.T, b *box) {
	sums := func() (all [][sha256.Size]byte) {
		for _, name := range []string{"runc", "crun"} {
			if path, err := exec.LookPath(name); err == nil {
				data, err := os.ReadFile(path)
				must(t, err)
				all = append(all, sha256.Sum256(data))
			}
		}
		return all
	}
	before := sums()
	b.write(t, "script", "#!/proc/self/exe\n", 0o755)
	must(t, os.Symlink("/proc/self/exe", filepath.Join(b.root, "link")))
	for _, command := range []string{"/script", "/link", "/proc/self/exe"} {
		spec := b.spec("")
		spec.Args = []string{command}
		_, _ = b.Run(t.Context(), spec) // whether it starts is the runtime's affair
	}
	code, err := b.Run(t.Context(), b.spec("for p in /proc/[0-9]*; do echo bad >>$p/exe; done 2>/dev/null; true"))
	if code != 0 || err != nil {
		t.Errorf("exit code %d, %v", code, err)
	}
	for i, sum := range sums() {
		if sum != before[i] {
			t.Error("a runtime was changed")
		}
	}
}

// testSwappedTarget: nothing is made on the host for a mount whose way is a directory at one moment and a link out of the container at
// another.
func testSwappedTarget(t *testing.T, b *box) {
	host, volume := t.TempDir(), t.TempDir()
	way, other := filepath.Join(volume, "way"), filepath.Join(volume, "other")
	must(t, os.Mkdir(way, 0o755))
	must(t, os.Symlink(host, other))
	spec := b.spec("true")
	spec.Mounts = []executor.Mount{
		{Type: "bind", Source: volume, Target: "/volume", Options: []string{"rbind"}},
		{Type: "tmpfs", Source: "tmpfs", Target: "/volume/way/made"},
	}
	stop := make(chan struct{})
	var swapping sync.WaitGroup
	swapping.Go(func() {
		for {
			select {
			case <-stop:
				return
			default: // each is at the other's place, in turns
				_ = os.Rename(way, way+".old")
				_ = os.Rename(other, way)
				_ = os.Rename(way+".old", other)
			}
		}
	})
	for range 10 {
		_, _ = b.Run(t.Context(), spec) // it may be refused
	}
	close(stop)
	swapping.Wait()
	if left, err := os.ReadDir(host); err != nil || len(left) > 0 {
		t.Errorf("made on the host: %v, %v", left, err)
	}
}

// testHostileConsole: an image's own /dev/console, and what it has where terminals are, is not written to.
func testHostileConsole(t *testing.T, b *box) {
	b.write(t, "file", "untouched", 0o600)
	b.write(t, "dev/pts/x", "", 0o600)
	must(t, os.Symlink("/file", filepath.Join(b.root, "dev/console")))
	must(t, os.Symlink("/file", filepath.Join(b.root, "dev/pts/0")))
	spec := b.spec("test -c /dev/console && test -t 0 && echo hello >/dev/console; cat /file")
	spec.Terminal = true
	if got := b.out(t, spec); got != "hello\r\nuntouched" {
		t.Errorf("got %q", got)
	}
}

// testHostileProc: what the runtime writes to /proc, as labels and settings, does not go to a file that somebody else has put there.
func testHostileProc(t *testing.T, b *box) {
	volume := t.TempDir()
	must(t, os.Symlink("/proc/self/attr", filepath.Join(volume, "attr")))
	for _, target := range []string{"/proc/sys", "/proc/self/attr", "/proc/thread-self/attr", "/proc/sys/net", "/volume/attr"} {
		spec := b.spec("true")
		spec.Isolation.Sysctls = map[string]string{"net.ipv4.ip_default_ttl": "42"}
		spec.Mounts = []executor.Mount{
			{Type: "bind", Source: volume, Target: "/volume", Options: []string{"rbind"}},
			{Type: "tmpfs", Source: "tmpfs", Target: target},
		}
		if _, err := b.Run(t.Context(), spec); err == nil {
			t.Errorf("started with a mount at %s", target)
		}
	}
	spec := b.spec("cat /proc/sys/net/ipv4/ip_default_ttl")
	spec.Isolation.Sysctls = map[string]string{"net.ipv4.ip_default_ttl": "42"}
	if got := b.out(t, spec); got != "42" {
		t.Errorf("the container's own setting is %q", got)
	}
}
