package cli

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"strake/internal/engine"
)

type imageCopyOptions struct {
	lookFlags
	src     string // IMAGE:PATH
	dest    string
	follow  bool
	archive bool
	quiet   bool
}

func newImageCopyCommand(s *session) *cobra.Command {
	var opts imageCopyOptions
	cmd := &cobra.Command{
		Use:   "cp [OPTIONS] IMAGE:SRC_PATH DEST_PATH|-",
		Short: "Copy files or folders out of an image",
		Long: `Copy files or folders out of an image

SRC_PATH and DEST_PATH are what they are to container cp: a directory that ends in
"/." stands for what is in it, a DEST_PATH that does not exist is the new name.
Use '-' as the destination to stream a tar archive to stdout. Symlinks of the image
are copied, not followed; a directory that exists keeps its mode. An image that is
not here is read from its registry.`,
		Args: argsBetween(2, 2),
		RunE: func(cmd *cobra.Command, args []string) error {
			opts.src, opts.dest = args[0], args[1]
			if !cmd.Flags().Changed("quiet") {
				opts.quiet = !isTerminal(s.Out)
			}
			return runImageCopy(cmd.Context(), s, opts)
		},
		DisableFlagsInUseLine: true,
	}
	flags := cmd.Flags()
	flags.BoolVarP(&opts.follow, "follow-link", "L", false, "Always follow symbol link in SRC_PATH")
	flags.BoolVarP(&opts.archive, "archive", "a", false, "Archive mode (copy all uid/gid information)")
	flags.BoolVarP(&opts.quiet, "quiet", "q", false, "Suppress progress output during copy. Progress output is automatically suppressed if no terminal is attached")
	opts.add(flags)
	return cmd
}

func runImageCopy(ctx context.Context, s *session, opts imageCopyOptions) error {
	ref, path, ok := splitImagePath(opts.src)
	if !ok {
		return fmt.Errorf("%q is not IMAGE:SRC_PATH", opts.src)
	}
	if opts.dest == "" {
		return errors.New("destination path can not be empty")
	}
	env, err := s.engine(ctx)
	if err != nil {
		return err
	}
	files := engine.CopyFilesOptions{
		LookOptions: opts.options(s, ref), Path: path, Dest: opts.dest, Follow: opts.follow, Archive: opts.archive,
	}
	if opts.dest == "-" {
		if isTerminal(s.Out) {
			return errors.New("cowardly refusing to write a tar archive to a terminal")
		}
		return fromEngine(engine.TarFiles(ctx, env, files, s.Out))
	}
	result, err := engine.CopyFiles(ctx, env, files)
	if err != nil {
		return fromEngine(err)
	}
	if result.Devices > 0 {
		fmt.Fprintf(s.Err, "WARNING: %d device files were left out; root copies them with --archive\n", result.Devices)
	}
	if opts.quiet {
		return nil
	}
	dest, err := filepath.Abs(opts.dest)
	if err == nil {
		fmt.Fprintf(s.Err, "Successfully copied %s to %s\n", bytesOf(result.Size), dest)
	}
	return err
}

// splitImagePath splits IMAGE:PATH. An image's name may have colons, but none
// before a slash; of a relative path it is the last that counts.
func splitImagePath(arg string) (ref, path string, ok bool) {
	prefix := ""
	if rest, cut := strings.CutPrefix(arg, "docker://"); cut {
		prefix, arg = "docker://", rest
	}
	at := strings.Index(arg, ":/")
	if at < 0 {
		at = strings.LastIndexByte(arg, ':')
	}
	if at <= 0 || at+1 == len(arg) {
		return "", "", false
	}
	return prefix + arg[:at], arg[at+1:], true
}
