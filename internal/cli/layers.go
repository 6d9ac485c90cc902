package cli

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strconv"
	"time"

	"github.com/spf13/cobra"

	"strake/internal/browse"
	"strake/internal/engine"
	"strake/internal/progress"
)

type layersOptions struct {
	lookFlags
	image   string
	browse  bool
	files   bool
	noTrunc bool
	json    bool
	format  string
}

func newLayersCommand(s *session) *cobra.Command {
	var opts layersOptions
	cmd := &cobra.Command{
		Use:   "layers [OPTIONS] IMAGE",
		Short: "Show what each layer of an image adds, changes, deletes and wastes",
		Long: `Show what each layer of an image adds, changes, deletes and wastes

The bottom layer is the first. Counts are of files, directories apart. The waste
of a layer is the bytes of its files that later layers overwrite or delete: they
are in the image but nobody sees them. An image that is not here is read from its
registry.`,
		Args: argsBetween(1, 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			opts.image = args[0]
			return runLayers(cmd.Context(), s, opts)
		},
		Annotations:           map[string]string{aliasesKey: "strake image layers, strake layers"},
		DisableFlagsInUseLine: true,
	}
	flags := cmd.Flags()
	flags.BoolVarP(&opts.browse, "interactive", "i", false, "Browse the layers and their files in the terminal")
	flags.BoolVar(&opts.files, "files", false, "List the files that each layer adds (A), changes (C) and deletes (D)")
	flags.BoolVar(&opts.noTrunc, "no-trunc", false, "Don't truncate output")
	flags.BoolVar(&opts.json, "json", false, "Print all of it as one JSON object")
	flags.StringVar(&opts.format, "format", "", listFormatHelp)
	opts.add(flags)
	return cmd
}

func newBrowseCommand(s *session) *cobra.Command {
	opts := layersOptions{browse: true}
	cmd := &cobra.Command{
		Use:   "browse [OPTIONS] IMAGE",
		Short: "Browse the layers of an image and their files in the terminal",
		Long: `Browse the layers of an image and their files in the terminal

On the left are the layers, on the right the files as the chosen layer leaves them,
with what it adds (A), changes (C) and deletes (D). An image that is not here is
read from its registry.

Keys: arrows, page up and down, home and end move; tab goes from side to side;
enter opens and closes a directory; / shows the files whose path has a text; c
shows all files, or those that the layer changes; q quits.`,
		Args: argsBetween(1, 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			opts.image = args[0]
			return runLayers(cmd.Context(), s, opts)
		},
		Annotations:           map[string]string{aliasesKey: "strake image browse, strake layers --interactive"},
		DisableFlagsInUseLine: true,
	}
	opts.add(cmd.Flags())
	return cmd
}

func runLayers(ctx context.Context, s *session, opts layersOptions) error {
	if opts.browse && (opts.json || opts.files || opts.format != "") {
		return errors.New("--interactive shows files by itself, and has no other format")
	}
	if opts.browse && (!isTerminal(s.In) || !isTerminal(s.Out)) {
		return errors.New("the input device is not a TTY")
	}
	if opts.format != "" && (opts.json || opts.files) {
		return errors.New("--format is for the table, not for --files or --json")
	}
	env, err := s.engine(ctx)
	if err != nil {
		return err
	}
	result, err := engine.Layers(ctx, env, engine.LayersOptions{
		LookOptions: opts.options(s, opts.image), Files: opts.files || opts.browse,
	})
	if err != nil {
		return fromEngine(err)
	}
	switch {
	case opts.browse:
		return browse.Run(ctx, browse.Options{Title: opts.image, Layers: result, Size: bytesOf})
	case opts.json:
		return writeLayersJSON(s.Out, &result, opts.files)
	case opts.files:
		return writeLayerFiles(s.Out, &result, !opts.noTrunc)
	}
	table := listing[engine.LayerInfo]{
		fields:  layerFields(!opts.noTrunc),
		columns: []string{"Layer", "CreatedBy", "Size", "Added", "Changed", "Deleted", "Waste"},
	}
	if err := table.write(s.Out, opts.format, result.Layers); err != nil || opts.format != "" && opts.format != "table" {
		return err
	}
	noun := "layers"
	if len(result.Layers) == 1 {
		noun = "layer"
	}
	_, err = fmt.Fprintf(s.Out, "\n%d %s, %s of files, %s wasted, efficiency %.1f%%\n",
		len(result.Layers), noun, bytesOf(result.Size), bytesOf(result.Waste), 100*result.Efficiency())
	return err
}

func layerFields(trunc bool) []field[engine.LayerInfo] {
	type info = engine.LayerInfo
	return []field[info]{
		{"Layer", "LAYER", func(l info) string { return strconv.Itoa(l.Number) }},
		{"ID", "DIFF ID", func(l info) string { return idText(l.DiffID.String(), trunc) }},
		{"CreatedBy", "CREATED BY", func(l info) string { return createdBy(l, trunc) }},
		{"CreatedAt", "CREATED AT", func(l info) string { return createdAt(l.Created) }},
		{"Size", "SIZE", func(l info) string { return bytesOf(l.Size) }},
		{"Added", "ADDED", func(l info) string { return strconv.Itoa(l.Added) }},
		{"Changed", "CHANGED", func(l info) string { return strconv.Itoa(l.Changed) }},
		{"Deleted", "DELETED", func(l info) string { return strconv.Itoa(l.Deleted) }},
		{"Waste", "WASTE", func(l info) string { return bytesOf(l.Waste) }},
		{"TarSize", "TAR SIZE", func(l info) string { return bytesOf(l.TarSize) }},
	}
}

func createdBy(l engine.LayerInfo, trunc bool) string {
	by := l.CreatedBy
	if by == "" {
		return "<missing>"
	}
	if by = progress.Printable(by); trunc {
		by = ellipsis(by, 45)
	}
	return by
}

// writeLayerFiles lists each layer's changes below a line that names it.
func writeLayerFiles(w io.Writer, result *engine.LayersResult, trunc bool) error {
	out := bufio.NewWriter(w)
	for i := range result.Layers {
		l := &result.Layers[i]
		if i > 0 {
			fmt.Fprintln(out)
		}
		fmt.Fprintf(out, "Layer %d: %s\n%s, %d added, %d changed, %d deleted, %s wasted\n",
			l.Number, createdBy(*l, trunc), bytesOf(l.Size), l.Added, l.Changed, l.Deleted, bytesOf(l.Waste))
		for k := range l.List {
			c := &l.List[k]
			fmt.Fprintf(out, "%v %8s  %s", c.Kind, bytesOf(c.Size), changedPath(c))
			if c.HiddenBy > 0 {
				fmt.Fprintf(out, "  (hidden by layer %d)", c.HiddenBy+1)
			}
			fmt.Fprintln(out)
		}
	}
	return out.Flush()
}

// changedPath is what a list of changes calls a file.
func changedPath(c *engine.FileChange) string {
	name := progress.Printable("/" + c.Path)
	switch {
	case c.IsDir():
		name += "/"
	case c.Target != "":
		name += " -> " + progress.Printable(c.Target)
	}
	return name
}

// The JSON of layers.
type (
	layersJSON struct {
		ID         string
		Size       int64
		Waste      int64
		Efficiency float64
		Layers     []layerJSON
	}
	layerJSON struct {
		Layer     int
		DiffID    string
		CreatedBy string
		CreatedAt *time.Time `json:",omitempty"`
		Size      int64
		TarSize   int64
		Waste     int64
		Added     int
		Changed   int
		Deleted   int
		Files     *[]fileChangeJSON `json:",omitempty"`
	}
	fileChangeJSON struct {
		Kind     string
		Path     string
		Mode     string
		Size     int64
		Target   string `json:",omitempty"`
		HiddenBy int    `json:",omitempty"`
	}
)

func writeLayersJSON(w io.Writer, result *engine.LayersResult, files bool) error {
	doc := layersJSON{
		ID: result.ID.String(), Size: result.Size, Waste: result.Waste, Efficiency: result.Efficiency(), Layers: []layerJSON{},
	}
	for i := range result.Layers {
		l := &result.Layers[i]
		j := layerJSON{
			Layer: l.Number, DiffID: l.DiffID.String(), CreatedBy: l.CreatedBy, Size: l.Size, TarSize: l.TarSize, Waste: l.Waste,
			Added: l.Added, Changed: l.Changed, Deleted: l.Deleted,
		}
		if !l.Created.IsZero() {
			j.CreatedAt = &l.Created
		}
		if files {
			list := make([]fileChangeJSON, len(l.List))
			for k, c := range l.List {
				list[k] = fileChangeJSON{Kind: c.Kind.String(), Path: "/" + c.Path, Mode: lsMode(c.Mode), Size: c.Size, Target: c.Target}
				if c.HiddenBy > 0 {
					list[k].HiddenBy = c.HiddenBy + 1
				}
			}
			j.Files = &list
		}
		doc.Layers = append(doc.Layers, j)
	}
	return writeJSON(w, doc)
}

// writeJSON prints one document, indented as inspect's are.
func writeJSON(w io.Writer, v any) error {
	enc := json.NewEncoder(w)
	enc.SetEscapeHTML(false)
	enc.SetIndent("", "    ")
	return enc.Encode(v)
}
