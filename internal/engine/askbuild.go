package engine

import (
	"context"
	"fmt"
	"strings"

	"github.com/containerd/errdefs"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"strake/internal/build"
	"strake/internal/dockerfile"
)

// BuildAnswer is what a Dockerfile says of itself.
type BuildAnswer struct {
	Value    any    // for JSON, in the form of BuildKit's subrequests
	Text     string // the same for people
	Warnings int    // of a check
	Failed   string // of a check: why the Dockerfile cannot be built, and where; "" if it can
}

// AskBuild answers a question about a build in place of it: "check" runs the
// checks on all stages, or those of the target, "outline" says what arguments,
// secrets and keys the target takes, "targets" lists the stages. Base images
// are pulled where a check or an outline needs them. It fails with a
// *BuildError, or with errdefs.ErrInvalidArgument for another question.
func AskBuild(ctx context.Context, env *Env, opts BuildOptions, question string) (answer BuildAnswer, err error) {
	targets, err := parsePlatforms(opts.Platforms)
	if err != nil {
		return BuildAnswer{}, err
	}
	given, err := opts.Run.open()
	if err != nil {
		return BuildAnswer{}, err
	}
	opts.linked = unbuilt(opts.Contexts)
	police, err := newPolicing(opts)
	if err != nil {
		return BuildAnswer{}, err
	}
	opts.police, opts.policy = police, police.policy()
	bases := &baseImages{env: env, policy: opts.policy}
	solver := build.NewSolver(build.Options{Store: env.Store, Policy: opts.policy, Missed: bases.hold, Progress: opts.Progress, Connect: connectGit, At: opts.At, Secrets: given.secrets})
	defer closing(&err, solver.Close)
	defer closing(&err, police.close)
	if err := police.start(ctx, solver); err != nil {
		return BuildAnswer{}, solving(err)
	}
	input, err := openInput(ctx, env, solver, &opts)
	if err != nil {
		return BuildAnswer{}, err
	}
	defer closing(&err, input.close)
	options := dockerfile.Options{
		Target: opts.Target, BuildArgs: opts.BuildArgs, Network: opts.Run.Network, Allow: opts.Run.Allow, Pull: opts.Pull,
		Images: bases, Names: bases.names, Solver: solver, Context: input.dir, Files: input.files, Contexts: input.named,
	}
	if len(targets) > 0 {
		options.Platform = &ocispec.Platform{}
		*options.Platform = targets[0]
	}
	file, err := dockerfile.Parse(input.name, input.source, opts.BuildArgs[checksArg])
	if question == "check" {
		if err == nil {
			options.AllStages = opts.Target == ""
			_, err = dockerfile.Compile(ctx, file, options)
		}
		checked := file.Check(err)
		return BuildAnswer{Value: checked, Text: checked.Text(), Warnings: len(checked.Warnings), Failed: checked.ErrorText()}, nil
	}
	if err == nil {
		answer, err = ask(ctx, file, options, question)
	}
	if err != nil {
		return BuildAnswer{}, &BuildError{Err: err, Excerpt: file.Excerpt(err)}
	}
	return answer, nil
}

// unbuilt stands for what other builds would make: nothing is known of it.
func unbuilt(contexts map[string]string) map[string]builtBy {
	linked := map[string]builtBy{}
	for _, value := range contexts {
		if strings.HasPrefix(value, LinkScheme) {
			linked[value] = func(_ context.Context, p ocispec.Platform) (*build.Definition, error) {
				def := &build.Definition{Root: &build.Vertex{Op: &build.Base{}}}
				def.Config.Platform = p
				return def, nil
			}
		}
	}
	return linked
}

func ask(ctx context.Context, file *dockerfile.File, options dockerfile.Options, question string) (BuildAnswer, error) {
	switch question {
	case "targets":
		list := file.Targets()
		return BuildAnswer{Value: list, Text: list.Text()}, nil
	case "outline":
		out, err := dockerfile.GetOutline(ctx, file, options)
		return BuildAnswer{Value: out, Text: out.Text()}, err
	}
	return BuildAnswer{}, fmt.Errorf("unknown call %q: %w", question, errdefs.ErrInvalidArgument)
}
