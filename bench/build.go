//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"
)

const (
	baseName = "localhost/base:1"
	runName  = "localhost/run:1"
	copyName = "localhost/copy:1"
)

// importBase makes the base image; runc gets a root file system of it.
func importBase(ctx context.Context, s *session) error {
	_, err := s.output(ctx, "import", s.in.Base.Path, baseName)
	return err
}

// buildGroup builds without and with cache, and runs what it built.
func buildGroup() group {
	build := func(name, dir string, flags ...string) func(*session) []string {
		return func(s *session) []string { return append(flags, "-t", name, s.in.path(dir)) }
	}
	return group{
		name: "build", tools: []string{"strake", "dockerd", "dockerd-legacy", "podman", "buildah", "runc"},
		prepare: importBase,
		steps: []step{
			{
				name: "run20", title: fmt.Sprintf("Build of %d trivial RUN steps, no cache", runSteps), verb: "build",
				args: build(runName, "run", "--no-cache"),
				check: func(ctx context.Context, s *session) error {
					want := map[string]string{}
					for i := range runSteps {
						want[fmt.Sprintf("f%d", i+1)] = digestOf(fmt.Appendf(nil, "%d\n", i+1))
					}
					return s.wantBuilt(ctx, runName, 1+runSteps, want)
				},
				goals: []goal{ratioGoal(4), timeGoal(runSteps * 50 * time.Millisecond)},
			},
			{
				name: "run20-cached", title: "The same build again, fully cached", verb: "build", repeat: 3,
				args:  build(runName, "run"),
				check: func(ctx context.Context, s *session) error { return s.wantSame(ctx, runName) },
				goals: []goal{ratioGoal(8), timeGoal(60 * time.Millisecond)},
			},
			{
				name: "copy", title: fmt.Sprintf("Build with COPY of %d files", copyFiles), verb: "build", args: build(copyName, "copy"),
				check: func(ctx context.Context, s *session) error {
					want := map[string]string{}
					for i := range copyFiles {
						want[fmt.Sprintf("app/%d", i)] = digestOf(copyContent(i))
					}
					return s.wantBuilt(ctx, copyName, 2, want)
				},
			},
			{
				name: "copy-cached", title: "The same build again, fully cached", verb: "build", repeat: 3, args: build(copyName, "copy"),
				check: func(ctx context.Context, s *session) error { return s.wantSame(ctx, copyName) },
				goals: []goal{ratioGoal(8), timeGoal(60 * time.Millisecond)},
			},
			{
				name: "run", title: "run --rm true in the built image", verb: "run", repeat: 5,
				args: func(*session) []string { return []string{runName, "true"} },
				goals: []goal{{"within 1.5x of bare runc", func(c comparison) bool {
					return c.baseline.Wall > 0 && c.strake.Wall*2 <= c.baseline.Wall*3
				}}},
			},
		},
	}
}

// wantBuilt remembers the image's ID and, in the first round, fails unless the image has that many layers and those files.
func (s *session) wantBuilt(ctx context.Context, name string, layers int, files map[string]string) error {
	id, err := s.imageID(ctx, name)
	if err != nil {
		return err
	}
	s.ids[name] = id
	if s.round > 0 {
		return nil
	}
	archive := filepath.Join(s.scratch, "built.tar")
	if _, err := s.output(ctx, "save", archive, name); err != nil {
		return err
	}
	got, err := readSaved(archive, true)
	if err := errors.Join(err, os.Remove(archive)); err != nil {
		return err
	}
	if len(got.DiffIDs) != layers {
		return fmt.Errorf("%s has %d layers, not %d", name, len(got.DiffIDs), layers)
	}
	for path, want := range files {
		if got.Files[path] != want {
			return fmt.Errorf("%s: %s is %q, not %s", name, path, got.Files[path], want)
		}
	}
	return nil
}

// wantSame fails unless name is still the image that an earlier step remembered.
func (s *session) wantSame(ctx context.Context, name string) error {
	id, err := s.imageID(ctx, name)
	if err == nil && id != s.ids[name] {
		err = fmt.Errorf("%s is %s after the rebuild, %s before", name, id, s.ids[name])
	}
	return err
}
