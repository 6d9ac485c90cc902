package hub_test

import (
	"bytes"
	"context"
	"log/slog"
	"testing"
	"time"

	"github.com/containerd/errdefs"

	"strake/internal/auth"
	"strake/internal/hub"
	"strake/internal/jobs"
)

// Collections are remembered, whoever began them, and administrators see what
// they did and what there is.
func TestCollections(t *testing.T) {
	engines(t, func(t *testing.T, newOptions func(t *testing.T) hub.Options) {
		h, err := hub.Open(t.Context(), newOptions(t))
		if err != nil {
			t.Fatal(err)
		}
		defer h.Close()
		root := auth.With(t.Context(), auth.Identity{System: true})
		shared, own := bytes.Repeat([]byte("s"), 1000), bytes.Repeat([]byte("o"), 5000)
		one, two := newImage(t, "one", shared), newImage(t, "two", shared, own)
		for name, img := range map[string]testImage{"a/one": one, "a/two": two} {
			if err := img.push(root, h, name, "a/none", "1"); err != nil {
				t.Fatal(err)
			}
		}
		list, err := hub.Holdings(root, h, 0, 10)
		if err != nil || len(list) != 2 || list[0].Repository != "a/two" || list[0].Bytes < 6000 || list[0].Own < 5000 || list[0].Own >= 6000 || list[1].Own >= 1000 {
			t.Errorf("holdings: %+v, %v", list, err)
		}
		if list, err = hub.Holdings(root, h, 1, 10); err != nil || len(list) != 1 {
			t.Errorf("holdings after the first: %+v, %v", list, err)
		}
		if blobs, size, err := hub.Stored(root, h); err != nil || blobs != 6 || size < 6000 {
			t.Errorf("stored: %d, %d, %v", blobs, size, err)
		}

		if _, err := hub.Collect(root, h, hub.GCOptions{DryRun: true}); err != nil {
			t.Fatal(err)
		}
		asked, err := hub.CollectSoon(root, h)
		if err != nil {
			t.Fatal(err)
		}
		if again, err := hub.CollectSoon(root, h); err != nil || again.ID != asked.ID {
			t.Errorf("asked again while it waits: %+v, %v; at first %+v", again, err, asked)
		}
		if runs, err := hub.Collections(root, h, 10); err != nil || len(runs) != 1 || runs[0] != asked {
			t.Errorf("asked for %+v, listed: %+v, %v", asked, runs, err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan struct{})
		queue := jobs.New(hub.DB(h), jobs.Options{Handlers: hub.CollectHandlers(h, hub.GCOptions{}, slog.New(slog.DiscardHandler)), Poll: 10 * time.Millisecond})
		go func() { defer close(done); queue.Run(ctx) }()
		for deadline := time.Now().Add(30 * time.Second); ; time.Sleep(10 * time.Millisecond) {
			runs, err := hub.Collections(root, h, 10)
			if err != nil || len(runs) > 1 || time.Now().After(deadline) {
				t.Fatalf("collections: %+v, %v", runs, err)
			}
			if len(runs) == 1 && runs[0].ID == asked.ID && runs[0].State == hub.CollectionDone && !runs[0].Ended.IsZero() {
				break
			}
		}
		cancel()
		<-done

		ended, cancel := context.WithCancel(root)
		cancel()
		if _, err := hub.Collect(ended, h, hub.GCOptions{}); err == nil {
			t.Error("a collection that was told to stop went through")
		}
		for _, bob := range []context.Context{t.Context(), auth.With(t.Context(), auth.Identity{Account: 7, Name: "bob"})} {
			_, err1 := hub.Collections(bob, h, 10)
			_, err2 := hub.Holdings(bob, h, 0, 10)
			_, _, err3 := hub.Stored(bob, h)
			_, err4 := hub.CollectSoon(bob, h)
			for _, err := range []error{err1, err2, err3, err4} {
				if !errdefs.IsPermissionDenied(err) && !errdefs.IsUnauthorized(err) {
					t.Errorf("as somebody else: %v", err)
				}
			}
		}
	})
}
