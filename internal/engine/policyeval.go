package engine

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"

	"github.com/containerd/platforms"

	"strake/internal/build"
	"strake/internal/dockerfile"
	"strake/internal/reference"
	"strake/internal/sourcepolicy"
)

// EvalPolicyOptions say what a policy is asked about.
type EvalPolicyOptions struct {
	Name     string // of the Dockerfile, for input.env
	File     string // the policy's name, for errors
	Policy   io.Reader
	Source   string // docker-image://REF, a URL, a repository, or a path
	Platform string // "" is this machine's
	Log      func(string)
}

// EvalPolicy asks a policy about one source. What it denies is a *sourcepolicy.Denial, whose
// messages PolicyMessages gives.
func EvalPolicy(ctx context.Context, env *Env, opts EvalPolicyOptions) error {
	module, err := readModule(opts.Policy)
	if err != nil {
		return fmt.Errorf("failed to read policy file %s: %w", opts.File, err)
	}
	return evaluating(ctx, env, opts, sourcepolicy.Begin{
		Sets: []sourcepolicy.Set{{Files: []sourcepolicy.File{{Name: opts.File, Data: module}}, LogLevel: "debug"}},
		Env:  sourcepolicy.Env{Filename: opts.Name},
	}, func(eval *sourcepolicy.Evaluator, src sourcepolicy.Source) error {
		_, err := eval.Apply(ctx, src, func(s sourcepolicy.Source) (sourcepolicy.Source, error) { return s, nil })
		return err
	})
}

// PolicyInput is what policies see of the source, as JSON, with those fields that somebody
// has to look for, such as image.labels. The log is told of fields that there are not.
func PolicyInput(ctx context.Context, env *Env, opts EvalPolicyOptions, fields []string) (input []byte, err error) {
	err = evaluating(ctx, env, opts, sourcepolicy.Begin{}, func(eval *sourcepolicy.Evaluator, src sourcepolicy.Source) (err error) {
		compact, err := eval.Input(ctx, src, fields)
		if err == nil {
			input, err = json.MarshalIndent(compact, "", "  ")
		}
		return err
	})
	return input, err
}

// evaluating starts what evaluates policies, for one source.
func evaluating(ctx context.Context, env *Env, opts EvalPolicyOptions, begin sourcepolicy.Begin, ask func(*sourcepolicy.Evaluator, sourcepolicy.Source) error) (err error) {
	src, look, err := policySource(opts.Source)
	if err != nil {
		return err
	}
	platform := platforms.DefaultSpec()
	if opts.Platform != "" {
		if platform, err = platforms.Parse(opts.Platform); err != nil {
			return fmt.Errorf("invalid platform %q: %w", opts.Platform, err)
		}
		platform = platforms.Normalize(platform)
	}
	solver := build.NewSolver(build.Options{Store: env.Store, Connect: connectGit})
	defer closing(&err, solver.Close)
	bases := &baseImages{env: env}
	src.Platform = &platform
	src.Learn = func(ctx context.Context, now sourcepolicy.Source, what sourcepolicy.Look) (sourcepolicy.Facts, error) {
		if look != nil {
			return look(ctx, solver, what)
		}
		return bases.facts(ctx, now.Rest(), platform, what)
	}
	eval, err := sourcepolicy.Start(ctx, begin, localFiles("."), opts.Log)
	if err != nil {
		return err
	}
	defer closing(&err, eval.Close)
	return ask(eval, src)
}

// looker looks at a source.
type looker func(context.Context, *build.Solver, sourcepolicy.Look) (sourcepolicy.Facts, error)

// policySource is the source that a user names, and what looks at it where that is no image.
func policySource(name string) (src sourcepolicy.Source, look looker, err error) {
	if image, ok := strings.CutPrefix(name, sourcepolicy.SchemeImage+"://"); ok {
		ref, err := reference.Parse(image)
		if err != nil {
			return src, nil, fmt.Errorf("failed to parse image source reference: %w", err)
		}
		src.Identifier = sourcepolicy.SchemeImage + "://" + ref.OrLatest().String()
		return src, nil, nil
	}
	git, is, err := dockerfile.ParseGit(name)
	switch {
	case err != nil:
		return src, nil, err
	case is:
		git.Agent = os.Getenv("SSH_AUTH_SOCK")
		return git.Source(), git.Look, nil
	case isHTTP(name):
		file := build.URL{Address: name}
		return file.Source(), file.Look, nil
	}
	if _, err := os.Stat(name); err != nil {
		return src, nil, fmt.Errorf("invalid local path %s: %w", name, err)
	}
	src.Identifier = sourcepolicy.SchemeLocal + "://context"
	return src, nil, nil
}

// TestPolicy runs the tests of the policy NAME.rego of the working directory: those of a
// file, or of a directory, whose names contain run. It writes their results to out and what
// failed to errOut, and fails with an *exec.ExitError where one did.
func TestPolicy(ctx context.Context, out, errOut io.Writer, path, name, run string) error {
	program, err := sourcepolicy.Find()
	if err != nil {
		return err
	}
	cmd := exec.CommandContext(ctx, program, "test", path, name, run)
	cmd.Stdout, cmd.Stderr = out, errOut
	return cmd.Run()
}
