package cli

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"strconv"
	"time"

	"github.com/spf13/cobra"

	"strake/internal/engine"
	"strake/internal/progress"
)

type listFilesOptions struct {
	lookFlags
	image     string
	path      string
	layer     string
	long      bool
	human     bool
	recursive bool
	directory bool
	json      bool
}

func newListFilesCommand(s *session) *cobra.Command {
	opts := listFilesOptions{path: "/"}
	cmd := &cobra.Command{
		Use:   "ls-files [OPTIONS] IMAGE [PATH]",
		Short: "List files of an image",
		Long: `List files of an image

Names are listed as ls -A lists them, with -R as paths, one a line. With --layer it
is one layer's files: .wh.NAME stands for a NAME that the layer deletes. An image
that is not here is read from its registry.`,
		Args: argsBetween(1, 2),
		RunE: func(cmd *cobra.Command, args []string) error {
			opts.image = args[0]
			if len(args) > 1 {
				opts.path = args[1]
			}
			return runListFiles(cmd.Context(), s, opts)
		},
		DisableFlagsInUseLine: true,
	}
	flags := cmd.Flags()
	flags.BoolVarP(&opts.long, "long", "l", false, "Show type and mode, links, owner, group, size, time and target")
	flags.BoolVar(&opts.human, "human", false, "Show sizes in human readable format with -l")
	flags.BoolVarP(&opts.recursive, "recursive", "R", false, "List what is below directories too")
	flags.BoolVarP(&opts.directory, "directory", "d", false, "List a directory itself, not what is in it")
	flags.StringVar(&opts.layer, "layer", "", "List one layer alone, by its number (from 1 at the bottom) or diff ID")
	flags.BoolVar(&opts.json, "json", false, "Print one JSON object per file")
	opts.add(flags)
	return cmd
}

func runListFiles(ctx context.Context, s *session, opts listFilesOptions) error {
	env, err := s.engine(ctx)
	if err != nil {
		return err
	}
	list, err := engine.ListFiles(ctx, env, engine.ListFilesOptions{
		LookOptions: opts.options(s, opts.image), Path: opts.path, Layer: opts.layer,
		Recursive: opts.recursive, Directory: opts.directory,
	})
	if err != nil {
		return fromEngine(err)
	}
	out := bufio.NewWriter(s.Out)
	switch {
	case opts.json:
		err = writeFilesJSON(out, list)
	case opts.long:
		if isTerminal(s.Out) {
			for i := range list {
				list[i].Target = progress.Printable(list[i].Target)
			}
		}
		writeFilesLong(out, list, func(f *engine.File) string { return shown(s.Out, fileName(f, opts.recursive)) }, opts.human)
	default:
		for i := range list {
			fmt.Fprintln(out, shown(s.Out, fileName(&list[i], opts.recursive)))
		}
	}
	if err != nil {
		return err
	}
	return out.Flush()
}

// fileName is what a list calls a file.
func fileName(f *engine.File, path bool) string {
	name := f.Name
	if path {
		name = f.Path
	}
	if f.Deletes() {
		return name[:len(name)-len(f.Name)] + ".wh." + f.Name
	}
	return name
}

// writeFilesLong writes the lines of ls -l, with numbers for the owners.
func writeFilesLong(out io.Writer, list []engine.File, name func(*engine.File) string, human bool) {
	const columns = 4 // links, owner, group, size
	rows := make([][columns]string, len(list))
	var widths [columns]int
	for i := range list {
		f := &list[i]
		size := strconv.FormatInt(f.Size, 10)
		if f.IsDevice() {
			size = fmt.Sprintf("%d,%d", f.Major, f.Minor)
		} else if human {
			size = bytesOf(f.Size)
		}
		rows[i] = [columns]string{fmt.Sprint(f.Nlink), fmt.Sprint(f.UID), fmt.Sprint(f.GID), size}
		for k, cell := range rows[i] {
			widths[k] = max(widths[k], len(cell))
		}
	}
	for i, row := range rows {
		f := &list[i]
		end := name(f)
		if f.Target != "" {
			end += " -> " + f.Target
		}
		fmt.Fprintf(out, "%s %*s %*s %*s %*s %s %s\n", lsMode(f.Stat.Mode), widths[0], row[0], widths[1], row[1],
			widths[2], row[2], widths[3], row[3], f.ModTime.Format("2006-01-02 15:04"), end)
	}
}

// lsMode is st_mode as ls -l shows it.
func lsMode(mode uint32) string {
	const types = "?pc?d?b?-?l?s???"
	b := []byte{types[mode>>12&15]}
	for i, c := range []byte("rwxrwxrwx") {
		if mode>>(8-i)&1 == 0 {
			c = '-'
		}
		b = append(b, c)
	}
	for i, special := range []struct {
		bit      uint32
		set, not byte
	}{{0o4000, 's', 'S'}, {0o2000, 's', 'S'}, {0o1000, 't', 'T'}} {
		if mode&special.bit == 0 {
			continue
		}
		at := &b[3+3*i]
		if *at == 'x' {
			*at = special.set
		} else {
			*at = special.not
		}
	}
	return string(b)
}

// fileJSON is one file of ls-files --json.
type fileJSON struct {
	Path    string
	Mode    string
	Links   uint32
	UID     uint32
	GID     uint32
	Size    int64
	ModTime time.Time
	Target  string            `json:",omitempty"`
	Device  string            `json:",omitempty"`
	Xattrs  map[string][]byte `json:",omitempty"`
	Deletes bool              `json:",omitempty"`
	Opaque  bool              `json:",omitempty"`
}

func asFileJSON(f *engine.File) fileJSON {
	j := fileJSON{
		Path: f.Path, Mode: lsMode(f.Stat.Mode), Links: f.Nlink, UID: f.UID, GID: f.GID, Size: f.Size, ModTime: f.ModTime.UTC(),
		Target: f.Target, Deletes: f.Deletes(), Opaque: f.Opaque,
	}
	if f.IsDevice() {
		j.Device = fmt.Sprintf("%d:%d", f.Major, f.Minor)
	}
	for _, x := range f.Xattrs {
		if j.Xattrs == nil {
			j.Xattrs = map[string][]byte{}
		}
		j.Xattrs[x.Name] = []byte(x.Value)
	}
	return j
}

func writeFilesJSON(out io.Writer, list []engine.File) error {
	enc := json.NewEncoder(out)
	enc.SetEscapeHTML(false)
	for i := range list {
		if err := enc.Encode(asFileJSON(&list[i])); err != nil {
			return err
		}
	}
	return nil
}
