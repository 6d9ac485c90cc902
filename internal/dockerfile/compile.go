package dockerfile

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"sync"

	"github.com/containerd/platforms"
	"github.com/moby/buildkit/frontend/dockerfile/instructions"
	"github.com/moby/buildkit/frontend/dockerfile/parser"
	"github.com/moby/buildkit/frontend/dockerfile/shell"
	"github.com/moby/buildkit/util/suggest"
	dockerspec "github.com/moby/docker-image-spec/specs-go/v1"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sync/errgroup"

	"strake/internal/build"
	"strake/internal/executor"
)

// Options say what to make of a Dockerfile.
type Options struct {
	Target string // a stage's name or number; "" is the last
	// StopAt is a line of an instruction: its stage, up to there, is what is built in
	// place of the target. 0 is none.
	StopAt    int
	BuildArgs map[string]string
	Labels    map[string]string
	// Platform is what to build for; nil is the machine's.
	Platform *ocispec.Platform
	// PrefixPlatform puts the platform in the names of steps.
	PrefixPlatform bool

	NoCache       bool     // every step runs
	NoCacheStages []string // the steps of these stages run
	Pull          bool     // look for newer base images
	AllStages     bool     // compile, and so check, those too that the target does not need

	Network    string // of RUN: "host", "none", "" or "default" (host)
	ExtraHosts []executor.Host
	Allow      []string // entitlements
	// Devices lists the devices of this machine, and what is wrong with the list. Where it is nil none is looked for.
	Devices func() ([]executor.Device, error)

	Limits       []executor.Limit // of RUN
	CgroupParent string
	Resources    *specs.LinuxResources // nil: the command may take all
	ShmSize      int64                 // of /dev/shm, bytes; 0 is the usual

	Images build.Images // required
	// Names, when not nil, lists images that are here, for errors that name one which
	// is nowhere.
	Names   func(context.Context) []string
	Solver  *build.Solver      // required; told of the images that are looked up
	Context *build.LazyContext // required where the file copies from the context

	// Files is the context where it is no directory: a repository or an archive,
	// as a stage.
	Files *build.Vertex
	// Contexts are further contexts by ContextName. Each takes the place of the
	// stage or image of its name.
	Contexts map[string]Context

	// Slot names this build among others, for build.Vertex.Slot.
	Slot string
}

// compiler is one Compile.
type compiler struct {
	opts    Options
	file    *File
	lex     *shell.Lex
	target  ocispec.Platform
	native  ocispec.Platform
	globals *globals
	proxies []string
	stageList
	implicit bool // no platform was asked for

	mu     sync.Mutex
	images map[string]*baseImage
}

// Compile resolves the base images that the target needs and makes its
// definition. Its errors are located in the Dockerfile where they can be.
func Compile(ctx context.Context, f *File, opts Options) (*build.Definition, error) {
	c, target, err := compile(ctx, f, opts)
	if err != nil {
		return nil, err
	}
	if err := f.lint.Error(); err != nil {
		return nil, err
	}
	return c.definition(target), nil
}

// compile compiles all that the target needs.
func compile(ctx context.Context, f *File, opts Options) (*compiler, *stage, error) {
	if syntax, ok := opts.BuildArgs["BUILDKIT_SYNTAX"]; ok && syntax != "" {
		if err := checkSyntax(syntax); err != nil {
			return nil, nil, err
		}
	}
	switch opts.Network {
	case "", "default", executor.NetworkHost, executor.NetworkNone:
	default:
		return nil, nil, fmt.Errorf("network mode %q not supported by buildkit - use host, none or default", opts.Network)
	}
	c := &compiler{
		opts: opts, file: f, lex: shell.NewLex(f.escape),
		native: platforms.DefaultSpec(), stageList: stageList{byName: map[string]*stage{}},
		images: map[string]*baseImage{},
	}
	c.target, c.implicit = c.native, opts.Platform == nil
	if opts.Platform != nil {
		c.target = *opts.Platform
	}
	if err := c.globalArgs(); err != nil {
		return nil, nil, err
	}
	c.proxies = proxies(opts.BuildArgs)
	target, err := c.addStages()
	if err != nil {
		return nil, nil, err
	}
	if opts.Files != nil {
		c.context = &stage{title: "context", vertex: opts.Files, external: true, resolved: true, dispatched: true}
	}
	if err := c.linkStages(); err != nil {
		return nil, nil, err
	}
	reach, err := c.resolve(ctx, target)
	if err != nil {
		return nil, nil, err
	}
	for _, s := range c.stages {
		if opts.AllStages && !reach[s] {
			s.unresolved(c.target)
		}
		if (reach[s] || opts.AllStages) && !s.dispatched {
			if err := c.dispatchStage(s); err != nil {
				return nil, nil, err
			}
		}
	}
	return c, target, nil
}

// definition finishes the target's image.
func (c *compiler) definition(s *stage) *build.Definition {
	img := s.image
	if len(c.opts.Labels) > 0 {
		if img.Config.Labels == nil {
			img.Config.Labels = map[string]string{}
		}
		maps.Copy(img.Config.Labels, c.opts.Labels)
	}
	if !c.implicit {
		same := c.target.OS == img.OS && c.target.Architecture == img.Architecture
		img.OS, img.Architecture = c.target.OS, c.target.Architecture
		if c.target.Variant != "" || !same {
			img.Variant = c.target.Variant
		}
		if c.target.OSVersion != "" || !same {
			img.OSVersion = c.target.OSVersion
		}
		if c.target.OSFeatures != nil {
			img.OSFeatures = slices.Clone(c.target.OSFeatures)
		}
	}
	img.Platform = platforms.Normalize(img.Platform)
	return &build.Definition{Root: s.whole(), Config: img, Scanned: scanned(c, s)}
}

// globalArgs makes the scope of the ARGs before the first FROM.
func (c *compiler) globalArgs() error {
	target := c.opts.Target
	if target == "" {
		target = c.file.stages[len(c.file.stages)-1].Name
	}
	if target == "" {
		target = "default"
	}
	c.globals = &globals{lex: c.lex, lint: c.file.lint}
	for _, kv := range [][2]string{
		{"BUILDPLATFORM", platforms.Format(c.native)},
		{"BUILDOS", c.native.OS},
		{"BUILDOSVERSION", c.native.OSVersion},
		{"BUILDARCH", c.native.Architecture},
		{"BUILDVARIANT", c.native.Variant},
		{"TARGETPLATFORM", platforms.FormatAll(c.target)},
		{"TARGETOS", c.target.OS},
		{"TARGETOSVERSION", c.target.OSVersion},
		{"TARGETARCH", c.target.Architecture},
		{"TARGETVARIANT", c.target.Variant},
		{"TARGETSTAGE", target},
	} {
		if v, ok := c.opts.BuildArgs[kv[0]]; ok {
			kv[1] = v
		}
		c.globals.set(kv[0], kv[1])
	}
	defaults := &globals{envList: c.globals.clone(), lex: c.lex, lint: c.file.lint}
	if err := defaults.declare(c.file.args, nil); err == nil {
		defaults.checkBases(c.file.stages)
	}
	return c.globals.declare(c.file.args, c.opts.BuildArgs)
}

// proxies are the build arguments that RUN sees without an ARG and that are
// neither in history nor in cache keys.
func proxies(args map[string]string) (env []string) {
	for _, name := range []string{"http_proxy", "https_proxy", "ftp_proxy", "no_proxy", "all_proxy"} {
		for _, k := range slices.Sorted(maps.Keys(args)) {
			if strings.EqualFold(k, name) {
				env = append(env, strings.ToUpper(name)+"="+args[k], name+"="+args[k])
			}
		}
	}
	return env
}

// addStages makes the stages and numbers their steps. It returns what is to be
// built.
func (c *compiler) addStages() (*stage, error) {
	stop := 0
	if c.opts.StopAt > 0 {
		var err error
		if stop, err = c.opts.stopAt(c.file); err != nil {
			return nil, err
		}
	}
	for i, st := range c.file.stages {
		if err := c.addStage(i, st); err != nil {
			return nil, parser.WithLocation(err, st.Location)
		}
	}
	target, err := c.findTarget()
	if err == nil && c.opts.StopAt > 0 {
		target = c.stages[stop]
	}
	return target, err
}

// addStage makes the i-th stage.
func (c *compiler) addStage(i int, st instructions.Stage) error {
	res, err := c.globals.expand(st, st.BaseName)
	if err != nil {
		return err
	}
	name := res.Result
	if name == "" {
		return fmt.Errorf("base name (%s) should not be blank", st.BaseName)
	}
	st.BaseName = name
	s := &stage{Stage: st, title: st.Name, slot: strconv.Itoa(i), prefixed: c.opts.PrefixPlatform, outline: newOutline(c.globals.args, res.Matched)}
	if st.Name == "" {
		s.title = fmt.Sprintf("stage-%d", i)
	}
	if st.Platform != "" {
		if s.platform, err = c.stagePlatform(st, &s.outline); err != nil {
			return err
		}
	}
	c.add(s)
	if st.Name != "" && c.opts.override(s) {
		return nil
	}
	if s.BaseName != scratch && s.base == nil {
		s.total = 1
	}
	for _, cmd := range st.Commands {
		switch cmd.(type) {
		case *instructions.AddCommand, *instructions.CopyCommand, *instructions.RunCommand, *instructions.WorkdirCommand:
			s.total++
		}
	}
	s.noCache = c.opts.NoCache || slices.ContainsFunc(c.opts.NoCacheStages, func(n string) bool {
		return strings.EqualFold(n, st.Name)
	})
	return nil
}

func (c *compiler) stagePlatform(st instructions.Stage, used *outline) (*ocispec.Platform, error) {
	res, err := c.globals.expand(st, st.Platform)
	c.globals.checkPlatform(st, res)
	if err != nil {
		return nil, fmt.Errorf("failed to process arguments for platform %s: %w", res.Result, err)
	}
	if res.Result == "" {
		return nil, c.globals.mean(fmt.Errorf("empty platform value from expression %s", st.Platform), res.Unmatched)
	}
	p, err := platforms.Parse(res.Result)
	if err != nil {
		return nil, fmt.Errorf("failed to parse platform %s: %w", st.Platform, c.globals.mean(err, res.Unmatched))
	}
	used.use(res.Matched)
	return &p, nil
}

// stageList is all stages, and the images that instructions need files of.
type stageList struct {
	stages  []*stage
	byName  map[string]*stage
	context *stage // the context; nil: it is a directory
}

// add registers a stage: later stages find it by name.
func (c *stageList) add(s *stage) {
	c.stages = append(c.stages, s)
	s.base = c.byName[s.BaseName]
	if s.Name != "" {
		c.byName[strings.ToLower(s.Name)] = s
	}
}

// stageNames are the names of the stages so far.
func (c *stageList) names() (names []string) {
	for _, s := range c.stages {
		if s.title != "" {
			names = append(names, s.title)
		}
	}
	return names
}

// unresolved stands in for the base image of a stage that is only checked.
func (s *stage) unresolved(target ocispec.Platform) {
	if s.base == nil {
		s.image, s.vertex = emptyImage(target), &build.Vertex{Op: &build.Base{}}
		s.dispatched = s.external
	}
}

func (c *compiler) findTarget() (*stage, error) {
	if c.opts.Target == "" {
		return c.stages[len(c.stages)-1], nil
	}
	if s, ok := c.byName[strings.ToLower(c.opts.Target)]; ok {
		return s, nil
	}
	if i, err := strconv.Atoi(c.opts.Target); err == nil && i >= 0 && i < len(c.stages) {
		return c.stages[i], nil
	}
	err := fmt.Errorf("target stage %q could not be found", c.opts.Target)
	return nil, suggest.WrapError(err, c.opts.Target, c.names(), true)
}

// linkStages finds the stages and images that instructions copy from.
func (c *compiler) linkStages() error {
	for _, s := range slices.Clone(c.stages) {
		for _, ic := range s.Commands {
			cmd, err := c.command(ic)
			if err != nil {
				return parser.WithLocation(err, ic.Location())
			}
			s.commands = append(s.commands, cmd)
			s.deps = append(s.deps, cmd.stages()...)
		}
	}
	for _, s := range c.stages {
		if s.cyclic(map[*stage]bool{}, s) {
			return parser.WithLocation(fmt.Errorf("circular dependency detected on stage: %s", s.title), circleOf(s))
		}
	}
	if len(c.stages) == 1 {
		c.stages[0].title = ""
	}
	return nil
}

// circleOf is the place of the instruction that leads back to s.
func circleOf(s *stage) []parser.Range {
	for i, cmd := range s.commands {
		for _, d := range cmd.stages() {
			if d == s || d != nil && d.cyclic(map[*stage]bool{}, s) {
				return s.Commands[i].Location()
			}
		}
	}
	return s.Location
}

// cyclic reports whether s leads back to goal.
func (s *stage) cyclic(seen map[*stage]bool, goal *stage) bool {
	if seen[s] {
		return false
	}
	seen[s] = true
	for _, d := range append(slices.Clone(s.deps), s.base) {
		if d != nil && (d == goal || d.cyclic(seen, goal)) {
			return true
		}
	}
	return false
}

// command is an instruction with what it copies from.
type command struct {
	instructions.Command
	from    *stage
	mounts  []*stage // of a RUN, one per mount; nil: it is from nowhere
	onBuild bool
}

// stages are all that the instruction needs files of.
func (cmd command) stages() []*stage {
	var all []*stage
	for _, s := range append([]*stage{cmd.from}, cmd.mounts...) {
		if s != nil {
			all = append(all, s)
		}
	}
	return all
}

func (c *compiler) command(ic instructions.Command) (command, error) {
	cmd := command{Command: ic}
	if run, ok := ic.(*instructions.RunCommand); ok {
		cmd.mounts = c.mountStages(run)
		return cmd, nil
	}
	cp, ok := ic.(*instructions.CopyCommand)
	if add, isAdd := ic.(*instructions.AddCommand); isAdd && needsContext(add.SourcePaths) || ok && cp.From == "" {
		cmd.from = c.context
	}
	if !ok || cp.From == "" {
		return cmd, nil
	}
	v, _, err := c.lex.ProcessWord(cp.From, shell.EnvsFromSlice(nil))
	if err != nil {
		return cmd, err
	}
	if v != cp.From {
		return cmd, errors.New("variable expansion is not supported for --from, define a new stage with FROM using ARG from global scope as a workaround")
	}
	if i, err := strconv.Atoi(cp.From); err == nil {
		if i < 0 || i >= len(c.file.stages) {
			return cmd, fmt.Errorf("invalid stage index %d", i)
		}
		cmd.from = c.stages[i]
		return cmd, nil
	}
	cmd.from = c.named(cp.From, cp.Location())
	return cmd, nil
}

// named is the stage of a name, or the image that it names.
func (c *stageList) named(name string, location []parser.Range) *stage {
	if s, ok := c.byName[strings.ToLower(name)]; ok {
		return s
	}
	s := &stage{
		Stage: instructions.Stage{BaseName: name, Location: location}, external: true,
		slot: "image " + name,
	}
	c.add(s)
	return s
}

// resolve finds the base images of all that the target needs, and what their
// ONBUILD triggers need in turn.
func (c *compiler) resolve(ctx context.Context, target *stage) (map[*stage]bool, error) {
	for {
		reach := map[*stage]bool{}
		target.reach(reach)
		g, gctx := errgroup.WithContext(ctx)
		for _, s := range slices.Clone(c.stages) {
			if !reach[s] || s.base != nil || s.resolved {
				continue
			}
			s.resolved = true
			g.Go(func() error {
				if err := c.resolveBase(gctx, s); err != nil {
					if gctx.Err() == nil {
						err = c.near(s, c.opts.names(gctx), err)
					}
					return parser.WithLocation(err, s.Location)
				}
				return nil
			})
		}
		if err := g.Wait(); err != nil {
			return nil, err
		}
		more := false
		for _, s := range slices.Clone(c.stages) {
			if reach[s] {
				s.begin(c.file.lint)
			}
			if !reach[s] || s.triggered || s.external {
				continue
			}
			s.triggered = true
			triggers := slices.Clone(s.image.Config.OnBuild)
			s.image.Config.OnBuild = nil
			if s.base != nil {
				for _, cmd := range s.base.commands {
					if ob, ok := cmd.Command.(*instructions.OnbuildCommand); ok {
						triggers = append(triggers, ob.Expression)
					}
				}
			}
			deps, err := c.trigger(s, triggers)
			if err != nil {
				return nil, parser.SetLocation(err, s.Location)
			}
			more = more || deps
		}
		if !more {
			return reach, nil
		}
	}
}

func (s *stage) reach(seen map[*stage]bool) {
	if seen[s] {
		return
	}
	seen[s] = true
	if s.base != nil {
		s.base.reach(seen)
	}
	for _, d := range s.deps {
		d.reach(seen)
	}
}

// trigger puts the ONBUILD instructions in front of the stage's own and reports
// whether they need another stage or image.
func (c *compiler) trigger(s *stage, triggers []string) (bool, error) {
	deps := false
	var cmds []command
	for _, t := range triggers {
		ast, err := parser.Parse(strings.NewReader(t))
		if err != nil {
			return false, err
		}
		if len(ast.AST.Children) != 1 {
			return false, errors.New("onbuild trigger should be a single expression")
		}
		node := ast.AST.Children[0]
		lines := linesOf(s.Location)
		if len(lines) > 0 {
			node.StartLine, node.EndLine = slices.Min(lines), slices.Max(lines)
		}
		ic, err := instructions.ParseCommand(node)
		if err != nil {
			return false, err
		}
		cmd, err := c.command(ic)
		if err != nil {
			return false, err
		}
		cmd.onBuild = true
		if from := cmd.stages(); len(from) > 0 {
			s.deps = append(s.deps, from...)
			deps = true
		}
		cmds = append(cmds, cmd)
	}
	s.commands = append(cmds, s.commands...)
	s.total += len(cmds)
	return deps, nil
}

// emptyImage is the image of FROM scratch.
func emptyImage(p ocispec.Platform) dockerspec.DockerOCIImage {
	var img dockerspec.DockerOCIImage
	img.Platform = p
	img.RootFS.Type = "layers"
	img.Config.WorkingDir = "/"
	if p.OS != "windows" {
		img.Config.Env = []string{"PATH=" + defaultPath}
	}
	return img
}
