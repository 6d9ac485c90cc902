package cli

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"strake/internal/engine"
	"strake/internal/progress"
)

type buildOptions struct {
	context   string // PATH, URL or "-"
	file      string
	contexts  []string
	tags      []string
	buildArgs []string
	labels    []string
	target    string
	stopAt    int // line of the Dockerfile; 0 is none
	platforms []string
	noCache   bool
	noStages  []string // whose steps are not looked up in the cache
	pull      bool
	progress  string
	iidFile   string
	quiet     bool
	explain   bool
	shell     string // to be opened where a RUN fails; "default" is the stage's, "" is none
	check     bool
	call      string

	outputs      []string
	annotations  []string
	allow        []string
	push, load   bool
	metadataFile string

	buildRunOptions

	cacheFrom, cacheTo []string

	policies []string

	squash, verify   bool
	attests          []string
	provenance, sbom string
}

func newBuildCommand(s *session) *cobra.Command {
	var opts buildOptions
	cmd := &cobra.Command{
		Use:   "build [OPTIONS] PATH | URL | -",
		Short: "Build an image from a Dockerfile",
		Args:  argsBetween(1, 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			opts.context = args[0]
			if p := opts.progress; opts.quiet && cmd.Flags().Changed("progress") && p != progress.Auto && p != progress.ModeQuiet {
				return fmt.Errorf("ERROR: failed to build: progress=%s and quiet cannot be used together", p)
			}
			return runBuild(cmd.Context(), s, opts)
		},
		Annotations:           map[string]string{topKey: "4", aliasesKey: "strake image build, strake build, strake builder build"},
		DisableFlagsInUseLine: true,
	}
	flags := cmd.Flags()
	flags.StringVarP(&opts.file, "file", "f", "", `Name of the Dockerfile (default: "PATH/Dockerfile")`)
	flags.StringArrayVar(&opts.contexts, "build-context", nil, "Additional build contexts (e.g., name=path)")
	flags.StringArrayVarP(&opts.tags, "tag", "t", nil, `Image identifier (format: "[registry/]repository[:tag]")`)
	flags.StringArrayVar(&opts.buildArgs, "build-arg", nil, "Set build-time variables")
	flags.StringArrayVar(&opts.labels, "label", nil, "Set metadata for an image")
	flags.StringVar(&opts.target, "target", "", "Set the target build stage to build")
	flags.IntVar(&opts.stopAt, "stop-at", 0, "Build up to the instruction at this line of the Dockerfile")
	flags.StringArrayVar(&opts.platforms, "platform", defaultPlatforms(), "Set target platform for build")
	flags.BoolVar(&opts.noCache, "no-cache", false, "Do not use cache when building the image")
	flags.StringArrayVar(&opts.noStages, "no-cache-filter", nil, "Do not cache specified stages")
	flags.BoolVar(&opts.pull, "pull", false, "Always attempt to pull all referenced images")
	flags.StringVar(&opts.progress, "progress", cmp.Or(os.Getenv("BUILDKIT_PROGRESS"), "auto"),
		`Set type of progress output ("auto", "none", "plain", "quiet", "rawjson", "tty"). Use plain to show container output`)
	flags.StringVar(&opts.iidFile, "iidfile", "", "Write the image ID to a file")
	flags.BoolVarP(&opts.quiet, "quiet", "q", false, "Suppress the build output and print image ID on success")
	flags.BoolVar(&opts.explain, "explain", false, "Say why each step was not in the cache")
	flags.StringVar(&opts.shell, "shell-on-error", "", "Open a shell in the step whose RUN fails")
	flags.Lookup("shell-on-error").NoOptDefVal = stageShell
	flags.StringArrayVar(&opts.policies, "policy", nil, `Policy configuration (format: "filename=path[,filename=path][,reset=true|false][,disabled=true|false][,strict=true|false][,log-level=level]")`)
	flags.StringArrayVarP(&opts.outputs, "output", "o", nil, `Output destination (format: "type=local,dest=path")`)
	flags.StringArrayVar(&opts.annotations, "annotation", nil, "Add annotation to the image")
	flags.StringArrayVar(&opts.allow, "allow", nil, `Allow extra privileged entitlement (e.g., "network.host", "security.insecure", "device", "buildx.local.delete")`)
	flags.BoolVar(&opts.squash, "squash", false, "Squash newly built layers into a single new layer")
	flags.BoolVar(&opts.verify, "verify", false, "Build twice and say which files differ")
	flags.StringArrayVar(&opts.attests, "attest", nil, `Attestation parameters (format: "type=provenance,mode=max")`)
	flags.StringVar(&opts.provenance, "provenance", "", `Shorthand for "--attest=type=provenance"`)
	flags.StringVar(&opts.sbom, "sbom", "", `Shorthand for "--attest=type=sbom"`)
	flags.StringArrayVar(&opts.cacheFrom, "cache-from", nil, `External cache sources (e.g., "user/app:cache", "type=local,src=path/to/dir")`)
	flags.StringArrayVar(&opts.cacheTo, "cache-to", nil, `Cache export destinations (e.g., "user/app:cache", "type=local,dest=path/to/dir,mounts=true")`)
	flags.BoolVar(&opts.push, "push", false, `Shorthand for "--output=type=registry,unpack=false"`)
	flags.BoolVar(&opts.load, "load", false, `Shorthand for "--output=type=docker"`)
	flags.StringVar(&opts.metadataFile, "metadata-file", "", "Write build result metadata to a file")
	opts.add(flags)
	flags.BoolVar(&opts.check, "check", false, `Shorthand for "--call=check"`)
	flags.StringVar(&opts.call, "call", "build", `Set method for evaluating build ("check", "outline", "targets")`)
	obsolete(flags, "disable-content-trust")
	obsolete(flags, "rm")
	obsolete(flags, "force-rm")
	obsolete(flags, "compress")
	ignored(flags, "builder") // there is one
	for _, name := range []string{"isolation", "security-opt"} {
		ignored(flags, name) // of the builder before BuildKit, as in buildx
	}
	flags.BoolVarP(&s.debug, "debug", "D", s.debug, "Enable debug logging")
	return cmd
}

func defaultPlatforms() []string {
	if p := defaultPlatform(); p != "" {
		return []string{p}
	}
	return nil
}

func runBuild(ctx context.Context, s *session, opts buildOptions) (err error) {
	env, err := s.contained(ctx)
	if err != nil {
		return err
	}
	build, err := buildInput(ctx, s, opts)
	var call buildCall
	if err == nil {
		call, err = opts.asked()
	}
	if err == nil {
		build.Shell, err = opts.debugShell(s)
	}
	if err == nil {
		err = opts.prepareFiles()
	}
	if err != nil {
		return buildError(err)
	}
	mode := opts.progress
	if opts.quiet {
		mode = progress.ModeQuiet
	}
	show, err := progress.New(progress.Options{Out: s.Err, Mode: mode})
	if err != nil {
		return fmt.Errorf("ERROR: failed to build: %w", err)
	}
	var why explanations
	build.Progress = show.Handle
	if build.Shell != nil {
		build.Shell.Begin = announceShell(build.Shell, show)
	}
	if opts.explain {
		build.Explain = why.add
	}
	if call.question != "" {
		return runCall(ctx, s, env, build, call, show)
	}
	result, err := engine.Build(ctx, env, build)
	if result.Unrecorded != nil {
		defer func() { fmt.Fprintf(s.Err, "WARNING: %v\n", result.Unrecorded) }()
	}
	if failed := (*engine.BuildError)(nil); errors.As(err, &failed) {
		result.Warnings = failed.Warnings
	}
	if mode == progress.ModeRawJSON {
		handleWarnings(show, result.Warnings, cmp.Or(opts.file, "Dockerfile"))
	}
	if closeErr := show.Close(); err == nil {
		err = closeErr
	}
	if mode != progress.ModeQuiet && mode != progress.ModeRawJSON {
		tellWarnings(s, result.Warnings)
	}
	if opts.explain && (err == nil || len(why.list) > 0) {
		why.write(s.Err)
	}
	if err != nil {
		return buildError(err)
	}
	return tellBuild(s, opts, result)
}

// asked is what to do in place of a build.
func (o buildOptions) asked() (buildCall, error) {
	if o.check && o.call != "build" {
		return buildCall{}, errors.New("--check and --call are the same: give one of them")
	}
	if o.check {
		o.call = "check"
	}
	call, err := parseCall(o.call)
	if err == nil && call.question != "" && o.stopAt != 0 {
		err = errors.New("--stop-at is for a build, not for --check and --call")
	}
	return call, err
}

// buildInput turns the flags into what to build.
func buildInput(ctx context.Context, s *session, opts buildOptions) (engine.BuildOptions, error) {
	build := engine.BuildOptions{
		Context: opts.context, Dockerfile: opts.file, Stdin: s.input(ctx), Contexts: map[string]string{}, Names: opts.tags, Target: opts.target, StopAt: opts.stopAt, NoCache: opts.noCache, Pull: opts.pull,
		Squash: opts.squash, Verify: opts.verify, SourcePolicy: os.Getenv("EXPERIMENTAL_BUILDKIT_SOURCE_POLICY"), DefaultPolicy: defaultPolicy(),
		BuildArgs: map[string]string{}, Labels: map[string]string{},
	}
	allow := slices.DeleteFunc(slices.Clone(opts.allow), func(e string) bool { return e == allowDelete })
	var err error
	if build.Run, err = opts.run(allow, s.warn); err != nil {
		return build, err
	}
	if build.Policies, err = parsePolicies(opts.policies); err != nil {
		return build, err
	}
	for _, list := range opts.noStages {
		build.NoCacheStages = append(build.NoCacheStages, strings.Split(list, ",")...)
	}
	if opts.stopAt < 0 {
		return build, fmt.Errorf("invalid line %d of --stop-at: lines count from 1", opts.stopAt)
	}
	if opts.noCache && len(opts.noStages) > 0 {
		return build, errors.New("--no-cache and --no-cache-filter cannot currently be used together")
	}
	for _, arg := range opts.buildArgs {
		key, value, set := strings.Cut(arg, "=")
		if !set {
			if value, set = os.LookupEnv(key); !set {
				continue
			}
		}
		build.BuildArgs[key] = value
	}
	for _, label := range opts.labels {
		key, value, _ := strings.Cut(label, "=")
		build.Labels[key] = value
	}
	for _, name := range opts.tags {
		if _, err := engine.ParseTarget(name); err != nil {
			return build, fmt.Errorf("invalid tag %q: invalid reference format", name)
		}
	}
	for _, c := range opts.contexts {
		name, where, ok := strings.Cut(c, "=")
		if !ok {
			return build, fmt.Errorf("invalid context value: %s, expected key=value", c)
		}
		build.Contexts[name] = where
	}
	return build, buildTargets(s, opts, &build)
}

// buildError tells a failed build as buildx does, with the lines of the
// Dockerfile around the step.
func buildError(err error) error {
	var failed *engine.BuildError
	if !errors.As(err, &failed) {
		return fmt.Errorf("ERROR: failed to build: %w", err)
	}
	return fmt.Errorf("%s%sERROR: failed to build: failed to solve: %w", policyLines(err), failed.Excerpt, err)
}
