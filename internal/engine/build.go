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
	// Source, when not nil, is the Dockerfile itself.
	Source []byte
	Stdin  io.Reader
	// Contexts are further contexts by name: a directory, a URL as for Context,
	// docker-image://REF or oci-layout://DIR[:TAG|@DIGEST].
	Contexts map[string]string
	// Origin, when not "", is the address of the repository or archive that defines the build: contexts may be directories of it (bake.OriginScheme).
	Origin string
	// At, when not nil, is what a ref of a repository stands for in all of the contexts.
	At *GitRef

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

	// SourcePolicy is a file with rules on what the build reads (package sourcepolicy); ""
	// is none.
	SourcePolicy string
	// Policies are in Rego, beside <Dockerfile>.rego.
	Policies []BuildPolicy
	// DefaultPolicy asks the policy that is built into docker buildx, too, unless all are
	// disabled.
	DefaultPolicy bool

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

	linked map[string]builtBy // contexts that other builds make, by value
	police *policing          // nil: there are no policies
	policy build.Policy       // of it; nil: all that is read is admitted
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

	Provenance map[string]json.RawMessage // SLSA's predicate, version 0.2 as buildx has it, by platform; "" where no platform was asked for
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

// Excerpt shows the lines from first to last of a file with those around them, as errors do.
func Excerpt(name string, source []byte, first, last int) string {
	var about []int
	for line := first; line <= last; line++ {
		about = append(about, line)
	}
	return dockerfile.Excerpt(name, source, about)
}

// maxDockerfile bounds what is read of a Dockerfile, in bytes.
const maxDockerfile = 16 << 20

// Build builds an image from a Dockerfile, for each platform, and takes it to the
// outputs. Steps that finished are cached even when it fails, with a *BuildError.
// A record of it is kept.
func Build(ctx context.Context, env *Env, opts BuildOptions) (BuildResult, error) {
	r := newRecorder(NamedBuild{BuildOptions: opts}, env.Store.BeginBuild)
	r.watch(&opts)
	result, err := runBuild(ctx, env, opts)
	if result.Unrecorded = r.save(ctx, env, result, err); result.Unrecorded == nil {
		result.Ref = r.record.Ref
	}
	return result, err
}

func runBuild(ctx context.Context, env *Env, opts BuildOptions) (result BuildResult, err error) {
	b, err := newBuilding(env, opts)
	if err != nil {
		return BuildResult{}, err
	}
	run := &buildRuntime{env: env, limited: b.given.limits != nil}
	defer closing(&err, run.close)
	options := b.options()
	options.Runtime, options.Missed, options.Shell = run.open, b.bases.hold, opts.Shell
	b.solver = build.NewSolver(options)
	defer closing(&err, b.solver.Close)
	defer closing(&err, b.opts.police.close)
	if err := b.open(ctx); err != nil {
		return BuildResult{}, err
	}
	defer closing(&err, b.input.close)
	return b.make(ctx)
}

// building is a build on its way.
type building struct {
	*exporter
	opts     BuildOptions
	given    openedRun
	bases    *baseImages
	started  time.Time
	input    *buildInput // that was opened
	file     *dockerfile.File
	compiled []*build.Definition // by platform
}

// newBuilding checks what is asked for, before anything is read.
func newBuilding(env *Env, opts BuildOptions) (*building, error) {
	targets, err := parsePlatforms(opts.Platforms)
	if err != nil {
		return nil, err
	}
	for _, name := range opts.Names {
		if _, err := ParseTarget(name); err != nil {
			return nil, err
		}
	}
	epoch, err := sourceDateEpoch(opts.BuildArgs)
	if err != nil {
		return nil, err
	}
	if len(opts.Outputs) == 0 {
		opts.Outputs = []Output{{Type: OutputImage}}
	}
	for _, out := range opts.Outputs {
		if _, err := out.imageOptions(opts.Names); err != nil && out.isImage() {
			return nil, err
		}
	}
	given, err := opts.Run.open()
	if err != nil {
		return nil, err
	}
	if err := opts.checkCaches(); err != nil {
		return nil, err
	}
	said, err := newAttestations(opts.Attestations)
	if err != nil {
		return nil, err
	}
	police, err := newPolicing(opts)
	if err != nil {
		return nil, err
	}
	opts.police, opts.policy = police, police.policy()
	x := &exporter{
		env: env, exchange: build.NewExchange(), multi: multiPlatform(targets, opts.BuildArgs), names: opts.Names, epoch: epoch, targets: targets,
		attest: said, sboms: map[string][]attest.Predicate{}, write: opts.Write, result: &BuildResult{},
	}
	return &building{exporter: x, opts: opts, given: given, bases: &baseImages{env: env, policy: opts.policy}, started: time.Now()}, nil
}

// options are those of the build's solver that are its own.
func (b *building) options() build.Options {
	return build.Options{
		Store: b.env.Store, Exchange: b.exchange, Fetched: b.bases.fetched, Epoch: b.epoch, Progress: b.opts.Progress, Explain: b.opts.Explain,
		Connect: connectGit, At: b.opts.At, Policy: b.opts.policy, Secrets: b.given.secrets, Agents: b.given.agents, Strict: b.given.Strict,
	}
}

// open reads the Dockerfile and finds the contexts, and the caches of others. The caller
// closes the input unless it fails.
func (b *building) open(ctx context.Context) (err error) {
	if err := b.opts.police.start(ctx, b.solver); err != nil {
		return solving(err)
	}
	if err := b.addGitLabels(ctx); err != nil {
		return err
	}
	if b.input, err = openInput(ctx, b.env, b.solver, &b.opts); err != nil {
		return err
	}
	b.made, err = knownOf(b.opts, b.input, b.started)
	if err == nil {
		b.exchange.Remote, err = importCaches(ctx, b.env, b.solver, b.opts.CacheFrom, b.targets)
		err = solving(err)
	}
	if err != nil {
		return errors.Join(err, b.input.close())
	}
	return nil
}

// make builds, and takes what was built to the outputs.
func (b *building) make(ctx context.Context) (BuildResult, error) {
	err := b.compile(ctx)
	if err == nil {
		b.built, err = b.input.solve(ctx, b.compiled)
	}
	if err == nil && b.opts.Verify {
		err = b.verify(ctx)
	}
	if err == nil {
		err = b.generate(ctx)
	}
	if err == nil {
		b.learn(ctx, b.file, b.bases, b.input)
		err = b.finish(ctx, b.opts)
	}
	if err != nil {
		return BuildResult{}, b.failed(err)
	}
	b.result.Warnings = b.file.Warnings()
	b.result.Cached = !slices.ContainsFunc(b.built, func(b build.Built) bool { return !b.Cached })
	return *b.result, settle(ctx, b.env)
}

// failed is why the build failed, with what is known of where.
func (b *building) failed(err error) error {
	return &BuildError{Err: err, Excerpt: b.file.Excerpt(err), Warnings: b.file.Warnings()}
}

// compile makes the definitions, unless they are made.
func (b *building) compile(ctx context.Context) (err error) {
	if b.compiled != nil {
		return nil
	}
	if b.file, err = dockerfile.Parse(b.input.name, b.input.source, b.opts.BuildArgs[checksArg]); err != nil {
		return err
	}
	b.compiled, err = compileBuild(ctx, b.bases, b.input, b.file, b.targets, b.given)
	return err
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

// compileBuild compiles the Dockerfile for each platform.
func compileBuild(ctx context.Context, bases *baseImages, input *buildInput, file *dockerfile.File, targets []ocispec.Platform, given openedRun) (definitions []*build.Definition, err error) {
	opts := input.opts
	wanted := []*ocispec.Platform{nil}
	if len(targets) > 0 {
		wanted = nil
		for i := range targets {
			wanted = append(wanted, &targets[i])
		}
	}
	definitions = make([]*build.Definition, len(wanted))
	for i, platform := range wanted {
		if i > 0 {
			if file, err = file.Again(); err != nil {
				return nil, err
			}
		}
		compile := dockerfile.Options{
			Target: opts.Target, StopAt: opts.StopAt, BuildArgs: opts.BuildArgs, Labels: opts.Labels, Platform: platform, PrefixPlatform: len(wanted) > 1,
			NoCache: opts.NoCache, NoCacheStages: opts.NoCacheStages, Pull: opts.Pull,
			Images: bases, Names: bases.names, Solver: input.solver, Context: input.dir, Files: input.files, Contexts: input.named, Slot: input.slot(),
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
	return definitions, nil
}

// solve builds the definitions, all at once: the steps that they share are made once.
func (b *buildInput) solve(ctx context.Context, definitions []*build.Definition) ([]build.Built, error) {
	built := make([]build.Built, len(definitions))
	g, gctx := errgroup.WithContext(ctx)
	for i, definition := range definitions {
		g.Go(func() (err error) {
			built[i], err = b.solver.Build(gctx, definition)
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
	env     *Env
	limited bool // commands have limits
	ns      *mount.Namespace
	runc    *executor.Runc
	room    *rootfs.Room
	dir     string // of the room
	made    *build.Runtime
}

func (r *buildRuntime) open(ctx context.Context) (*build.Runtime, error) {
	if r.made != nil {
		return r.made, nil
	}
	var err error
	if r.runc, err = executor.NewRunc(executor.RuncOptions{}); err != nil {
		return nil, err
	}
	if r.limited {
		if err := r.runc.Delegate(ctx); err != nil {
			return nil, err
		}
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
