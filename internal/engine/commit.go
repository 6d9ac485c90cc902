package engine

import (
	"cmp"
	"context"
	"io"
	"maps"
	"slices"
	"strings"
	"time"

	imagespec "github.com/moby/docker-image-spec/specs-go/v1"
	containertypes "github.com/moby/moby/api/types/container"
	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"strake/internal/archive"
	"strake/internal/image"
	"strake/internal/layer"
	"strake/internal/store"
	"strake/internal/userns"
)

// CommitOptions say which container becomes an image.
type CommitOptions struct {
	Ref     string
	Name    string   // of the image; "" for none
	Changes []string // Dockerfile instructions that only concern the config
	Message string   // the comment in the history
	Author  string
	Pause   bool // the container meanwhile
}

// Commit makes an image of a container's image and what the container wrote to it: all of it or nothing. What is in mounts is not
// in it.
func Commit(ctx context.Context, env *Env, opts CommitOptions) (id digest.Digest, err error) {
	add := store.AddImageOptions{Action: "commit"}
	if opts.Name != "" {
		named, err := ParseTarget(opts.Name)
		if err != nil {
			return "", err
		}
		add.Names = []string{named.String()}
	}
	c, err := containers(env).Get(ctx, opts.Ref)
	if err != nil {
		return "", err
	}
	img, err := use(ctx, env, c.ImageID.String(), "")
	if err != nil {
		return "", err
	}
	config, err := commitConfig(ctx, c, opts.Changes)
	if err != nil {
		return "", err
	}
	write := func() (err error) {
		add.Root, err = commitImage(ctx, env, c, img, config, opts)
		return err
	}
	if err := quiet(ctx, env, c, opts.Pause, write); err != nil {
		return "", err
	}
	made, err := env.Store.AddImage(ctx, add)
	if err != nil {
		return "", err
	}
	about := map[string]string{"comment": opts.Message, "imageID": made.ID.String(), "imageRef": opts.Name}
	if err := containers(env).Tell(ctx, "commit", c, about); err != nil {
		return "", err
	}
	return made.ID, settle(ctx, env)
}

// emptyLayer is the diffID of a layer without entries.
const emptyLayer = digest.Digest("sha256:5f70bf18a086007016e948b04aed3b82103a36bea41755b6cddfaf10ace3c6ef")

// commitImage writes the image, which has no name yet.
func commitImage(ctx context.Context, env *Env, c *Container, img Image, config imagespec.DockerOCIImageConfig, opts CommitOptions) (ocispec.Descriptor, error) {
	parent, _, err := image.ReadManifest(ctx, env.Store, img.Manifest)
	if err != nil {
		return ocispec.Descriptor{}, err
	}
	whole, err := readConfig(ctx, env, img)
	if err != nil {
		return ocispec.Descriptor{}, err
	}
	written, err := commitLayer(ctx, env, c)
	if err != nil {
		return ocispec.Descriptor{}, err
	}
	now := time.Now().UTC()
	whole.Config, whole.Created, whole.Author = config, &now, opts.Author
	whole.History = append(slices.Clone(whole.History), ocispec.History{
		Created: &now, CreatedBy: strings.Join(c.Spec.Config.Cmd, " "), Author: opts.Author, Comment: opts.Message,
		EmptyLayer: written.DiffID == emptyLayer,
	})
	manifest := ocispec.Manifest{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest}
	for _, l := range parent.Layers {
		l.MediaType = ociLayer(l.MediaType)
		manifest.Layers = append(manifest.Layers, l)
	}
	if written.DiffID != emptyLayer {
		whole.RootFS.DiffIDs = append(slices.Clone(whole.RootFS.DiffIDs), written.DiffID)
		layer := ocispec.Descriptor{MediaType: ocispec.MediaTypeImageLayer, Digest: written.DiffID, Size: written.Size}
		manifest.Layers = append(manifest.Layers, layer)
	}
	if manifest.Config, err = putJSON(ctx, env, ocispec.MediaTypeImageConfig, whole); err != nil {
		return ocispec.Descriptor{}, err
	}
	return putJSON(ctx, env, ocispec.MediaTypeImageManifest, manifest)
}

// commitLayer writes what the container wrote as a layer.
func commitLayer(ctx context.Context, env *Env, c *Container) (files layer.Files, err error) {
	w, err := openWritable(ctx, env, c)
	if err != nil {
		return files, err
	}
	defer closing(&err, w.close)
	changes, err := w.changes(ctx)
	if err != nil {
		return files, err
	}
	changed := slices.ContainsFunc(changes, func(c layer.Change) bool { return c.Path == mountedIn })
	return env.Store.WriteLayer(ctx, func(out io.Writer) error {
		tar := archive.NewWriter(out, archive.WriterOptions{})
		diff := layer.DiffOptions{Stub: w.stub, Skip: func(name string) bool { return name == mountedIn && !changed }}
		if userns.IDs() == 1 {
			diff.Owner = w.lower.Owner
		}
		if err := layer.Diff(ctx, w.upper, tar, diff); err != nil {
			return err
		}
		return tar.Close()
	})
}

// commitConfig is the config of a container's image, with changes.
func commitConfig(ctx context.Context, c *Container, changes []string) (imagespec.DockerOCIImageConfig, error) {
	own := imageConfigOf(c.Spec.Config)
	if len(changes) == 0 {
		return own, nil
	}
	changed, err := applyChanges(ctx, append(prelude(own), changes...))
	if err != nil {
		return own, err
	}
	own.Env = mergeEnv(own.Env, changed.Env)
	own.User, own.StopSignal = cmp.Or(changed.User, own.User), cmp.Or(changed.StopSignal, own.StopSignal)
	own.WorkingDir = cmp.Or(changed.WorkingDir, own.WorkingDir)
	own.OnBuild = changed.OnBuild
	if changed.Healthcheck != nil {
		own.Healthcheck = changed.Healthcheck
	}
	switch {
	case changed.Entrypoint != nil:
		own.Entrypoint, own.Cmd = changed.Entrypoint, changed.Cmd
	case changed.Cmd != nil:
		own.Cmd = changed.Cmd
	}
	own.Labels = merged(own.Labels, changed.Labels)
	own.Volumes = merged(own.Volumes, changed.Volumes)
	own.ExposedPorts = merged(own.ExposedPorts, changed.ExposedPorts)
	return own, nil
}

func merged[V any](base, more map[string]V) map[string]V {
	if len(more) == 0 {
		return base
	}
	all := maps.Clone(more)
	for key, value := range base {
		if _, ok := all[key]; !ok {
			all[key] = value
		}
	}
	return all
}

// prelude are the instructions that make variables and the directory of a config known to those that follow.
func prelude(config imagespec.DockerOCIImageConfig) (lines []string) {
	quote := strings.NewReplacer(`\`, `\\`, `"`, `\"`, `$`, `\$`)
	for _, e := range config.Env {
		key, value, _ := strings.Cut(e, "=")
		if !strings.ContainsAny(e, "\n\r") && key != "" && !strings.ContainsAny(key, " \t\"'\\$#") {
			lines = append(lines, `ENV `+key+`="`+quote.Replace(value)+`"`)
		}
	}
	if dir := config.WorkingDir; dir != "" && !strings.ContainsAny(dir, "\n\r") {
		lines = append(lines, "WORKDIR "+quote.Replace(dir))
	}
	return lines
}

// imageConfigOf is what an image keeps of a container's config.
func imageConfigOf(c *containertypes.Config) imagespec.DockerOCIImageConfig {
	var config imagespec.DockerOCIImageConfig
	config.User, config.Env, config.Entrypoint, config.Cmd = c.User, slices.Clone(c.Env), c.Entrypoint, c.Cmd
	config.Volumes, config.WorkingDir, config.Labels, config.StopSignal = c.Volumes, c.WorkingDir, c.Labels, c.StopSignal
	config.Healthcheck, config.Shell = c.Healthcheck, c.Shell
	for port := range c.ExposedPorts {
		if config.ExposedPorts == nil {
			config.ExposedPorts = map[string]struct{}{}
		}
		config.ExposedPorts[port.String()] = struct{}{}
	}
	return config
}
