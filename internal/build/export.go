package build

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	dockerspec "github.com/moby/docker-image-spec/specs-go/v1"
	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"strake/internal/progress"
)

// Definition is an image to build: the vertex that makes its files, and all
// else that its config says. History entries of layers that are made have no
// time yet, nor do those of the empty layers among them.
type Definition struct {
	Root   *Vertex
	Config dockerspec.DockerOCIImage
}

// ExportOptions say what becomes of a built image.
type ExportOptions struct {
	// Names are shown as the names that Commit gives.
	Names []string
	// Have, when not nil, reports that the store has the image with its names
	// already: then nothing is written.
	Have func(ctx context.Context, img Exported) (bool, error)
	// Commit, when not nil, makes the image known to the store.
	Commit func(ctx context.Context, img Exported) error
}

// Exported is a built image.
type Exported struct {
	Manifest ocispec.Descriptor
	ID       digest.Digest // of the config
	Cached   bool          // every layer came from the cache
}

// Build solves the definition and stores its config and manifest. The same
// sources and a full cache give the same image ID.
func (s *Solver) Build(ctx context.Context, def *Definition, opts ExportOptions) (Exported, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	res, err := s.Solve(ctx, def.Root)
	if err != nil {
		return Exported{}, err
	}
	p := s.begin("exporting to image")
	exp, err := s.export(ctx, p, def, res, opts)
	return exp, p.End(ctx, err)
}

func (s *Solver) export(ctx context.Context, p *Reporter, def *Definition, res Result, opts ExportOptions) (Exported, error) {
	exp := Exported{Cached: res.Cached}
	var created []time.Time
	for v := def.Root; v != nil; {
		r, err := s.solve(ctx, v)
		if err != nil {
			return exp, err
		}
		if !r.Created.IsZero() {
			created = append([]time.Time{r.Created}, created...)
		}
		if len(v.Inputs) == 0 {
			break
		}
		exp.Cached = exp.Cached && r.Cached
		v = v.Inputs[0]
	}
	config, err := s.config(def, res.Layers, created)
	if err != nil {
		return exp, err
	}
	manifest := ocispec.Manifest{
		Versioned: specs.Versioned{SchemaVersion: 2},
		MediaType: ocispec.MediaTypeImageManifest,
		Layers:    []ocispec.Descriptor{},
	}
	for _, id := range res.Layers {
		size, err := s.layerSize(ctx, id)
		if err != nil {
			return exp, fmt.Errorf("export: %w", err)
		}
		manifest.Layers = append(manifest.Layers, ocispec.Descriptor{
			MediaType: ocispec.MediaTypeImageLayer, Digest: id, Size: size,
		})
	}
	p.Item(progress.Item{ID: "exporting layers", Done: true})
	manifest.Config = ocispec.Descriptor{
		MediaType: ocispec.MediaTypeImageConfig, Digest: digest.FromBytes(config), Size: int64(len(config)),
	}
	exp.ID = manifest.Config.Digest
	b, err := json.Marshal(manifest)
	if err != nil {
		return exp, fmt.Errorf("encode the manifest: %w", err)
	}
	exp.Manifest = ocispec.Descriptor{
		MediaType: ocispec.MediaTypeImageManifest, Digest: digest.FromBytes(b), Size: int64(len(b)),
	}
	have := false
	if opts.Have != nil {
		if have, err = opts.Have(ctx, exp); err != nil {
			return exp, err
		}
	}
	if !have {
		err = s.write(ctx, exp, config, b, opts)
	}
	if err != nil {
		return exp, err
	}
	p.Item(progress.Item{ID: "writing image " + exp.ID.String(), Done: true})
	for _, n := range opts.Names {
		p.Item(progress.Item{ID: "naming to " + n, Done: true})
	}
	return exp, nil
}

// write stores the image's config and manifest and makes it known.
func (s *Solver) write(ctx context.Context, exp Exported, config, manifest []byte, opts ExportOptions) error {
	if _, err := s.opts.Store.PutBlob(ctx, ocispec.MediaTypeImageConfig, config); err != nil {
		return fmt.Errorf("store the config: %w", err)
	}
	if _, err := s.opts.Store.PutBlob(ctx, ocispec.MediaTypeImageManifest, manifest); err != nil {
		return fmt.Errorf("store the manifest: %w", err)
	}
	if opts.Commit == nil {
		return nil
	}
	return opts.Commit(ctx, exp)
}

// config is the image config as BuildKit writes it: its fields sorted, layers,
// times and history filled in.
func (s *Solver) config(def *Definition, layers []digest.Digest, created []time.Time) ([]byte, error) {
	img := def.Config
	if img.OS == "" || img.Architecture == "" {
		return nil, errors.New("invalid image config for export: os and architecture are needed")
	}
	b, err := json.Marshal(img)
	if err != nil {
		return nil, fmt.Errorf("encode the config: %w", err)
	}
	var fields map[string]json.RawMessage
	if err := json.Unmarshal(b, &fields); err != nil {
		return nil, fmt.Errorf("encode the config: %w", err)
	}
	history := datedHistory(img.History, len(layers)-len(created), created)
	set := func(name string, v any) {
		b, merr := json.Marshal(v)
		if merr != nil && err == nil {
			err = fmt.Errorf("encode the config: %w", merr)
		}
		fields[name] = b
	}
	if layers == nil {
		layers = []digest.Digest{}
	}
	set("rootfs", ocispec.RootFS{Type: "layers", DiffIDs: layers})
	set("history", history)
	set("created", lastTime(history, s.opts.Epoch))
	if err != nil {
		return nil, err
	}
	return json.Marshal(fields)
}

// datedHistory gives the history its times: a made layer has the time it was
// made; an entry without one has the time of the layer before it or, in front
// of the first made layer, of that one.
func datedHistory(history []ocispec.History, base int, created []time.Time) []ocispec.History {
	out := make([]ocispec.History, len(history))
	copy(out, history)
	layer := 0
	for i := range out {
		if out[i].EmptyLayer {
			continue
		}
		if n := layer - base; out[i].Created == nil && n >= 0 && n < len(created) {
			out[i].Created = &created[n]
		}
		layer++
	}
	var at *time.Time
	missing := false
	for _, h := range out {
		if h.Created == nil {
			missing = true
			continue
		}
		at = h.Created
		if missing {
			break
		}
	}
	missing = false
	for i := range out {
		if out[i].Created == nil {
			missing = true
			out[i].Created = at
		} else if missing {
			at = out[i].Created
		}
	}
	return out
}

// lastTime is the time of the image: of its last dated history entry.
func lastTime(history []ocispec.History, epoch *time.Time) *time.Time {
	var at *time.Time
	for _, h := range history {
		if h.Created != nil {
			at = h.Created
		}
	}
	if at == nil {
		return epoch
	}
	return at
}
