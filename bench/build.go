//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"time"
)

const (
	baseRepo   = "base"
	baseName   = "localhost/base:1"
	runName    = "localhost/run:1"
	copyName   = "localhost/copy:1"
	filesName  = "localhost/files:1"
	stagesName = "localhost/stages:1"
)

// importBase makes the base image; runc gets a root file system of it. Who cannot import builds on it once, and so has it from
// the registry.
func importBase(ctx context.Context, s *session) error {
	if !s.has("import") {
		_, err := s.output(ctx, "solve", "-t", baseName, s.in.path("base"))
		return err
	}
	_, err := s.output(ctx, "import", s.in.path("base.tar"), baseName)
	return err
}

// buildStep builds a context to an image of that many layers and those files.
func buildStep(name, title, image, dir string, layers int, files func(s *session) (map[string]string, error), goals ...goal) step {
	return step{
		name: name, title: title, verb: "build", goals: goals,
		args:  func(s *session) []string { return []string{"-t", image, s.in.path(dir)} },
		check: func(ctx context.Context, s *session) error { return s.wantBuilt(ctx, image, layers, files) },
	}
}

// copied are the digests of the files of at most 1 MiB below top in a context.
func copied(dir, top string) func(s *session) (map[string]string, error) {
	return func(s *session) (map[string]string, error) {
		want := map[string]string{}
		err := filepath.WalkDir(filepath.Join(s.in.path(dir), top), func(name string, d fs.DirEntry, err error) error {
			if err != nil || !d.Type().IsRegular() {
				return err
			}
			b, err := os.ReadFile(name) // #nosec G304 G122 -- an input of ours
			if err == nil && len(b) <= smallFile {
				rel, _ := strings.CutPrefix(name, s.in.path(dir)+"/")
				want[rel] = digestOf(b)
			}
			return err
		})
		return want, err
	}
}

// numbered are files PREFIX<i> that hold i, for n numbers from first.
func numbered(prefix string, first, n int) func(*session) (map[string]string, error) {
	return func(*session) (map[string]string, error) {
		want := map[string]string{}
		for i := first; i < first+n; i++ {
			want[fmt.Sprintf("%s%d", prefix, i)] = digestOf(fmt.Appendf(nil, "%d\n", i))
		}
		return want, nil
	}
}

// cachedStep builds again what a buildStep built.
func cachedStep(of step, image string, limit time.Duration) step {
	return step{
		name: of.name + "-cached", title: of.title + ": again, fully cached", verb: "build", repeat: 3, args: of.args,
		check: func(ctx context.Context, s *session) error { return s.wantSame(ctx, image) },
		goals: []goal{ratioGoal(10), timeGoal(limit)},
	}
}

// buildGroup builds without and with cache.
func buildGroup() group {
	run := buildStep("run20", fmt.Sprintf("Build of %d trivial RUN steps", runSteps), runName, "run", 1+runSteps, numbered("f", 1, runSteps),
		ratioGoal(5), timeGoal(runSteps*50*time.Millisecond))
	few := buildStep("copy", fmt.Sprintf("Build with COPY of %d files", copyFiles), copyName, "copy", 2, copied("copy", "app"))
	return group{
		name: "build", tools: []string{"strake", "dockerd", "dockerd-legacy", "buildkit", "buildah"}, peerRounds: 2, prepare: importBase,
		steps: []step{run, cachedStep(run, runName, 50*time.Millisecond), few, cachedStep(few, copyName, 50*time.Millisecond)},
	}
}

// filesGroups build from contexts of very many files.
func filesGroups() []group {
	one := func(name string, count, rounds, peers int, limit time.Duration, goals ...goal) group {
		title := fmt.Sprintf("Build with COPY of %d files of %d KiB", count, fileBytes>>10)
		st := buildStep("copy-"+name, title, filesName, name, 2, copied(name, "tree"), goals...)
		return group{
			name: name, tools: []string{"strake", "dockerd", "buildkit", "buildah"}, rounds: rounds, peerRounds: peers, inputs: []string{inputFiles},
			prepare: importBase, steps: []step{st, cachedStep(st, filesName, limit)},
		}
	}
	return []group{
		one("files10k", someFiles, 5, 2, 100*time.Millisecond),
		one("files100k", manyFiles, 3, 1, 400*time.Millisecond, ratioGoal(3)),
	}
}

// stagesGroup builds independent stages that compute.
func stagesGroup() group {
	st := buildStep("stages", fmt.Sprintf("Build of %d independent stages that compute", stages), stagesName, "stages", 1+stages,
		numbered("s", 0, stages), ratioGoal(1), goal{"all cores busy for 85 % of the time", func(c comparison) bool {
			return float64(c.strake.CPU) >= 0.85*float64(c.strake.Wall)*float64(runtime.NumCPU())
		}})
	return group{
		name: "stages", tools: []string{"strake", "dockerd", "buildkit", "buildah"}, rounds: 5, peerRounds: 2, prepare: importBase,
		steps: []step{st},
	}
}

// wantBuilt remembers the image's ID and, in the first round, fails unless the image has that many layers and those files.
func (s *session) wantBuilt(ctx context.Context, name string, layers int, files func(*session) (map[string]string, error)) error {
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
	expected, err := files(s)
	if err != nil {
		return err
	}
	for path, want := range expected {
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
