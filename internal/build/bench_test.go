package build

import (
	"context"
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

// BenchmarkCopy copies 10,000 files of 2 KiB.
func BenchmarkCopy(b *testing.B) {
	dir := b.TempDir()
	data := make([]byte, 2<<10)
	for d := range 40 {
		sub := filepath.Join(dir, fmt.Sprint(d%5), fmt.Sprint(d))
		if err := os.MkdirAll(sub, 0o755); err != nil {
			b.Fatal(err)
		}
		for f := range 250 {
			if err := os.WriteFile(filepath.Join(sub, fmt.Sprintf("file-%d.txt", f)), data, 0o644); err != nil {
				b.Fatal(err)
			}
		}
	}
	b.ReportAllocs()
	for b.Loop() {
		s := newDirStore(b)
		c, err := LoadContext(b.Context(), ContextOptions{Dir: dir})
		if err != nil {
			b.Fatal(err)
		}
		op := &Copy{Dest: "/app", Instruction: "COPY /app", Sources: []Source{{
			Context: func(context.Context) (*Context, error) { return c, nil }, Path: ".",
		}}}
		if _, err := NewSolver(Options{Store: s}).Solve(b.Context(), &Vertex{Op: op, Inputs: []*Vertex{{Op: &Base{}}}}); err != nil {
			b.Fatal(err)
		}
		if err := c.Close(); err != nil {
			b.Fatal(err)
		}
	}
}
