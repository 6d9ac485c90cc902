//go:build linux

package main

import (
	"context"
	"fmt"
	"path/filepath"
)

const builtRepo = "built"

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
		name: "push", tools: []string{"strake", "dockerd", "podman", "buildah"},
		prepare: func(ctx context.Context, s *session) error {
			r, err := startRegistry(ctx, filepath.Join(s.scratch, "registry"))
			if err != nil {
				return err
			}
			s.registry, s.closers = r, append(s.closers, r)
			if err := importBase(ctx, s); err != nil {
				return err
			}
			_, err = s.output(ctx, "build", "-t", ref(s), s.in.path("big"))
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
