package cli

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"strings"
	"text/tabwriter"
	"text/template"

	"github.com/containerd/platforms"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/spf13/cobra"

	"strake/internal/engine"
	"strake/internal/reference"
)

type createIndexOptions struct {
	engine.CreateIndexOptions
	files       []string // of sources
	metadata    string   // the file for what was made
	progress    string
	preferIndex bool
}

func newCreateIndexCommand(s *session) *cobra.Command {
	var opts createIndexOptions
	cmd := &cobra.Command{
		Use:   "create [OPTIONS] [SOURCE...]",
		Short: "Create a new image based on source images",
		RunE: func(cmd *cobra.Command, args []string) error {
			opts.Sources = args
			return runCreateIndex(cmd.Context(), s, opts)
		},
		DisableFlagsInUseLine: true,
	}
	flags := cmd.Flags()
	flags.StringArrayVar(&opts.Annotations, "annotation", nil, "Add annotation to the image")
	flags.BoolVar(&opts.Append, "append", false, "Append to existing manifest")
	flags.BoolVar(&opts.DryRun, "dry-run", false, "Show final image instead of pushing")
	flags.StringArrayVarP(&opts.files, "file", "f", nil, "Read source descriptor from file")
	flags.StringVar(&opts.metadata, "metadata-file", "", "Write create result metadata to a file")
	flags.StringSliceVarP(&opts.Platforms, "platform", "p", nil, "Filter specified platforms of target image")
	flags.BoolVar(&opts.preferIndex, "prefer-index", true, "When only a single source is specified, prefer outputting an image index or manifest list instead of performing a carbon copy")
	flags.StringVar(&opts.progress, "progress", "auto", `Set type of progress output ("auto", "none", "plain", "quiet")`)
	flags.StringArrayVarP(&opts.Tags, "tag", "t", nil, "Set reference for new image")
	return cmd
}

func runCreateIndex(ctx context.Context, s *session, opts createIndexOptions) error {
	if len(opts.Sources) == 0 && len(opts.files) == 0 {
		return errors.New("no sources specified")
	}
	if !opts.DryRun && len(opts.Tags) == 0 {
		return errors.New("can't push with no tags specified, please set --tag or --dry-run")
	}
	for i, file := range opts.files {
		b, err := os.ReadFile(file)
		if err != nil {
			return err
		}
		opts.Sources = slices.Insert(opts.Sources, i, string(bytes.TrimSpace(b)))
	}
	opts.NoIndex = !opts.preferIndex
	if opts.progress != "none" && opts.progress != "quiet" {
		opts.Log = func(line string) { fmt.Fprintln(s.Err, line) }
	}
	env, err := s.registries(ctx)
	if err != nil {
		return err
	}
	made, err := engine.CreateIndex(ctx, env, opts.CreateIndexOptions)
	if err != nil {
		return fromEngine(err)
	}
	if opts.metadata != "" && !opts.DryRun {
		if err := writeMetadata(opts.metadata, made.Desc, opts.Tags); err != nil {
			return err
		}
	}
	if opts.DryRun {
		_, err = fmt.Fprintf(s.Out, "%s\n", made.Bytes)
	}
	return err
}

// writeMetadata writes the file of --metadata-file: what was made, and the
// repositories that have it.
func writeMetadata(path string, desc ocispec.Descriptor, tags []string) error {
	repositories := make([]string, len(tags))
	for i, tag := range tags {
		named, err := reference.Parse(tag)
		if err != nil {
			return err
		}
		repositories[i] = named.Name()
	}
	slices.Sort(repositories)
	return writeFile(path, func(w io.Writer) error {
		enc := json.NewEncoder(w)
		enc.SetIndent("", "  ")
		return enc.Encode(map[string]any{
			"containerimage.descriptor": desc, "image.name": strings.Join(slices.Compact(repositories), ","),
		})
	})
}

func newInspectIndexCommand(s *session) *cobra.Command {
	var format string
	var raw bool
	cmd := &cobra.Command{
		Use:   "inspect [OPTIONS] NAME",
		Short: "Show details of an image in the registry",
		Args:  argsBetween(1, 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if raw && format != "" {
				return errors.New("format and raw cannot be used together")
			}
			return runInspectIndex(cmd.Context(), s, args[0], format, raw)
		},
		DisableFlagsInUseLine: true,
	}
	cmd.Flags().StringVar(&format, "format", "", "Format the output using the given Go template (.Name, .Manifest, .Image, .SBOM, .Provenance)")
	cmd.Flags().BoolVar(&raw, "raw", false, "Show original, unformatted JSON manifest")
	return cmd
}

func runInspectIndex(ctx context.Context, s *session, ref, format string, raw bool) error {
	env, err := s.registries(ctx)
	if err != nil {
		return err
	}
	found, err := engine.InspectIndex(ctx, env, ref)
	if err != nil {
		return fromEngine(err)
	}
	switch {
	case raw: // without a newline: it would be of another digest
		_, err := s.Out.Write(found.Bytes)
		return err
	case format == "" || strings.Join(strings.Fields(format), "") == "{{.Manifest}}":
		return printIndex(forTerminal(s.Out), found)
	}
	tmpl, err := template.New("").Funcs(templateFuncs()).Funcs(template.FuncMap{"json": indentedJSON}).Parse(format)
	if err != nil {
		return err
	}
	images, err := engine.IndexImages(ctx, env, found)
	if err != nil {
		return fromEngine(err)
	}
	data := indexData{Name: ref, Manifest: found.Desc, images: images}
	data.attested = func(of engine.IndexImage, kind string) ([]any, error) {
		return engine.Attested(ctx, env, found, of, kind)
	}
	if found.Index.Manifests != nil {
		data.Manifest = indexManifest{
			SchemaVersion: found.Index.SchemaVersion, MediaType: found.Desc.MediaType, Digest: found.Desc.Digest, Size: found.Desc.Size,
			Manifests: found.Index.Manifests, Annotations: found.Index.Annotations,
		}
	}
	data.Image, err = data.each(func(img engine.IndexImage) (any, error) { return img.Config, nil })
	if err != nil {
		return err
	}
	return tmpl.Execute(forTerminal(s.Out), data)
}

// indexData is what a template of buildx imagetools inspect sees.
type indexData struct {
	Name     string `json:"name,omitempty"`
	Manifest any    `json:"manifest,omitempty"`
	Image    any    `json:"image,omitempty"` // one config, or several by platform

	images   map[string]engine.IndexImage
	attested func(of engine.IndexImage, kind string) ([]any, error)
}

// each is what of gives for the only image, or for several by platform; those
// of which it gives nil are left out.
func (d indexData) each(of func(engine.IndexImage) (any, error)) (any, error) {
	all := map[string]any{}
	for platform, img := range d.images {
		v, err := of(img)
		switch {
		case err != nil:
			return nil, err
		case len(d.images) == 1:
			return v, nil
		case v != nil:
			all[platform] = v
		}
	}
	return all, nil
}

// sbom is what templates know of an SBOM.
type sbom struct {
	SPDX            any   `json:",omitempty"`
	AdditionalSPDXs []any `json:",omitempty"`
}

// SBOM is the list of packages that is attested of an image.
func (d indexData) SBOM() (any, error) {
	return d.each(func(img engine.IndexImage) (any, error) {
		list, err := d.attested(img, "https://spdx.dev/Document")
		if len(list) == 0 {
			return d.absent(sbom{}), err
		}
		return sbom{list[0], list[1:]}, err
	})
}

// provenance is what templates know of how an image was made.
type provenance struct {
	SLSA any `json:",omitempty"`
}

// Provenance is what is attested of how an image was made.
func (d indexData) Provenance() (any, error) {
	return d.each(func(img engine.IndexImage) (any, error) {
		list, err := d.attested(img, "https://slsa.dev/provenance/")
		if len(list) == 0 {
			return d.absent(provenance{}), err
		}
		return provenance{list[len(list)-1]}, err
	})
}

// absent is what the only image has instead of what is not attested: of several,
// one is left out.
func (d indexData) absent(empty any) any {
	if len(d.images) == 1 {
		return empty
	}
	return nil
}

// indexManifest is an index with what its descriptor says.
type indexManifest struct {
	SchemaVersion int                  `json:"schemaVersion"`
	MediaType     string               `json:"mediaType,omitempty"`
	Digest        digest.Digest        `json:"digest"`
	Size          int64                `json:"size"`
	Manifests     []ocispec.Descriptor `json:"manifests"`
	Annotations   map[string]string    `json:"annotations,omitempty"`
}

func indentedJSON(v any) (string, error) {
	b, err := json.MarshalIndent(v, "", "  ")
	return string(b), err
}

// printIndex prints a manifest or index as buildx does.
func printIndex(out io.Writer, found engine.InspectIndexResult) error {
	w := tabwriter.NewWriter(out, 0, 0, 1, ' ', 0)
	fmt.Fprintf(w, "Name:\t%s\n", found.Name)
	fmt.Fprintf(w, "MediaType:\t%s\n", found.Desc.MediaType)
	fmt.Fprintf(w, "Digest:\t%s\n", found.Desc.Digest)
	if found.Index.Manifests == nil {
		return w.Flush()
	}
	if err := w.Flush(); err != nil {
		return err
	}
	fmt.Fprintf(w, "\t\nManifests:\t\n")
	if err := w.Flush(); err != nil {
		return err
	}
	for i, m := range found.Index.Manifests {
		if i > 0 {
			fmt.Fprintf(w, "\t\n")
		}
		if err := printIndexEntry(w, found.Name, m); err != nil {
			return err
		}
	}
	return w.Flush()
}

func printIndexEntry(w *tabwriter.Writer, name reference.Named, m ocispec.Descriptor) error {
	ref, err := name.WithDigest(m.Digest)
	if err != nil {
		return err
	}
	fmt.Fprintf(w, "  Name:\t%s\n", ref)
	fmt.Fprintf(w, "  MediaType:\t%s\n", m.MediaType)
	if m.Platform == nil {
		return nil
	}
	fmt.Fprintf(w, "  Platform:\t%s\n", platforms.Format(*m.Platform))
	if m.Platform.OSVersion != "" {
		fmt.Fprintf(w, "  OSVersion:\t%s\n", m.Platform.OSVersion)
	}
	if len(m.Platform.OSFeatures) > 0 {
		fmt.Fprintf(w, "  OSFeatures:\t%s\n", strings.Join(m.Platform.OSFeatures, ", "))
	}
	if len(m.URLs) > 0 {
		fmt.Fprintf(w, "  URLs:\t%s\n", strings.Join(m.URLs, ", "))
	}
	if len(m.Annotations) == 0 {
		return nil
	}
	fmt.Fprintf(w, "  Annotations:\t\n")
	if err := w.Flush(); err != nil {
		return err
	}
	for _, key := range slices.Sorted(maps.Keys(m.Annotations)) {
		fmt.Fprintf(w, "    %s:\t%s\n", key, m.Annotations[key])
	}
	return w.Flush()
}
