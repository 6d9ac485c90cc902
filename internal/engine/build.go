package engine

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sync/errgroup"

	"strake/internal/attest"
	"strake/internal/build"
	"strake/internal/dockerfile"
	"strake/internal/executor"
	"strake/internal/mount"
	"strake/internal/progress"
	"strake/internal/rootfs"
)

// BuildOptions say what to build.
type BuildOptions struct {
	// Context is the build context: a directory, the URL of a git repository or of
	// an archive or a Dockerfile, or "-": Stdin, an archive or a Dockerfile.
	Context string
	// Dockerfile is a path, a URL or "-" (Stdin); "" is Dockerfile in the context.
	// In a context that is no directory here a relative path is one there.
	Dockerfile string
	Stdin      io.Reader
	// Contexts are further contexts by name: a directory, a URL as for Context,
	// docker-image://REF or oci-layout://DIR[:TAG|@DIGEST].
	Contexts map[string]string

	Names     []string // what the image is called; with tags or latest
	Target    string
	StopAt    int // line of the instruction that is built last; 0 is the target's last
	BuildArgs map[string]string
	Labels    map[string]string
	Platforms []string // none is this machine's; several make an index
	NoCache   bool
	// NoCacheStages are names of stages whose steps run, whatever was built before.
	NoCacheStages []string
	Pull          bool
	Run           BuildRun

	// Outputs are where the result goes; none is the store.
	Outputs []Output
	Squash  bool // one layer above the base image
	Verify  bool // build again, without the cache, and fail where anything differs

	CacheFrom, CacheTo []Cache
	// Attestations are what is said of the image; none says a provenance of an image
	// that is pushed.
	Attestations []Attestation
	// Provenance asks for BuildResult.Provenance.
	Provenance bool
	// Write makes the file of an output whole or not at all. "-" is standard output.
	Write func(dest string, write func(io.Writer) error) error

	Progress func(progress.Event) // called by one goroutine at a time
	Explain  func(Explanation)    // told why a step was not in the cache
	Shell    *Shell               // nil: none is opened
}

// Shell is opened where a command fails.
type Shell = build.Shell

// Explanation says why a step was not in the cache.
type Explanation = build.Explanation

// InputChange is an input of a step that is not what it was.
type InputChange = build.Change

// BuildResult says what was built. What is said of an image is of that of the last
// output that is one.
type BuildResult struct {
	ID        digest.Digest       // of the image, or of the index of several platforms; "" where no output is one
	Config    digest.Digest       // of an image for one platform
	Root      *ocispec.Descriptor // its manifest or index
	ImageName string              // its names, comma-separated
	Cached    bool                // no step ran
	Warnings  []Warning           // of the checks on the Dockerfile
	Ref       string              // of its record; "" where none was kept
	// Unrecorded is why no record of the build was kept, or nil; it is told with a
	// failed build too.
	Unrecorded error

	Provenance map[string]json.RawMessage // SLSA's predicate, by platform; "" where no platform was asked for
}

// Warning is what a check has to say about a place in the Dockerfile.
type Warning = dockerfile.Warning

// checksArg is the build argument that takes the place of the check directive.
const checksArg = "BUILDKIT_DOCKERFILE_CHECK"

// BuildError is why a build failed, and where in the Dockerfile.
type BuildError struct {
	Err     error
	Excerpt string // the lines that it is about with those around them; "" for none
	// Warnings are what the checks said until then.
	Warnings []Warning
}

func (e *BuildError) Error() string { return e.Err.Error() }

// Unwrap returns the cause.
func (e *BuildError) Unwrap() error { return e.Err }

// maxDockerfile bounds what is read of a Dockerfile, in bytes.
const maxDockerfile = 16 << 20

// Build builds an image from a Dockerfile, for each platform, and takes it to the
// outputs. Steps that finished are cached even when it fails, with a *BuildError.
// A record of it is kept.
func Build(ctx context.Context, env *Env, opts BuildOptions) (BuildResult, error) {
	r := newRecorder(opts, env.Store.BeginBuild)
	r.watch(&opts)
	result, err := runBuild(ctx, env, opts)
	if result.Unrecorded = r.save(ctx, env, result, err); result.Unrecorded == nil {
		result.Ref = r.record.Ref
	}
	return result, err
}

func runBuild(ctx context.Context, env *Env, opts BuildOptions) (result BuildResult, err error) {
	targets, err := parsePlatforms(opts.Platforms)
	if err != nil {
		return BuildResult{}, err
	}
	for _, name := range opts.Names {
		if _, err := ParseTarget(name); err != nil {
			return BuildResult{}, err
		}
	}
	epoch, err := sourceDateEpoch(opts.BuildArgs)
	if err != nil {
		return BuildResult{}, err
	}
	if len(opts.Outputs) == 0 {
		opts.Outputs = []Output{{Type: OutputImage}}
	}
	for _, out := range opts.Outputs {
		if _, err := out.imageOptions(opts.Names); err != nil && out.isImage() {
			return BuildResult{}, err
		}
	}
	given, err := opts.Run.open()
	if err != nil {
		return BuildResult{}, err
	}
	if err := opts.checkCaches(); err != nil {
		return BuildResult{}, err
	}
	said, err := newAttestations(opts.Attestations)
	if err != nil {
		return BuildResult{}, err
	}
	started := time.Now()
	run, bases, exchange := &buildRuntime{env: env}, &baseImages{env: env}, build.NewExchange()
	defer closing(&err, run.close)
	options := build.Options{
		Store: env.Store, Exchange: exchange, Runtime: run.open, Missed: bases.hold, Fetched: bases.fetched, Epoch: epoch, Progress: opts.Progress, Explain: opts.Explain,
		Connect: connectGit, Secrets: given.secrets, Agents: given.agents, Strict: given.Strict, Shell: opts.Shell,
	}
	solver := build.NewSolver(options)
	defer closing(&err, solver.Close)
	input, err := openInput(ctx, env, solver, &opts)
	if err != nil {
		return BuildResult{}, err
	}
	defer closing(&err, input.close)
	x := &exporter{
		env: env, solver: solver, exchange: exchange, multi: multiPlatform(targets, opts.BuildArgs), names: opts.Names, epoch: epoch, targets: targets,
		attest: said, sboms: map[digest.Digest]attest.Predicate{}, write: opts.Write, result: &result,
	}
	if x.made, err = knownOf(opts, input, started); err != nil {
		return BuildResult{}, err
	}
	if exchange.Remote, err = importCaches(ctx, env, solver, opts.CacheFrom, targets); err != nil {
		return BuildResult{}, solving(err)
	}
	file, err := dockerfile.Parse(input.name, input.source, opts.BuildArgs[checksArg])
	if err == nil {
		x.built, err = solve(ctx, bases, input, file, targets, given)
	}
	if err == nil && opts.Verify {
		err = x.verify(ctx, bases, input, file, options, given)
	}
	if err == nil {
		x.learn(file, bases, input)
		err = x.finish(ctx, opts)
	}
	if err != nil {
		return BuildResult{}, &BuildError{Err: err, Excerpt: file.Excerpt(err), Warnings: file.Warnings()}
	}
	result.Warnings = file.Warnings()
	result.Cached = !slices.ContainsFunc(x.built, func(b build.Built) bool { return !b.Cached })
	return result, settle(ctx, env)
}

// finish takes what was built to where it is to go.
func (x *exporter) finish(ctx context.Context, opts BuildOptions) error {
	caches, said := cacheWriter{x}, statements{x}
	err := caches.addInlineCache(opts.CacheTo)
	if err == nil {
		err = x.run(ctx, opts.Outputs)
	}
	if err == nil && opts.Provenance {
		err = said.tellProvenance()
	}
	if err == nil {
		err = caches.exportCaches(ctx, opts.CacheTo)
	}
	return err
}

// checkCaches settles the caches, and fails for one that cannot be.
func (o *BuildOptions) checkCaches() error {
	if inline, err := strconv.ParseBool(o.BuildArgs["BUILDKIT_INLINE_CACHE"]); err == nil && inline {
		o.CacheTo = append(slices.Clone(o.CacheTo), Cache{Type: "inline"})
	}
	for _, c := range o.CacheFrom {
		if err := c.checkFrom(); err != nil {
			return err
		}
	}
	for _, c := range o.CacheTo {
		if err := c.checkTo(); err != nil {
			return err
		}
	}
	return nil
}

// multiPlatform reports whether an index is made, as BuildKit decides it.
func multiPlatform(targets []ocispec.Platform, args map[string]string) bool {
	asked, err := strconv.ParseBool(args["BUILDKIT_MULTI_PLATFORM"])
	return len(targets) > 1 || err == nil && asked
}

// solve builds the Dockerfile for each platform, all at once: the steps that
// they share are made once.
func solve(ctx context.Context, bases *baseImages, input *buildInput, file *dockerfile.File, targets []ocispec.Platform, given openedRun) (built []build.Built, err error) {
	opts, solver := input.opts, input.solver
	wanted := []*ocispec.Platform{nil}
	if len(targets) > 0 {
		wanted = nil
		for i := range targets {
			wanted = append(wanted, &targets[i])
		}
	}
	definitions := make([]*build.Definition, len(wanted))
	for i, platform := range wanted {
		if i > 0 {
			if file, err = file.Again(); err != nil {
				return nil, err
			}
		}
		compile := dockerfile.Options{
			Target: opts.Target, StopAt: opts.StopAt, BuildArgs: opts.BuildArgs, Labels: opts.Labels, Platform: platform, PrefixPlatform: len(wanted) > 1,
			NoCache: opts.NoCache, NoCacheStages: opts.NoCacheStages, Pull: opts.Pull,
			Images: bases, Names: bases.names, Solver: solver, Context: input.dir, Files: input.files, Contexts: input.named, Slot: input.slot(),
		}
		given.apply(&compile)
		if definitions[i], err = dockerfile.Compile(ctx, file, compile); err == nil {
			err = given.check(file.Warnings())
			input.needs.Add(definitions[i])
		}
		if err != nil {
			return nil, err
		}
	}
	if opts.Squash {
		for i, definition := range definitions {
			definitions[i] = build.Squashed(definition)
		}
	}
	built = make([]build.Built, len(definitions))
	g, gctx := errgroup.WithContext(ctx)
	for i, definition := range definitions {
		g.Go(func() (err error) {
			built[i], err = solver.Build(gctx, definition)
			return err
		})
	}
	return built, g.Wait()
}

// sourceDateEpoch is the time that no file may be newer than: a build argument,
// or else the environment's, as buildx has it.
func sourceDateEpoch(args map[string]string) (*time.Time, error) {
	value, ok := args["SOURCE_DATE_EPOCH"]
	if !ok {
		value = os.Getenv("SOURCE_DATE_EPOCH")
	}
	if value == "" {
		return nil, nil
	}
	seconds, err := strconv.ParseInt(value, 10, 64)
	if err != nil {
		return nil, solving(invalid("invalid SOURCE_DATE_EPOCH: %s", value))
	}
	at := time.Unix(seconds, 0).UTC()
	return &at, nil
}

// buildRuntime is what RUN needs, made when the first one needs it.
type buildRuntime struct {
	env  *Env
	ns   *mount.Namespace
	runc *executor.Runc
	room *rootfs.Room
	dir  string // of the room
	made *build.Runtime
}

func (r *buildRuntime) open(ctx context.Context) (*build.Runtime, error) {
	if r.made != nil {
		return r.made, nil
	}
	var err error
	if r.runc, err = executor.NewRunc(executor.RuncOptions{}); err != nil {
		return nil, err
	}
	if r.ns, err = mount.New(ctx); err != nil {
		return nil, err
	}
	mounter, err := rootfs.Choose(ctx, mounterOptions(r.env, r.ns))
	if err != nil {
		return nil, err
	}
	if r.dir, err = r.env.Store.TempDir(ctx); err != nil {
		return nil, err
	}
	if r.room, err = rootfs.NewRoom(r.ns, r.dir); err != nil {
		return nil, err
	}
	r.made = &build.Runtime{Mounter: mounter, Executor: r.runc, Spec: executor.Spec{NS: r.ns}, Room: r.room, Runs: runsStep}
	return r.made, nil
}

func (r *buildRuntime) close() error {
	var errs []error
	if r.room != nil {
		errs = append(errs, r.room.Close())
	}
	if r.ns != nil {
		errs = append(errs, r.ns.Close())
	}
	if r.dir != "" {
		errs = append(errs, os.RemoveAll(r.dir))
	}
	if r.runc != nil {
		errs = append(errs, r.runc.Close())
	}
	return errors.Join(errs...)
}

// mounterOptions say where images become root file systems.
func mounterOptions(env *Env, ns *mount.Namespace) rootfs.PickOptions {
	return rootfs.PickOptions{
		Dir: filepath.Join(env.Store.Root(), "rootfs", "erofs"), UnpackedDir: unpackedDir(env.Store.Root()), NS: ns,
	}
}
