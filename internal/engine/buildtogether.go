package engine

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/containerd/platforms"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sync/errgroup"

	"strake/internal/build"
)

// NamedBuild is one of several builds that go on together.
type NamedBuild struct {
	Name string // in the names of its steps, where there are others
	BuildOptions
}

// LinkScheme begins the value of a context that is what another of the builds makes:
// target:NAME.
const LinkScheme = "target:"

// builtBy gives what a build makes for a platform, once it is compiled.
type builtBy = func(context.Context, ocispec.Platform) (*build.Definition, error)

// BuildTogether builds all at once, each as Build does: a step that several have is made
// once, and what one makes may be a context of another (LinkScheme). The first that fails
// stops the others. The results are in the order of list. An error says which build it is
// of; contexts that lead in a circle are errdefs.ErrInvalidArgument.
func BuildTogether(ctx context.Context, env *Env, list []NamedBuild) (results []BuildResult, err error) {
	t := &together{builds: map[string]*oneOf{}}
	run := &buildRuntime{env: env, limited: slices.ContainsFunc(list, func(b NamedBuild) bool { return b.Run.Resources != nil })}
	results = make([]BuildResult, len(list))
	recorders := make([]*recorder, len(list))
	for i := range list {
		recorders[i] = newRecorder(list[i], env.Store.BeginBuild)
		recorders[i].watch(&list[i].BuildOptions)
	}
	defer func() {
		for i, r := range recorders {
			failed := err
			if b := t.builds[list[i].Name]; b != nil && b.done {
				failed = nil
			}
			if results[i].Unrecorded = r.save(ctx, env, results[i], failed); results[i].Unrecorded == nil {
				results[i].Ref = r.record.Ref
			}
		}
	}()
	defer closing(&err, run.close)
	defer closing(&err, t.close)
	if err := t.begin(env, list, run); err != nil {
		return results, err
	}
	g, gctx := errgroup.WithContext(ctx)
	for i, b := range list {
		g.Go(func() (err error) {
			one := t.builds[b.Name]
			if results[i], err = one.run(gctx); err != nil {
				return ofTarget(b.Name, err)
			}
			one.done = true
			return nil
		})
	}
	return results, g.Wait()
}

// together are builds that go on together.
type together struct {
	builds map[string]*oneOf
	first  *build.Solver
}

// oneOf is one of them.
type oneOf struct {
	*building
	ready chan struct{} // closed when it is compiled, or cannot be
	err   error         // why not
	done  bool

	opened *buildInput // others may read it until all are done
}

// ofTarget says which build an error is of.
func ofTarget(name string, err error) error {
	failed := (*BuildError)(nil)
	if !errors.As(err, &failed) {
		return fmt.Errorf("target %s: %w", name, err)
	}
	return &BuildError{Err: fmt.Errorf("target %s: failed to solve: %w", name, failed.Err), Excerpt: failed.Excerpt, Warnings: failed.Warnings}
}

// begin checks all builds and makes their solvers.
func (t *together) begin(env *Env, list []NamedBuild, run *buildRuntime) error {
	for _, b := range list {
		made, err := newBuilding(env, b.BuildOptions)
		if err != nil {
			return ofTarget(b.Name, err)
		}
		t.builds[b.Name] = &oneOf{building: made, ready: make(chan struct{})}
	}
	hold := func(ctx context.Context) error {
		for _, b := range t.builds {
			if err := b.bases.hold(ctx); err != nil {
				return err
			}
		}
		return nil
	}
	for _, b := range list {
		if err := t.link(b.Name, nil); err != nil {
			return err
		}
		one := t.builds[b.Name]
		options := one.options()
		if len(list) > 1 {
			options.Title = b.Name
		}
		if t.first == nil {
			options.Runtime, options.Missed = run.open, hold
			t.first = build.NewSolver(options)
			one.solver = t.first
		} else {
			one.solver = build.Beside(t.first, options)
		}
	}
	return nil
}

// link finds the contexts of a build that others make.
func (t *together) link(name string, above []string) error {
	b := t.builds[name]
	if b.opts.linked != nil {
		return nil // by another way
	}
	b.opts.linked = map[string]builtBy{}
	for key, value := range b.opts.Contexts {
		other, ok := strings.CutPrefix(value, LinkScheme)
		if !ok {
			continue
		}
		if t.builds[other] == nil {
			return fmt.Errorf("failed to find target %s for context %s: %w", other, key, errdefs.ErrInvalidArgument)
		}
		for _, up := range append(above, name) {
			if up == other {
				return fmt.Errorf("infinite loop from %s to %s: %w", name, other, errdefs.ErrInvalidArgument)
			}
		}
		if err := t.link(other, append(above, name)); err != nil {
			return err
		}
		b.opts.linked[value] = t.builds[other].definition
	}
	return nil
}

// run is one build, from its files to its outputs.
func (b *oneOf) run(ctx context.Context) (BuildResult, error) {
	b.err = b.open(ctx)
	if b.err == nil {
		b.opened = b.input
		if b.err = b.compile(ctx); b.err != nil {
			b.err = b.failed(b.err)
		}
	}
	for _, def := range b.compiled {
		def.SolvedBy(b.solver)
	}
	close(b.ready)
	if b.err != nil {
		return BuildResult{}, b.err
	}
	return b.make(ctx)
}

// definition is a builtBy.
func (b *oneOf) definition(ctx context.Context, platform ocispec.Platform) (*build.Definition, error) {
	select {
	case <-b.ready:
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
	if b.err != nil {
		return nil, b.err
	}
	want := platforms.Only(platform)
	for _, def := range b.compiled {
		if want.Match(def.Config.Platform) || len(b.compiled) == 1 {
			return def, nil
		}
	}
	return nil, fmt.Errorf("it is not built for %s: %w", platforms.Format(platform), errdefs.ErrNotFound)
}

// close closes what was read.
func (t *together) close() error {
	var errs []error
	for _, b := range t.builds {
		if b.opened != nil {
			errs = append(errs, b.opened.close())
		}
		errs = append(errs, b.opts.police.close())
	}
	if t.first != nil {
		errs = append(errs, t.first.Close())
	}
	return errors.Join(errs...)
}
