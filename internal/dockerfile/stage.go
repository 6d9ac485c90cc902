package dockerfile

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"math"
	"slices"
	"strings"
	"sync"

	"github.com/containerd/platforms"
	"github.com/moby/buildkit/frontend/dockerfile/instructions"
	"github.com/moby/buildkit/frontend/dockerfile/linter"
	"github.com/moby/buildkit/frontend/dockerfile/parser"
	"github.com/moby/buildkit/frontend/dockerfile/shell"
	dockerspec "github.com/moby/docker-image-spec/specs-go/v1"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"strake/internal/build"
	"strake/internal/reference"
)

const (
	scratch        = "scratch"
	defaultPath    = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
	historyComment = "buildkit.dockerfile.v0"
)

// stage is a stage, or an image that something is copied from, on its way to a
// vertex and a config.
type stage struct {
	instructions.Stage
	title    string // in the names of steps
	slot     string
	external bool               // an image named by COPY --from
	named    *namedContext      // what takes the place of its base, or of it
	files    *build.LazyContext // of a context that is a directory

	base     *stage
	deps     []*stage
	commands []command
	platform *ocispec.Platform

	resolved, triggered, dispatched bool

	from   *baseImage // nil: scratch or another stage
	image  dockerspec.DockerOCIImage
	vertex *build.Vertex
	env    envList // of the image and of the ARGs so far
	args   []instructions.KeyValuePairOptional

	checks
	asked   *ocispec.Platform // of the base image; nil: any
	outline outline

	prefixed     bool // the names of steps have the platform
	noCache      bool
	step, total  int
	instructions int // dispatched so far
}

// envList is variables in order. It is a shell.EnvGetter.
type envList struct {
	keys   []string
	values map[string]string
}

func (e *envList) set(k, v string) {
	if e.values == nil {
		e.values = map[string]string{}
	}
	if _, ok := e.values[k]; !ok {
		e.keys = append(e.keys, k)
	}
	e.values[k] = v
}

// Get is EnvGetter's.
func (e *envList) Get(k string) (string, bool) {
	v, ok := e.values[k]
	return v, ok
}

// Keys is EnvGetter's.
func (e *envList) Keys() []string { return e.keys }

func (e *envList) list() []string {
	out := make([]string, len(e.keys))
	for i, k := range e.keys {
		out[i] = k + "=" + e.values[k]
	}
	return out
}

func (e *envList) clone() envList {
	return envList{keys: slices.Clone(e.keys), values: maps.Clone(e.values)}
}

// resolveBase finds the image that a stage is FROM.
func (c *compiler) resolveBase(ctx context.Context, s *stage) error {
	platform := s.platform
	if platform == nil {
		platform = &c.target
	}
	if s.platform != nil || !c.implicit {
		s.asked = platform
	}
	whole := s.named == nil && !s.external // steps of its own follow
	if s.named == nil {
		s.named, _ = c.opts.namedContext(s.BaseName)
	}
	if s.named != nil && s.named.Built != nil {
		return s.named.begin(ctx, s, *platform)
	}
	if s.named != nil && s.named.Image == "" {
		s.fromContext(*platform, whole)
		return nil
	}
	if s.BaseName == scratch || s.named != nil && s.named.Image == scratch {
		s.image = emptyImage(*platform)
		s.platform = platform
		s.vertex = &build.Vertex{Op: &build.Base{}, Lines: linesOf(s.Location)}
		s.dispatched = s.external
		return nil
	}
	ref, err := reference.Parse(s.BaseName)
	if err != nil {
		return fmt.Errorf("failed to parse stage name %q: %w", s.BaseName, err)
	}
	name := ref.OrLatest().String()
	if s.named != nil {
		name = s.named.Image
	}
	base := c.baseImage(name, *platform)
	if s.named != nil {
		base.label = s.named.label
	}
	img, err := base.resolve(ctx, c.opts)
	if err != nil {
		return fmt.Errorf("%s: failed to resolve source metadata for %s: %w", s.BaseName, name, err)
	}
	if err := json.Unmarshal(img.Config, &s.image); err != nil {
		return fmt.Errorf("%s: failed to parse image config: %w", s.BaseName, err)
	}
	s.image.Created = nil
	s.image.History = matchHistory(s.image.History, len(img.Layers))
	s.platform = platform
	if c.implicit && s.image.OS != "" && s.image.Architecture != "" {
		own := s.image.Platform
		s.platform = &own
	}
	s.from = base
	s.dispatched = s.external
	return nil
}

// begin makes the vertex of the stage's base image. It is called for one stage
// after the other: the first gives a shared base its name.
func (s *stage) begin(lint *linter.Linter) {
	if s.from == nil || s.vertex != nil {
		return
	}
	if s.asked != nil && len(s.from.img.Layers) > 0 {
		s.checkBase(lint, s.BaseName, *s.asked)
	}
	title := "FROM " + cmp.Or(s.from.img.Ref, s.from.name)
	if d := s.from.img.Manifest.Digest; d != "" {
		title += "@" + d.String()
	}
	if s.named != nil {
		title = s.named.label + strings.TrimPrefix(title, "FROM ")
	} else {
		title = s.prefix(title)
	}
	if s.from.vertex == nil {
		s.from.vertex = &build.Vertex{Op: &build.Base{Layers: s.from.img.Layers}, Name: title, Lines: linesOf(s.Location)}
	}
	s.vertex = s.from.vertex
}

// baseImage is an image that stages are FROM, however many they are.
type baseImage struct {
	name     string
	label    string // of a context: how its steps begin
	platform ocispec.Platform

	once sync.Once
	img  build.Image
	err  error

	vertex *build.Vertex
}

func (c *compiler) baseImage(name string, platform ocispec.Platform) *baseImage {
	c.mu.Lock()
	defer c.mu.Unlock()
	key := name + " " + platforms.FormatAll(platform)
	if c.images[key] == nil {
		c.images[key] = &baseImage{name: name, platform: platform}
	}
	return c.images[key]
}

// resolve finds the image, once.
func (b *baseImage) resolve(ctx context.Context, opts Options) (build.Image, error) {
	b.once.Do(func() {
		p := opts.Solver.Begin(cmp.Or(b.label, "[internal] ") + "load metadata for " + b.name)
		b.img, b.err = opts.Images.Resolve(ctx, b.name, b.platform, opts.Pull)
		b.err = p.End(ctx, b.err)
	})
	return b.img, b.err
}

// matchHistory makes the history have one entry that is not empty per layer.
func matchHistory(history []ocispec.History, layers int) []ocispec.History {
	out := slices.Clone(history)
	n := 0
	for i := range out {
		if !out[i].EmptyLayer {
			if n == layers {
				out[i].EmptyLayer = true
				continue
			}
			n++
		}
	}
	for ; n < layers; n++ {
		out = append(out, ocispec.History{Comment: "buildkit.exporter.image.v0"})
	}
	return out
}

// inherit begins a stage where its base stage ends.
func (s *stage) inherit() {
	b := s.base
	s.image = cloneImage(b.image)
	s.image.Config.OnBuild = nil
	s.platform, s.vertex = b.platform, b.whole()
	s.env = b.env.clone()
	s.args = slices.Concat(s.args, b.args)
	s.workdirSet = b.workdirSet
}

func cloneImage(src dockerspec.DockerOCIImage) dockerspec.DockerOCIImage {
	img := src
	img.Config.Env = slices.Clone(src.Config.Env)
	img.Config.Cmd = slices.Clone(src.Config.Cmd)
	img.Config.Entrypoint = slices.Clone(src.Config.Entrypoint)
	img.Config.OnBuild = slices.Clone(src.Config.OnBuild)
	img.Config.ExposedPorts = maps.Clone(src.Config.ExposedPorts)
	img.Config.Volumes = maps.Clone(src.Config.Volumes)
	img.Config.Labels = maps.Clone(src.Config.Labels)
	img.Config.Shell = slices.Clone(src.Config.Shell)
	if src.Config.Healthcheck != nil {
		h := *src.Config.Healthcheck
		h.Test = slices.Clone(h.Test)
		img.Config.Healthcheck = &h
	}
	img.History = slices.Clone(src.History)
	return img
}

// dispatchStage turns the stage's instructions into vertices and config.
func (c *compiler) dispatchStage(s *stage) error {
	if s.base != nil {
		s.inherit()
	}
	s.dispatched = true
	if s.platform == nil {
		s.platform = &c.target
	}
	cfg := &s.image.Config
	if _, ok := shell.EnvsFromSlice(cfg.Env).Get("PATH"); !ok && s.platform.OS != "windows" {
		cfg.Env = append(cfg.Env, "PATH="+defaultPath)
	}
	if s.base == nil {
		for _, kv := range cfg.Env {
			k, v, _ := strings.Cut(kv, "=")
			s.env.set(k, v)
		}
	}
	if cfg.WorkingDir != "" {
		cfg.WorkingDir = absolute("/", cfg.WorkingDir)
	}
	for _, cmd := range s.commands {
		if err := c.dispatch(s, cmd); err != nil {
			return parser.WithLocation(err, cmd.Location())
		}
		s.instructions++
	}
	return nil
}

// prefix numbers a step: "[builder 2/5] RUN make".
func (s *stage) prefix(text string) string {
	if s.total == 0 {
		return text
	}
	s.step++
	title := s.title
	if title != "" {
		title += " "
	}
	if s.prefixed && s.platform != nil {
		title = platforms.FormatAll(*s.platform) + s.crossTarget() + " " + title
	}
	return fmt.Sprintf("[%s%*d/%d] %s", title, int(1+math.Log10(float64(s.total))), s.step, s.total, text)
}

// crossTarget is, in the names of steps that know of it, what a stage that runs
// on another platform builds for.
func (s *stage) crossTarget() string {
	var target ocispec.Platform
	if v, ok := s.env.Get("TARGETPLATFORM"); ok {
		target, _ = platforms.Parse(v) // none where it is nonsense
	} else {
		target.OS, _ = s.env.Get("TARGETOS")
		target.Architecture, _ = s.env.Get("TARGETARCH")
		target.Variant, _ = s.env.Get("TARGETVARIANT")
	}
	target.OS, target.Architecture = cmp.Or(target.OS, s.platform.OS), cmp.Or(target.Architecture, s.platform.Architecture)
	target = platforms.Normalize(target)
	switch {
	case target.OS != s.platform.OS:
		return "->" + platforms.FormatAll(target)
	case target.Architecture != s.platform.Architecture:
		return "->" + strings.Trim(target.Architecture+"/"+target.Variant, "/")
	}
	return ""
}

// stepName is the name of a step as BuildKit shows it: variables expanded.
func (s *stage) stepName(cmd command, lex *shell.Lex, source string) string {
	return s.stepNameIn(&s.env, cmd, lex, source)
}

// stepNameIn is stepName with the variables of env.
func (s *stage) stepNameIn(env *envList, cmd command, lex *shell.Lex, source string) string {
	text := source
	if w, err := expandWord(lex, source, env); err == nil {
		text = w
	}
	verb, rest, ok := strings.Cut(text, " ")
	text = strings.ToUpper(verb)
	if ok {
		text += " " + rest
	}
	if cmd.onBuild {
		text = "ONBUILD " + text
	}
	return s.prefix(text)
}

// advance makes op the stage's next step.
func (c *compiler) advance(s *stage, cmd command, op build.Op, name string, from ...*build.Vertex) {
	v := &build.Vertex{
		Op:      op,
		Inputs:  append([]*build.Vertex{s.vertex}, from...),
		Name:    name,
		Lines:   linesOf(cmd.Location()),
		NoCache: s.noCache,
	}
	if c.opts.Slot != "" {
		stage := s.Name
		if stage == "" {
			stage = s.slot
		}
		v.Slot = fmt.Sprintf("%s\x00%s\x00%s\x00%d", c.opts.Slot, platforms.FormatAll(*s.platform), stage, s.instructions)
	}
	s.vertex = v
}

// record appends a history entry.
func (s *stage) record(text string, hasLayer bool) {
	s.image.History = append(s.image.History, ocispec.History{
		CreatedBy: text, Comment: historyComment, EmptyLayer: !hasLayer,
	})
}
