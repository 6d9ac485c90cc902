package engine

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"

	"strake/internal/build"
	"strake/internal/layer"
	"strake/internal/store"
)

// verify builds a second time, without the cache and without a record of it, and
// fails where the result is not the same. Without SOURCE_DATE_EPOCH times are what
// they are, and not compared.
func (b *building) verify(ctx context.Context) (err error) {
	options := b.options()
	options.Store, options.Exchange = unrecorded{b.env.Store}, nil
	run := &buildRuntime{env: b.env, limited: b.given.limits != nil}
	defer closing(&err, run.close)
	options.Runtime, options.Missed, options.Shell = run.open, b.bases.hold, b.opts.Shell
	second := build.NewSolver(options)
	defer closing(&err, second.Close)
	opts, in := b.opts, *b.input
	opts.NoCache = true
	in.opts, in.solver = &opts, second
	file, err := b.file.Again()
	if err != nil {
		return err
	}
	definitions, err := compileBuild(ctx, b.bases, &in, file, b.targets, b.given)
	if err != nil {
		return fmt.Errorf("build again: %w", err)
	}
	again, err := in.solve(ctx, definitions)
	if err != nil {
		return fmt.Errorf("build again: %w", err)
	}
	return b.compare(ctx, again)
}

// compare fails where the second build is not the first.
func (x *exporter) compare(ctx context.Context, again []build.Built) error {
	step := x.solver.Begin("comparing the two builds")
	var differ []string
	for i := range again {
		list, err := x.differences(ctx, x.built[i], again[i])
		if err != nil {
			return step.End(ctx, err)
		}
		differ = append(differ, list...)
	}
	if len(differ) > 0 {
		for _, line := range differ {
			if _, err := fmt.Fprintln(step, line); err != nil {
				return step.End(ctx, err)
			}
		}
		return step.End(ctx, messageError{"the build is not reproducible: " + summary(differ), errdefs.ErrFailedPrecondition})
	}
	return step.End(ctx, nil)
}

// maxShown is how many differences an error names.
const maxShown = 5

func summary(differ []string) string {
	if len(differ) <= maxShown {
		return strings.Join(differ, ", ")
	}
	return fmt.Sprintf("%s and %d more", strings.Join(differ[:maxShown], ", "), len(differ)-maxShown)
}

// differences lists what is not the same in two builds: files, the config, or
// layers whose files are the same and whose bytes are not.
func (x *exporter) differences(ctx context.Context, a, b build.Built) (list []string, err error) {
	one, err := x.part(ctx, a)
	if err != nil {
		return nil, err
	}
	defer closing(&err, one.close)
	two, err := x.part(ctx, b)
	if err != nil {
		return nil, err
	}
	defer closing(&err, two.close)
	err = layer.Compare(ctx, one.files, two.files, func(d layer.Difference) error {
		what := d.What
		if x.epoch == nil {
			what &^= layer.Time
		}
		switch {
		case d.Old == nil:
			list = append(list, shownPath(d.Path)+" (only in the second build)")
		case d.New == nil:
			list = append(list, shownPath(d.Path)+" (only in the first build)")
		case what != 0:
			list = append(list, fmt.Sprintf("%s (%s)", shownPath(d.Path), strings.Join(aspectNames(what), ", ")))
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	if x.epoch != nil && len(list) == 0 {
		for i := range min(len(a.Layers), len(b.Layers)) {
			if a.Layers[i].Digest != b.Layers[i].Digest {
				list = append(list, fmt.Sprintf("layer %d (its tar)", i+1))
			}
		}
	}
	same, err := sameConfig(a.Config, b.Config, x.epoch != nil)
	if !same && len(list) == 0 {
		list = append(list, "the image's config")
	}
	return list, err
}

// sameConfig compares two configs; without their times, which are also in their
// layers' digests, unless those count.
func sameConfig(a, b []byte, times bool) (bool, error) {
	if times {
		return bytes.Equal(a, b), nil
	}
	strip := func(b []byte) ([]byte, error) {
		var fields map[string]any
		if err := json.Unmarshal(b, &fields); err != nil {
			return nil, fmt.Errorf("image config: %w", err)
		}
		delete(fields, "created")
		delete(fields, "rootfs")
		if history, ok := fields["history"].([]any); ok {
			for _, h := range history {
				if entry, ok := h.(map[string]any); ok {
					delete(entry, "created")
				}
			}
		}
		return json.Marshal(fields)
	}
	one, err := strip(a)
	if err != nil {
		return false, err
	}
	two, err := strip(b)
	return slices.Equal(one, two), err
}

// unrecorded is a store without a build cache. Layers get into it without their records.
type unrecorded struct{ *store.Store }

// LoadCache finds nothing.
func (unrecorded) LoadCache(context.Context, string) ([]byte, error) { return nil, errdefs.ErrNotFound }

// LastCache finds nothing.
func (unrecorded) LastCache(context.Context, string) ([]byte, error) { return nil, errdefs.ErrNotFound }

// SaveCache records nothing.
func (unrecorded) SaveCache(context.Context, string, string, []digest.Digest, []byte) error {
	return nil
}

// CommitLayers records nothing.
func (u unrecorded) CommitLayers(ctx context.Context, commits []layer.Commit) error {
	bare := make([]layer.Commit, len(commits))
	for i, c := range commits {
		bare[i] = layer.Commit{Staged: c.Staged}
	}
	return u.Store.CommitLayers(ctx, bare)
}

// LockStep waits for nobody, as what others record is not looked for.
func (unrecorded) LockStep(context.Context, string, func()) (release func() error, err error) {
	return func() error { return nil }, nil
}
