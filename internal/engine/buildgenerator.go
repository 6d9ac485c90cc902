package engine

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"path"
	"slices"
	"strings"

	"github.com/containerd/platforms"
	dockerspec "github.com/moby/docker-image-spec/specs-go/v1"
	"github.com/opencontainers/go-digest"

	"strake/internal/attest"
	"strake/internal/build"
	"strake/internal/executor"
	"strake/internal/layer"
	"strake/internal/reference"
)

// generator is an image that makes SBOMs by BuildKit's protocol: its command sees the
// files to scan, and writes in-toto statements.
type generator struct {
	name   string            // of the image, in full
	params map[string]string // BUILDKIT_SCAN_ variables
}

// newGenerator reads the attributes of an SBOM; nil: they ask for none.
func newGenerator(attrs map[string]string) (*generator, error) {
	image, ok := attrs["generator"]
	if !ok && len(attrs) == 0 {
		return nil, nil
	}
	if !ok {
		return nil, invalid("sbom %s is a parameter of a generator: give generator=IMAGE too", slices.Min(slices.Collect(maps.Keys(attrs))))
	}
	named, err := reference.Parse(image)
	if err != nil {
		return nil, invalid("failed to parse sbom scanner %s: %v", image, err)
	}
	g := &generator{name: named.OrLatest().String(), params: maps.Clone(attrs)}
	delete(g.params, "generator")
	return g, nil
}

// Where a generator finds and puts files, as BuildKit has it.
const (
	scanSources = "/run/src"
	scanResults = "/run/out"
	scanCore    = "sbom" // the result of the build
)

// generate has the generator scan what was built, where the user named one.
func (b *building) generate(ctx context.Context) error {
	g := b.attest.generator
	if g == nil {
		return nil
	}
	step := b.solver.Begin("[internal] load metadata for " + g.name)
	img, err := b.bases.Resolve(ctx, g.name, platforms.DefaultSpec(), b.opts.Pull)
	if err = step.End(ctx, err); err != nil {
		return fmt.Errorf("sbom generator %s: %w", g.name, err)
	}
	for _, built := range b.built {
		v, err := g.vertex(img, built, b.given)
		if err != nil {
			return err
		}
		v.NoCache = b.opts.NoCache
		if b.sboms[platforms.FormatAll(built.Platform)], err = b.generated(ctx, v); err != nil {
			return fmt.Errorf("sbom generator %s: %w", g.name, err)
		}
	}
	return nil
}

// vertex is the run of the generator over an image and what is scanned besides, within the limits of the build's commands.
func (g *generator) vertex(img build.Image, built build.Built, given openedRun) (*build.Vertex, error) {
	var config dockerspec.DockerOCIImage
	if err := json.Unmarshal(img.Config, &config); err != nil {
		return nil, fmt.Errorf("sbom generator %s: image config: %w", g.name, err)
	}
	run := &build.Run{
		Platform: config.Platform, Args: slices.Concat(config.Config.Entrypoint, config.Config.Cmd), Env: g.env(config.Config.Env, len(built.Scanned) > 0),
		Cwd: path.Join("/", config.Config.WorkingDir), Network: executor.NetworkHost,
		Mounts: []build.Mount{{Type: build.MountTmpfs, Target: "/tmp"}},
		Limits: given.Limits, CgroupParent: given.CgroupParent, Resources: given.limits, ShmSize: given.ShmSize,
	}
	if given.Network == executor.NetworkNone {
		run.Network = given.Network
	}
	if len(run.Args) == 0 {
		return nil, invalid("sbom generator %s has no command", g.name)
	}
	base := &build.Vertex{Op: &build.Base{Layers: img.Layers}, Name: "FROM " + g.name + "@" + img.Manifest.Digest.String()}
	core := &build.Vertex{Op: &build.Base{Layers: layersOf(built)}}
	v := &build.Vertex{
		Op: run, Name: fmt.Sprintf("[%s] generating sbom using %s", platforms.FormatAll(built.Platform), g.name),
		Inputs: []*build.Vertex{{Op: &build.Mkdir{Path: scanResults}, Inputs: []*build.Vertex{base}}},
	}
	scan := func(target string, files *build.Vertex) {
		v.Inputs = append(v.Inputs, files)
		run.Mounts = append(run.Mounts, build.Mount{Type: build.MountBind, Target: path.Join(scanSources, target), Source: "/", Stage: len(v.Inputs) - 1, ReadOnly: true})
	}
	scan("core/"+scanCore, core)
	for _, name := range slices.Sorted(maps.Keys(built.Scanned)) {
		scan("extras/"+scanCore+"-"+name, built.Scanned[name])
	}
	return v, nil
}

// env is the environment of a generator whose image has the variables of base.
func (g *generator) env(base []string, extras bool) []string {
	set := map[string]string{"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"}
	for _, kv := range base {
		k, v, _ := strings.Cut(kv, "=")
		set[k] = v
	}
	set["BUILDKIT_SCAN_DESTINATION"], set["BUILDKIT_SCAN_SOURCE"] = scanResults+"/", path.Join(scanSources, "core", scanCore)
	if extras {
		set["BUILDKIT_SCAN_SOURCE_EXTRAS"] = path.Join(scanSources, "extras")
	}
	for k, v := range g.params {
		set["BUILDKIT_SCAN_"+k] = v
	}
	env := make([]string, 0, len(set))
	for _, k := range slices.Sorted(maps.Keys(set)) {
		env = append(env, k+"="+set[k])
	}
	return env
}

// generated runs the generator and reads what it wrote.
func (b *building) generated(ctx context.Context, v *build.Vertex) (list []attest.Predicate, err error) {
	res, err := b.solver.Solve(ctx, v)
	if err != nil {
		return nil, err
	}
	step := b.solver.Begin("reading the sbom")
	defer func() { err = step.End(ctx, err) }()
	top, err := openChain(ctx, b.env, res.Layers[len(res.Layers)-1:])
	if err != nil {
		return nil, err
	}
	defer closing(&err, top.Close)
	list, err = attest.Generated(layer.Union(top), strings.TrimPrefix(scanResults, "/"), scanCore)
	if err == nil && len(list) == 0 {
		step.Warn("%s wrote no sbom: the image has none\n", b.attest.generator.name)
	}
	return list, err
}

// layersOf are the layers of an image, bottom first.
func layersOf(b build.Built) []digest.Digest {
	ids := make([]digest.Digest, len(b.Layers))
	for i, desc := range b.Layers {
		ids[i] = desc.Digest
	}
	return ids
}
