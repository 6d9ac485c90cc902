package cli

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"strake/internal/engine"
	"strake/internal/progress"
)

type imageDiffOptions struct {
	lookFlags
	from, to string
	files    bool
	packages bool
	config   bool
	times    bool
	exitCode bool
	format   string
}

func newImageDiffCommand(s *session) *cobra.Command {
	var opts imageDiffOptions
	cmd := &cobra.Command{
		Use:   "diff [OPTIONS] IMAGE IMAGE",
		Short: "Show what differs between two images",
		Long: `Show what differs between two images

Files and packages are added (A), changed (C) or deleted (D) on the way from the
first image to the second. Packages are those of dpkg and apk. An image that is not
here is read from its registry; docker://NAME is always the registry's.`,
		Args: argsBetween(2, 2),
		RunE: func(cmd *cobra.Command, args []string) error {
			opts.from, opts.to = args[0], args[1]
			return runImageDiff(cmd.Context(), s, opts)
		},
		DisableFlagsInUseLine: true,
	}
	flags := cmd.Flags()
	flags.BoolVar(&opts.files, "files", false, "Compare files (default: all three)")
	flags.BoolVar(&opts.packages, "packages", false, "Compare packages")
	flags.BoolVar(&opts.config, "config", false, "Compare environment, entrypoint, labels, ports and the like")
	flags.BoolVar(&opts.times, "times", false, "Show files that differ in nothing but their times")
	flags.BoolVar(&opts.exitCode, "exit-code", false, "Exit with 1 when the images differ")
	flags.StringVar(&opts.format, "format", "", `"json": print one JSON object`)
	opts.add(flags)
	return cmd
}

func runImageDiff(ctx context.Context, s *session, opts imageDiffOptions) error {
	if opts.format != "" && opts.format != "json" {
		return errors.New(`--format takes "json" alone`)
	}
	env, err := s.engine(ctx)
	if err != nil {
		return err
	}
	result, err := engine.DiffImages(ctx, env, engine.DiffImagesOptions{
		From: opts.options(s, opts.from), To: opts.options(s, opts.to),
		Files: opts.files, Packages: opts.packages, Config: opts.config, Times: opts.times,
	})
	if err != nil {
		return fromEngine(err)
	}
	if result.Unread != nil {
		fmt.Fprintf(s.Err, "WARNING: not compared: %v\n", result.Unread)
	}
	if opts.format == "json" {
		err = writeJSON(s.Out, imageDiffJSON(&result))
	} else {
		err = writeImageDiff(s.Out, &result)
	}
	if err == nil && opts.exitCode && !result.Empty() {
		err = statusError{code: exitFailure}
	}
	return err
}

func writeImageDiff(w io.Writer, result *engine.DiffImagesResult) error {
	out := bufio.NewWriter(w)
	if len(result.Config) > 0 {
		fmt.Fprintln(out, "Config:")
	}
	for _, d := range result.Config {
		if d.Kind != engine.FileAdded {
			fmt.Fprintf(out, "- %s\n", configLine(d.Name, d.Old))
		}
		if d.Kind != engine.FileDeleted {
			fmt.Fprintf(out, "+ %s\n", configLine(d.Name, d.New))
		}
	}
	if len(result.Packages) > 0 {
		fmt.Fprintln(out, "Packages:")
	}
	for _, d := range result.Packages {
		version := d.Old + d.New
		if d.Kind == engine.FileChanged {
			version = d.Old + " -> " + d.New
		}
		fmt.Fprintf(out, "%v %s %s\n", d.Kind, progress.Printable(d.Name), progress.Printable(version))
	}
	if len(result.Files) > 0 {
		fmt.Fprintln(out, "Files:")
	}
	for i := range result.Files {
		fmt.Fprintln(out, fileDifference(&result.Files[i]))
	}
	return out.Flush()
}

// configLine writes a property as a Dockerfile would have it.
func configLine(name, value string) string {
	kind, key, ok := strings.Cut(name, " ")
	switch {
	case !ok:
		return name + " " + progress.Printable(value)
	case kind == "Env" || kind == "Label":
		return kind + " " + progress.Printable(key+"="+value)
	}
	return kind + " " + progress.Printable(key)
}

// fileDifference is the line of one file.
func fileDifference(d *engine.FileDifference) string {
	name := progress.Printable(d.Path())
	one := d.New
	if one == nil {
		one = d.Old
	}
	if one.IsDir() {
		name += "/"
	}
	if d.Kind != engine.FileChanged {
		return fmt.Sprintf("%v %8s  %s", d.Kind, bytesOf(one.Size), name)
	}
	var notes []string
	for _, what := range d.What {
		switch {
		case what == "content" && d.Old.Target+d.New.Target != "":
			notes = append(notes, progress.Printable(d.Old.Target)+" -> "+progress.Printable(d.New.Target))
		case what == "content" && d.Old.Size != d.New.Size:
			notes = append(notes, "was "+bytesOf(d.Old.Size))
		case what == "mode" || what == "type" && !slices.Contains(d.What, "mode"):
			notes = append(notes, lsMode(d.Old.Stat.Mode)+" -> "+lsMode(d.New.Stat.Mode))
		case what == "owner":
			notes = append(notes, fmt.Sprintf("%d:%d -> %d:%d", d.Old.UID, d.Old.GID, d.New.UID, d.New.GID))
		case what != "type":
			notes = append(notes, what)
		}
	}
	return fmt.Sprintf("%v %8s  %s  (%s)", d.Kind, bytesOf(one.Size), name, strings.Join(notes, ", "))
}

// The JSON of image diff.
type (
	diffJSON struct {
		From     string
		To       string
		Config   []propertyJSON
		Packages []propertyJSON
		Files    []fileDiffJSON
	}
	propertyJSON struct {
		Kind string
		Name string
		Old  string `json:",omitempty"`
		New  string `json:",omitempty"`
	}
	fileDiffJSON struct {
		Kind string
		Path string
		What []string  `json:",omitempty"`
		Old  *fileJSON `json:",omitempty"`
		New  *fileJSON `json:",omitempty"`
	}
)

func imageDiffJSON(result *engine.DiffImagesResult) diffJSON {
	doc := diffJSON{From: result.From.String(), To: result.To.String(), Files: make([]fileDiffJSON, len(result.Files))}
	properties := func(list []engine.Difference) []propertyJSON {
		out := make([]propertyJSON, len(list))
		for i, d := range list {
			out[i] = propertyJSON{Kind: d.Kind.String(), Name: d.Name, Old: d.Old, New: d.New}
		}
		return out
	}
	doc.Config, doc.Packages = properties(result.Config), properties(result.Packages)
	for i := range result.Files {
		d := &result.Files[i]
		j := fileDiffJSON{Kind: d.Kind.String(), Path: d.Path(), What: d.What}
		if d.Old != nil {
			f := asFileJSON(d.Old)
			j.Old = &f
		}
		if d.New != nil {
			f := asFileJSON(d.New)
			j.New = &f
		}
		doc.Files[i] = j
	}
	return doc
}
