package cli

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"strake/internal/engine"
)

// buildTargets turns the flags into the platforms and outputs of a build.
func buildTargets(s *session, opts buildOptions, build *engine.BuildOptions) error {
	for _, list := range opts.platforms {
		for one := range strings.SplitSeq(list, ",") {
			if one = strings.TrimSpace(one); one == "local" {
				one = engine.LocalPlatform()
			}
			if !slices.Contains(build.Platforms, one) {
				build.Platforms = append(build.Platforms, one)
			}
		}
	}
	if err := checkPlatforms(build.Platforms); err != nil {
		return err
	}
	outputs, err := buildOutputs(opts)
	if err != nil {
		return err
	}
	build.Outputs, build.Provenance = outputs, opts.metadataFile != ""
	if build.Attestations, err = buildAttestations(opts); err != nil {
		return err
	}
	if build.CacheFrom, err = buildCaches(opts.cacheFrom); err != nil {
		return err
	}
	if build.CacheTo, err = buildCaches(opts.cacheTo); err != nil {
		return err
	}
	return checkOutputs(s, opts, build)
}

// buildAttestations parses the attestations, and their shorthands: a boolean, or
// parameters.
func buildAttestations(opts buildOptions) (list []engine.Attestation, err error) {
	texts := slices.Clone(opts.attests)
	for kind, value := range map[string]string{"provenance": opts.provenance, "sbom": opts.sbom} {
		if value == "" {
			continue
		}
		if on, err := strconv.ParseBool(value); err == nil {
			value = "disabled=" + strconv.FormatBool(!on)
		}
		texts = append(texts, "type="+kind+","+value)
	}
	for _, text := range texts {
		a, err := engine.ParseAttestation(text)
		if err != nil {
			return nil, err
		}
		list = append(list, a)
	}
	return list, nil
}

func buildCaches(texts []string) (list []engine.Cache, err error) {
	for _, text := range texts {
		caches, err := engine.ParseCaches(text)
		if err != nil {
			return nil, err
		}
		list = append(list, caches...)
	}
	return list, nil
}

// buildOutputs parses the outputs; there is at least one.
func buildOutputs(opts buildOptions) (outputs []engine.Output, err error) {
	for _, text := range opts.outputs {
		out, err := engine.ParseOutput(text)
		if err != nil {
			return nil, err
		}
		if (out.Type == engine.OutputLocal || out.Type == engine.OutputTar) && opts.iidFile != "" {
			return nil, errors.New("local and tar exporters are incompatible with image ID file")
		}
		outputs = append(outputs, out)
	}
	if opts.push {
		pushed := false
		for _, out := range outputs {
			if out.Type == engine.OutputImage {
				out.Attrs["push"], pushed = "true", true
			}
		}
		if !pushed {
			outputs = append(outputs, engine.Output{Type: engine.OutputImage, Attrs: map[string]string{"push": "true"}})
		}
	}
	if len(outputs) == 0 || opts.load && !slices.ContainsFunc(outputs, engine.Output.Stores) {
		outputs = append(outputs, engine.Output{Type: engine.OutputImage, Attrs: map[string]string{}})
	}
	for _, text := range opts.annotations {
		if text == "" {
			continue
		}
		if err := engine.ParseAnnotation(text, outputs); err != nil {
			return nil, err
		}
	}
	return outputs, nil
}

// checkOutputs fails for outputs that cannot be written, before anything is built.
func checkOutputs(s *session, opts buildOptions, build *engine.BuildOptions) error {
	stdout := false
	for _, out := range build.Outputs {
		if err := errors.Join(out.Check(), out.CheckDelete(slices.Contains(opts.allow, allowDelete))); err != nil {
			return err
		}
		if !out.File() || out.Dest != "" && out.Dest != "-" {
			continue
		}
		if stdout {
			return errors.New("multiple outputs configured to write to stdout")
		}
		if isTerminal(s.Out) {
			return fmt.Errorf("dest file is required for %s exporter. refusing to write to console", out.Type)
		}
		stdout = true
	}
	build.Write = func(dest string, write func(io.Writer) error) error {
		if dest == "" || dest == "-" {
			return write(s.Out)
		}
		return writeFileMode(dest, 0o644, write)
	}
	return nil
}

// prepareFiles looks whether the files can be written that tell of the result, and
// removes that of an image ID which an earlier build wrote: there is none when this
// one fails.
func (o buildOptions) prepareFiles() error {
	if info, err := os.Lstat(o.iidFile); err == nil && info.Mode().IsRegular() {
		if err := os.Remove(o.iidFile); err != nil {
			return fmt.Errorf("removing image ID file: %w", err)
		}
	}
	for what, path := range map[string]string{"image ID": o.iidFile, "metadata": o.metadataFile} {
		if err := canWrite(path); err != nil {
			return fmt.Errorf("the %s file cannot be written: %w", what, err)
		}
	}
	return nil
}

// canWrite tells why a file cannot be written; no file is "".
func canWrite(path string) error {
	info, err := os.Stat(path)
	switch {
	case path == "" || err == nil && !info.IsDir() && !info.Mode().IsRegular():
		return nil
	case err == nil && info.IsDir():
		return fmt.Errorf("%s is a directory", path)
	}
	f, err := os.CreateTemp(filepath.Dir(path), ".strake-*")
	if err != nil {
		return err
	}
	return errors.Join(f.Close(), os.Remove(f.Name()))
}

// writeJSONFile writes what was built in a file that others read.
func writeJSONFile(path string, v any) error {
	b, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		return err
	}
	return writeFileMode(path, 0o644, func(w io.Writer) error {
		_, err := w.Write(b)
		return err
	})
}

// tellBuild writes what was built to where the flags say.
func tellBuild(s *session, opts buildOptions, result engine.BuildResult) error {
	if opts.iidFile != "" {
		if err := os.WriteFile(opts.iidFile, []byte(result.ID.String()), 0o644); err != nil {
			return fmt.Errorf("writing image ID file: %w", err)
		}
	}
	if opts.metadataFile != "" {
		if err := writeJSONFile(opts.metadataFile, buildMetadata(result)); err != nil {
			return err
		}
	}
	if opts.quiet {
		_, err := fmt.Fprintln(s.Out, result.ID)
		return err
	}
	return nil
}

// buildMetadata is what buildx's metadata file says, under its keys.
func buildMetadata(result engine.BuildResult) map[string]any {
	m := map[string]any{}
	if result.Ref != "" {
		m["buildx.build.ref"] = engine.BuildRefPrefix + result.Ref
	}
	if result.Root != nil {
		m["containerimage.digest"], m["containerimage.descriptor"] = result.Root.Digest, result.Root
	}
	if result.Config != "" {
		m["containerimage.config.digest"] = result.Config
	}
	if result.ImageName != "" {
		m["image.name"] = result.ImageName
	}
	for platform, predicate := range result.Provenance {
		m[strings.TrimSuffix("buildx.build.provenance/"+platform, "/")] = predicate
	}
	return m
}
