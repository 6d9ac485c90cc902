package executor_test

import (
	"os"
	"path/filepath"
	"testing"

	"strake/internal/executor"
)

// BenchmarkRun is the cost of a container that does nothing.
func BenchmarkRun(b *testing.B) {
	data, err := os.ReadFile("/bin/busybox")
	if err != nil || os.Geteuid() != 0 {
		b.Skip("needs root and a static busybox")
	}
	r, err := executor.NewRunc(executor.RuncOptions{StateDir: b.TempDir()})
	if err != nil {
		b.Skip(err)
	}
	root := b.TempDir()
	if err := os.WriteFile(filepath.Join(root, "busybox"), data, 0o755); err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		spec := executor.Spec{Bundle: filepath.Join(b.TempDir(), "b"), Rootfs: root, Args: []string{"/busybox", "true"}}
		if code, err := r.Run(b.Context(), spec); code != 0 || err != nil {
			b.Fatal(code, err)
		}
	}
	if err := r.Close(); err != nil {
		b.Error(err)
	}
}
