package engine

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"github.com/containerd/platforms"
	imagespec "github.com/moby/docker-image-spec/specs-go/v1"
	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"strake/internal/archive"
	"strake/internal/build"
	"strake/internal/dockerfile"
	"strake/internal/store"
)

// ImportOptions say what becomes an image.
type ImportOptions struct {
	Source   io.Reader // a tar of a root file system, compressed or not; nil: URL
	URL      string    // where to get it by http or https
	Name     string    // "" for none
	Changes  []string  // Dockerfile instructions that only concern the config
	Message  string    // the comment in the history
	Platform string    // "" is this machine's
}

// ImportResult says what was made.
type ImportResult struct {
	ID digest.Digest
}

// Import makes an image of one layer, the tar as it is, decompressed: all of it
// or nothing.
func Import(ctx context.Context, env *Env, opts ImportOptions) (result ImportResult, err error) {
	add := store.AddImageOptions{Action: "import"}
	if opts.Name != "" {
		named, err := ParseTarget(opts.Name)
		if err != nil {
			return ImportResult{}, err
		}
		add.Names = []string{named.String()}
	}
	config, err := importConfig(ctx, opts)
	if err != nil {
		return ImportResult{}, err
	}
	source := opts.Source
	if source == nil {
		body, err := download(ctx, opts.URL)
		if err != nil {
			return ImportResult{}, err
		}
		defer closing(&err, body.Close)
		source = body
	}
	files, err := env.Store.WriteLayer(ctx, func(w io.Writer) error {
		tar, _, err := archive.Decompress(source)
		if err != nil {
			return err
		}
		_, err = io.Copy(w, tar)
		closing(&err, tar.Close)
		return err
	})
	if err != nil {
		return ImportResult{}, err
	}
	config.RootFS = ocispec.RootFS{Type: "layers", DiffIDs: []digest.Digest{files.DiffID}}
	manifest := ocispec.Manifest{
		Versioned: specs.Versioned{SchemaVersion: 2},
		MediaType: ocispec.MediaTypeImageManifest,
		Layers:    []ocispec.Descriptor{{MediaType: ocispec.MediaTypeImageLayer, Digest: files.DiffID, Size: files.Size}},
	}
	if manifest.Config, err = putJSON(ctx, env, ocispec.MediaTypeImageConfig, config); err != nil {
		return ImportResult{}, err
	}
	if add.Root, err = putJSON(ctx, env, ocispec.MediaTypeImageManifest, manifest); err != nil {
		return ImportResult{}, err
	}
	img, err := env.Store.AddImage(ctx, add)
	if err != nil {
		return ImportResult{}, err
	}
	return ImportResult{ID: img.ID}, settle(ctx, env)
}

func putJSON(ctx context.Context, env *Env, mediaType string, v any) (ocispec.Descriptor, error) {
	b, err := json.Marshal(v)
	if err != nil {
		return ocispec.Descriptor{}, fmt.Errorf("encode %s: %w", mediaType, err)
	}
	return env.Store.PutBlob(ctx, mediaType, b)
}

// importConfig is the new image's config, without its layer.
func importConfig(ctx context.Context, opts ImportOptions) (imagespec.DockerOCIImage, error) {
	platform, err := ParsePlatform(opts.Platform)
	if err != nil {
		return imagespec.DockerOCIImage{}, err
	}
	now := time.Now().UTC()
	comment := opts.Message
	if comment == "" {
		comment = "Imported from " + cmp.Or(opts.URL, "-")
	}
	config := imagespec.DockerOCIImage{}
	config.Platform = platforms.Normalize(platform)
	config.Created = &now
	config.History = []ocispec.History{{Created: &now, Comment: comment}}
	if len(opts.Changes) == 0 {
		return config, nil
	}
	config.Config, err = applyChanges(ctx, opts.Changes)
	return config, err
}

// changeable lists the instructions that --change takes.
func changeable() []string {
	return []string{"cmd", "entrypoint", "env", "expose", "healthcheck", "label", "onbuild", "stopsignal", "user", "volume", "workdir"}
}

// applyChanges is the config that Dockerfile instructions make of an empty one.
func applyChanges(ctx context.Context, changes []string) (imagespec.DockerOCIImageConfig, error) {
	empty, err := configOf(ctx, nil)
	if err != nil {
		return empty, err
	}
	for _, c := range changes {
		word, _, _ := strings.Cut(strings.TrimSpace(c), " ")
		if word = strings.ToLower(word); !slices.Contains(changeable(), word) {
			return empty, messageError{word + " is not a valid change command", errdefs.ErrInvalidArgument}
		}
	}
	config, err := configOf(ctx, changes)
	if err != nil {
		return config, messageError{err.Error(), errdefs.ErrInvalidArgument}
	}
	// A Dockerfile's FROM scratch sets PATH and a directory; an import does not.
	config.Env = slices.DeleteFunc(config.Env, func(e string) bool { return slices.Contains(empty.Env, e) })
	if config.WorkingDir == empty.WorkingDir {
		config.WorkingDir = ""
	}
	config.ArgsEscaped = false //nolint:staticcheck // deprecated, and therefore left out
	return config, nil
}

func configOf(ctx context.Context, changes []string) (imagespec.DockerOCIImageConfig, error) {
	file, err := dockerfile.Parse("changes", []byte("FROM scratch\n"+strings.Join(changes, "\n")), "")
	if err != nil {
		return imagespec.DockerOCIImageConfig{}, err
	}
	definition, err := dockerfile.Compile(ctx, file, dockerfile.Options{Solver: build.NewSolver(build.Options{})})
	if err != nil {
		return imagespec.DockerOCIImageConfig{}, err
	}
	return definition.Config.Config, nil
}

// download opens what a URL names, or fails as docker does.
func download(ctx context.Context, url string) (io.ReadCloser, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return nil, err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return nil, err
	}
	if resp.StatusCode < http.StatusBadRequest {
		return resp.Body, nil
	}
	const enough = 4 << 10 // of an error's page
	body, err := io.ReadAll(io.LimitReader(resp.Body, enough))
	if err := errors.Join(err, resp.Body.Close()); err != nil {
		return nil, fmt.Errorf("failed to GET %s with status %s: %w", url, resp.Status, err)
	}
	return nil, messageError{fmt.Sprintf("failed to GET %s with status %s: %s", url, resp.Status, bytes.TrimSpace(body)), errdefs.ErrUnavailable}
}
