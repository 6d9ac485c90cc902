//go:build linux

package main

import (
	"context"
	"fmt"
	"path/filepath"
)

const (
	builtRepo = "built"
	builtName = "localhost/built:1"
)

// storeGroup builds an image with one big layer into the tool's store.
func storeGroup() group {
	return group{
		name: "store", tools: []string{"strake", "dockerd", "buildkit", "buildah"}, rounds: 5, peerRounds: 2, inputs: []string{inputBig},
		prepare: importBase,
		steps: []step{{
			name: "store", title: fmt.Sprintf("Build of a layer of %d MB, to the store", builtBytes/1_000_000), verb: "build", disk: true,
			args: func(s *session) []string { return []string{"-t", builtName, s.in.path("big")} },
			check: func(ctx context.Context, s *session) error {
				return s.wantBuilt(ctx, builtName, 2, copied("big", "tree"))
			},
			goals: []goal{ratioGoal(2)},
		}},
	}
}

// archiveGroup exports the built image to an archive.
func archiveGroup() group {
	archive := func(s *session) string { return filepath.Join(s.root, "built.tar") }
	return group{
		name: "archive", tools: []string{"strake", "buildkit", "buildah"}, rounds: 5, peerRounds: 2, inputs: []string{inputBig},
		prepare: func(ctx context.Context, s *session) error {
			if err := importBase(ctx, s); err != nil {
				return err
			}
			_, err := s.output(ctx, "solve", "-t", builtName, s.in.path("big"))
			return err
		},
		steps: []step{{
			name: "archive", title: fmt.Sprintf("The built layer of %d MB, compressed, to an OCI archive", builtBytes/1_000_000), verb: "archive",
			args: func(s *session) []string { return []string{archive(s), builtName, s.in.path("big")} },
			check: func(_ context.Context, s *session) error {
				return wantArchive(archive(s), 2)
			},
			goals: []goal{ratioGoal(2)},
		}},
	}
}

// pushGroup builds an image with one big layer (untimed) and pushes it to an empty registry, twice.
func pushGroup() group {
	ref := func(s *session) string { return s.registry.ref(builtRepo) }
	args := func(s *session) []string { return []string{ref(s)} }
	check := func(ctx context.Context, s *session) error {
		id, err := s.imageID(ctx, ref(s))
		if err != nil {
			return err
		}
		return s.registry.verify(ctx, builtRepo, id, s.round == 0)
	}
	return group{
		name: "push", tools: []string{"strake", "dockerd", "buildkit", "podman", "buildah"}, rounds: 5, peerRounds: 2, inputs: []string{inputBig},
		prepare: func(ctx context.Context, s *session) error {
			r, err := startRegistry(ctx, filepath.Join(s.scratch, "registry"))
			if err != nil {
				return err
			}
			s.registry, s.closers = r, append(s.closers, r)
			if err := importBase(ctx, s); err != nil {
				return err
			}
			_, err = s.output(ctx, "solve", "-t", ref(s), s.in.path("big"))
			return err
		},
		steps: []step{
			{
				name: "push", title: fmt.Sprintf("Push of a built layer of %d MB, empty loopback registry", builtBytes/1_000_000),
				verb: "push", args: args, check: check, goals: []goal{ratioGoal(2)},
			},
			{
				name: "push-again", title: "The same push again, nothing new", verb: "push", args: args, check: check,
				goals: []goal{ratioGoal(1)},
			},
		},
	}
}
