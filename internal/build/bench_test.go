package build

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"
)

// BenchmarkLoadContext loads a context of 100,000 files that the stat cache
// knows.
func BenchmarkLoadContext(b *testing.B) {
	dir := b.TempDir()
	for d := range 400 {
		sub := filepath.Join(dir, fmt.Sprint(d%20), fmt.Sprint(d))
		if err := os.MkdirAll(sub, 0o755); err != nil {
			b.Fatal(err)
		}
		for f := range 250 {
			if err := os.WriteFile(filepath.Join(sub, fmt.Sprintf("file-%d.txt", f)), []byte("text"), 0o644); err != nil {
				b.Fatal(err)
			}
		}
	}
	s := newDirStore(b)
	load := func() *Context {
		c, err := LoadContext(b.Context(), ContextOptions{
			Dir: dir, Index: s, Now: func() time.Time { return time.Now().Add(time.Minute) },
		})
		if err != nil {
			b.Fatal(err)
		}
		if err := c.Close(); err != nil {
			b.Fatal(err)
		}
		return c
	}
	load()
	b.ReportAllocs()
	for b.Loop() {
		if c := load(); c.Hashed() != 0 {
			b.Fatalf("hashed %d bytes", c.Hashed())
		}
	}
}
