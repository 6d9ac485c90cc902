package engine

import (
	"encoding/csv"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"

	"github.com/containerd/errdefs"

	"strake/internal/store"
)

// Types of outputs.
const (
	OutputImage     = "image"     // the store, and a registry where it is pushed
	OutputLocal     = "local"     // a directory
	OutputTar       = "tar"       // a tar of that
	OutputOCI       = "oci"       // an OCI layout, as a tar or a directory
	OutputDocker    = "docker"    // an archive that docker loads; without a destination the store
	OutputCacheOnly = "cacheonly" // nothing but the build cache
)

// Output is one place that the result of a build goes to.
type Output struct {
	Type  string
	Dest  string // a file or a directory; "-" is standard output
	Attrs map[string]string
}

// ParseOutput parses an output as buildx's --output has it: "type=...,key=value",
// a directory, or "-" for a tar.
func ParseOutput(text string) (Output, error) {
	fields, err := splitFields(text)
	if err != nil {
		return Output{}, err
	}
	out := Output{Attrs: map[string]string{}}
	if len(fields) == 1 && fields[0] == text && !strings.HasPrefix(text, "type=") {
		out.Type, out.Dest = OutputLocal, text
		if text == "-" {
			out.Type = OutputTar
		}
		return out, nil
	}
	for _, field := range fields {
		key, value, ok := strings.Cut(field, "=")
		if !ok {
			return out, invalid("invalid value %s", field)
		}
		switch key = strings.ToLower(strings.TrimSpace(key)); key {
		case "type":
			out.Type = value
		case "dest":
			out.Dest = value
		default:
			out.Attrs[key] = value
		}
	}
	if out.Type == "registry" {
		out.Type, out.Attrs["push"] = OutputImage, "true"
	}
	switch out.Type {
	case "":
		return out, invalid("type is required for output")
	case OutputImage, OutputLocal, OutputTar, OutputOCI, OutputDocker, OutputCacheOnly:
		return out, out.checkAttrs()
	}
	return out, solving(invalid("exporter %q could not be found", out.Type))
}

// splitFields splits one line of comma-separated values.
func splitFields(text string) ([]string, error) {
	fields, err := csvFields(text)
	if err != nil {
		return nil, invalid("invalid value %q: %v", text, err)
	}
	return fields, nil
}

func csvFields(text string) ([]string, error) {
	fields, err := csv.NewReader(strings.NewReader(text)).Read()
	if parse := (*csv.ParseError)(nil); errors.As(err, &parse) {
		err = parse.Err
	}
	return fields, err
}

// invalid is an error of what the user wrote.
func invalid(format string, args ...any) error {
	return messageError{fmt.Sprintf(format, args...), errdefs.ErrInvalidArgument}
}

// attributes are those that an output may have. The second list means nothing
// here: it is about BuildKit's own stores.
var attributes = map[string]string{
	OutputLocal:  "mode platform-split attestation-prefix source-date-epoch",
	OutputTar:    "platform-split attestation-prefix source-date-epoch",
	OutputOCI:    "tar name " + imageAttributes,
	OutputDocker: "tar name context " + imageAttributes,
	OutputImage:  "name push push-by-digest name-canonical dangling-name-prefix store unpack registry.insecure " + imageAttributes,
}

const imageAttributes = "oci-mediatypes oci-artifact compression compression-level force-compression rewrite-timestamp " +
	"attestation-inline prefer-nondist-layers source-date-epoch compatibility-version buildinfo-attrs"

// checkAttrs fails for an attribute that the output does not have.
func (o Output) checkAttrs() error {
	known := strings.Fields(attributes[o.Type])
	for key := range o.Attrs {
		if _, ok, err := parseAnnotationKey(key); ok || err != nil {
			if err != nil {
				return err
			}
			continue
		}
		found := false
		for _, k := range known {
			found = found || k == key
		}
		if !found {
			return invalid("output %s has no attribute %q", o.Type, key)
		}
	}
	return nil
}

// Dir reports whether the destination is a directory, and File, whether it is a
// file.
func (o Output) Dir() bool {
	return o.Type == OutputLocal || (o.Type == OutputOCI || o.Type == OutputDocker) && !o.tar()
}

// File reports whether the output is written to a file.
func (o Output) File() bool {
	switch o.Type {
	case OutputTar, OutputOCI:
		return !o.Dir()
	case OutputDocker:
		return o.Dest != "" && !o.Dir()
	}
	return false
}

// Stores reports whether the output is an image in the store.
func (o Output) Stores() bool { return o.Type == OutputImage || o.Type == OutputDocker && o.Dest == "" }

// isImage reports whether the output is an image, in whatever form.
func (o Output) isImage() bool {
	return o.Type == OutputImage || o.Type == OutputOCI || o.Type == OutputDocker
}

func (o Output) tar() bool {
	tar, err := strconv.ParseBool(o.Attrs["tar"])
	return tar || err != nil
}

// Check fails when the destination cannot be what the output is to be.
func (o Output) Check() error {
	switch {
	case o.Dir():
		return o.checkDir()
	case o.File() && o.Dest != "-" && o.Dest != "":
		info, err := os.Stat(o.Dest)
		if err != nil && !os.IsNotExist(err) {
			return fmt.Errorf("invalid destination file: %s: %w", o.Dest, err)
		}
		if err == nil && info.IsDir() {
			return invalid("destination file %s is a directory", o.Dest)
		}
	}
	return nil
}

func (o Output) checkDir() error {
	switch o.Dest {
	case "":
		return invalid("dest is required for %s exporter", o.Type)
	case "-":
		return invalid("dest cannot be stdout for %s exporter", o.Type)
	}
	info, err := os.Stat(o.Dest)
	if err != nil && !os.IsNotExist(err) {
		return fmt.Errorf("invalid destination directory: %s: %w", o.Dest, err)
	}
	if err == nil && !info.IsDir() {
		return invalid("destination directory %s is a file", o.Dest)
	}
	return nil
}

// imageOptions are the attributes of an output that is an image.
type imageOptions struct {
	names []string // as the user wrote them

	push, byDigest, canonical, insecure, store bool

	plain       bool         // layers are not compressed
	estargz     bool         // layers that were built here become eStargz, of the recipe's level
	recipe      store.Recipe // of those that were built here; the zero one is as it comes
	force       bool         // the base image's layers too
	docker      bool         // docker's media types
	artifact    bool         // attestations are artifacts that refer to their image
	rewrite     bool
	annotations annotations
}

// imageOptions reads an output's attributes.
func (o Output) imageOptions(names []string) (opts imageOptions, err error) {
	opts = imageOptions{names: names, store: true}
	oci := true
	for key, value := range map[string]*bool{
		"push": &opts.push, "push-by-digest": &opts.byDigest, "name-canonical": &opts.canonical, "registry.insecure": &opts.insecure,
		"store": &opts.store, "force-compression": &opts.force, "oci-mediatypes": &oci, "rewrite-timestamp": &opts.rewrite,
	} {
		if err := o.parseBool(key, value); err != nil {
			return opts, err
		}
	}
	opts.docker, opts.artifact = !oci, oci
	if err := o.parseBool("oci-artifact", &opts.artifact); err != nil {
		return opts, err
	}
	if len(names) == 0 && o.Attrs["name"] != "" {
		opts.names = strings.Split(o.Attrs["name"], ",")
	}
	if opts.push && len(opts.names) == 0 {
		return opts, invalid("tag is needed when pushing to registry")
	}
	if err := o.parseCompression(&opts); err != nil {
		return opts, err
	}
	if opts.docker && (opts.estargz || opts.recipe.Compression == "zstd") {
		return opts, invalid(`exporter option "compression=%s" conflicts with "oci-mediatypes=false"`, o.Attrs["compression"])
	}
	if opts.docker && opts.artifact {
		return opts, invalid(`exporter option "oci-artifact=true" conflicts with "oci-mediatypes=false"`)
	}
	opts.annotations, err = parseAnnotations(o.Attrs)
	return opts, err
}

// parseBool sets value where the output has the attribute; without a value it is
// true.
func (o Output) parseBool(key string, value *bool) error {
	text, ok := o.Attrs[key]
	if !ok {
		return nil
	}
	if text == "" {
		*value = true
		return nil
	}
	b, err := strconv.ParseBool(text)
	if err != nil {
		return invalid("non-bool value specified for %s: %v", key, err)
	}
	*value = b
	return nil
}

func (o Output) parseCompression(opts *imageOptions) (err error) {
	kind, level := o.Attrs["compression"], o.Attrs["compression-level"]
	switch kind {
	case "", "gzip", "zstd":
	case "estargz":
		opts.estargz, kind = true, "gzip"
	case "uncompressed":
		opts.plain = true
		return nil
	default:
		return invalid("unsupported compression type %s", kind)
	}
	if level != "" {
		if _, err := strconv.Atoi(level); err != nil {
			return invalid("non-integer value %s specified for compression-level", level)
		}
		if kind == "" {
			kind = "gzip"
		}
		kind += ":" + level
	}
	opts.recipe, err = parseCompression(kind)
	return err
}
