//go:build linux

package main

import (
	"context"
	"fmt"
	"path/filepath"
	"time"
)

const (
	bigRepo   = "big"
	smallRepo = "small"
)

// pullGroup pulls the big image into an empty store, lists it and saves it.
func pullGroup() group {
	ref := func(s *session) string { return s.registry.ref(bigRepo) }
	return group{
		name: "pull", tools: []string{"strake", "dockerd", "podman", "skopeo"}, peerRounds: 2, inputs: []string{inputImage},
		steps: []step{
			{
				name: "pull", title: "Pull of two big gzip layers, loopback registry, empty store", verb: "pull", disk: true,
				args:  func(s *session) []string { return []string{ref(s)} },
				check: func(ctx context.Context, s *session) error { return s.wantID(ctx, ref(s)) },
				goals: []goal{
					ratioGoal(2), diskGoal(1.02),
					{"peak memory under 100 MB", func(c comparison) bool { return c.strake.RSS < 100e6 }},
				},
			},
			{
				name: "images", title: "List of the images, one in the store", verb: "images", repeat: 5,
				args:  func(*session) []string { return nil },
				goals: []goal{timeGoal(20 * time.Millisecond)},
			},
			{
				name: "version", title: "Start of the program: its version", verb: "version", repeat: 5,
				args:  func(*session) []string { return nil },
				goals: []goal{timeGoal(10 * time.Millisecond)},
			},
			{
				name: "save", title: "Save of the pulled image to a docker archive", verb: "save",
				args: func(s *session) []string { return []string{filepath.Join(s.root, "saved.tar"), ref(s)} },
				check: func(_ context.Context, s *session) error {
					if s.round > 0 {
						return nil
					}
					name := filepath.Join(s.root, "saved.tar")
					got, err := readSaved(name, false)
					if err != nil {
						return err
					}
					if got.ID != s.in.imageID() {
						return fmt.Errorf("the saved image is %s, not %s", got.ID, s.in.imageID())
					}
					return nil
				},
				goals: []goal{ratioGoal(2)},
			},
		},
	}
}

// wantID fails unless the tool shows the big image's ID for name.
func (s *session) wantID(ctx context.Context, name string) error {
	id, err := s.imageID(ctx, name)
	if err == nil && id != s.in.imageID() {
		err = fmt.Errorf("%s is %s, not %s", name, id, s.in.imageID())
	}
	return err
}

const loadedName = "localhost/loaded:1"

// loadGroup loads the big image from a docker archive with uncompressed layers.
func loadGroup() group {
	return group{
		name: "load", tools: []string{"strake", "dockerd", "podman"}, peerRounds: 2, inputs: []string{inputImage},
		steps: []step{{
			name: "load", title: "Load of a docker archive with uncompressed layers, empty store", verb: "load", disk: true,
			args:  func(s *session) []string { return []string{s.in.path("archive.tar")} },
			check: func(ctx context.Context, s *session) error { return s.wantID(ctx, loadedName) },
			goals: []goal{ratioGoal(2)},
		}},
	}
}
