package hub_test

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"

	"strake/internal/hub"
)

// TestBackup backs a Hub up while it is pushed to, restores it, and finds every
// image that was there when the backup began.
func TestBackup(t *testing.T) {
	data, dir := t.TempDir(), filepath.Join(t.TempDir(), "backup")
	h, ctx := open(t, data), system(t)
	shared := bytes.Repeat([]byte("shared"), 1000)
	images := map[string]testImage{}
	push := func(ctx context.Context, tag string) testImage {
		img := newImage(t, tag, shared, []byte(tag))
		if err := img.push(ctx, h, "a", "b", tag); err != nil {
			t.Error(err)
		}
		return img
	}
	for i := range 3 {
		tag := fmt.Sprint("v", i)
		images[tag] = push(ctx, tag)
	}
	if err := os.MkdirAll(filepath.Join(data, "tls"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(data, "tls", "key"), []byte("key"), 0o600); err != nil {
		t.Fatal(err)
	}
	background, stop := context.WithCancel(ctx)
	var pushing sync.WaitGroup
	pushing.Go(func() {
		for i := 0; background.Err() == nil; i++ {
			push(ctx, fmt.Sprint("later", i))
		}
	})
	r, err := hub.Backup(ctx, data, dir)
	stop()
	pushing.Wait()
	if err != nil || r.Blobs < 3*3+1 || r.New != r.Blobs {
		t.Fatalf("%+v, %v", r, err)
	}
	// The next one has less: what is gone from the Hub goes from the backup.
	if err := h.DeleteManifest(ctx, "a", digest.FromBytes(images["v0"].manifest)); err != nil {
		t.Fatal(err)
	}
	delete(images, "v0")
	if _, err := hub.Backup(ctx, data, dir); err != nil {
		t.Fatal(err)
	}
	if _, err := hub.Restore(ctx, dir, data); !errdefs.IsAlreadyExists(err) {
		t.Errorf("Restore over a Hub: %v", err)
	}
	if _, err := hub.Backup(ctx, data, filepath.Join(data, "in")); !errdefs.IsInvalidArgument(err) {
		t.Errorf("Backup inside: %v", err)
	}
	back := filepath.Join(t.TempDir(), "back")
	if _, err := hub.Restore(ctx, dir, back); err != nil {
		t.Fatal(err)
	}
	if b, err := os.ReadFile(filepath.Join(back, "tls", "key")); err != nil || string(b) != "key" {
		t.Errorf("key: %q, %v", b, err)
	}
	restored := open(t, back)
	for tag, img := range images {
		if err := img.pull(ctx, restored, "a", tag); err != nil {
			t.Error(err)
		}
	}
	if _, err := restored.StatManifest(ctx, "a", "v0"); err == nil {
		t.Error("a deleted tag is back")
	}
	for _, d := range []string{dir, back} {
		left, err := filepath.Glob(filepath.Join(d, "*.new*"))
		if err != nil || len(left) > 0 {
			t.Errorf("left: %v, %v", left, err)
		}
	}
}
