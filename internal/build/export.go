package build

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	dockerspec "github.com/moby/docker-image-spec/specs-go/v1"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// Definition is an image to build: the vertex that makes its files, and all
// else that its config says. History entries of layers that are made have no
// time yet, nor do those of the empty layers among them.
type Definition struct {
	Root   *Vertex
	Config dockerspec.DockerOCIImage
	// Scanned makes the files that a scan of the image sees besides it, by name: those
	// of stages and of the context that the Dockerfile says.
	Scanned map[string]*Vertex
}

// Built is an image that was built: its layers are in the store, its config is
// not yet.
type Built struct {
	ID       digest.Digest // of Config
	Config   []byte
	Platform ocispec.Platform
	Layers   []ocispec.Descriptor // plain tars, bottom first
	Base     int                  // how many of Layers came with the base image
	Cached   bool                 // every other layer came from the cache
	Scanned  map[string]*Vertex   // of the definition
}

// Build solves the definition. The same sources and a full cache give the same
// image ID.
func (s *Solver) Build(ctx context.Context, def *Definition) (Built, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	res, err := s.Solve(ctx, def.Root)
	if err != nil {
		return Built{}, err
	}
	built := Built{Platform: def.Config.Platform, Cached: res.Cached, Scanned: def.Scanned}
	var created []time.Time
	for v := def.Root; v != nil; {
		r, err := s.solve(ctx, v)
		if err != nil {
			return built, err
		}
		if !r.Created.IsZero() {
			created = append([]time.Time{r.Created}, created...)
		}
		if len(v.Inputs) == 0 {
			break
		}
		built.Cached = built.Cached && r.Cached
		v = v.Inputs[0]
	}
	built.Base = len(res.Layers) - len(created)
	if built.Config, err = s.config(def, res.Layers, created); err != nil {
		return built, err
	}
	built.ID = digest.FromBytes(built.Config)
	for _, id := range res.Layers {
		size, err := s.layerSize(ctx, id)
		if err != nil {
			return built, fmt.Errorf("export: %w", err)
		}
		built.Layers = append(built.Layers, ocispec.Descriptor{MediaType: ocispec.MediaTypeImageLayer, Digest: id, Size: size})
	}
	return built, nil
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
