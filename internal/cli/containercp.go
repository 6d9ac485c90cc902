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

type containerCopyOptions struct {
	src, dest string
	follow    bool
	archive   bool
	quiet     bool
}

func newContainerCopyCommand(s *session) *cobra.Command {
	var opts containerCopyOptions
	cmd := &cobra.Command{
		Use:   "cp [OPTIONS] CONTAINER:SRC_PATH DEST_PATH|-\n	strake cp [OPTIONS] SRC_PATH|- CONTAINER:DEST_PATH",
		Short: "Copy files/folders between a container and the local filesystem",
		Long: `Copy files/folders between a container and the local filesystem

Use '-' as the source to read a tar archive from stdin and extract it to a directory
destination in a container. Use '-' as the destination to stream a tar archive of a
container source to stdout. A directory that ends in "/." stands for what is in it.
Symbolic links in the container never lead out of it.`,
		Args: argsBetween(2, 2),
		RunE: func(cmd *cobra.Command, args []string) error {
			opts.src, opts.dest = args[0], args[1]
			if !cmd.Flags().Changed("quiet") {
				opts.quiet = !isTerminal(s.Err)
			}
			return runContainerCopy(cmd.Context(), s, opts)
		},
		Annotations:           map[string]string{aliasesKey: "strake container cp, strake cp"},
		DisableFlagsInUseLine: true,
	}
	flags := cmd.Flags()
	flags.BoolVarP(&opts.follow, "follow-link", "L", false, "Always follow symbol link in SRC_PATH")
	flags.BoolVarP(&opts.archive, "archive", "a", false, "Archive mode (copy all uid/gid information)")
	flags.BoolVarP(&opts.quiet, "quiet", "q", false, "Suppress progress output during copy. Progress output is automatically suppressed if no terminal is attached")
	return cmd
}

func runContainerCopy(ctx context.Context, s *session, opts containerCopyOptions) error {
	if opts.src == "" {
		return errors.New("source can not be empty")
	}
	if opts.dest == "" {
		return errors.New("destination can not be empty")
	}
	from, src := splitContainerPath(opts.src)
	to, dest := splitContainerPath(opts.dest)
	copied := engine.CopyContainerOptions{Follow: opts.follow, Archive: opts.archive}
	var err error
	switch {
	case from != "" && to != "":
		return errors.New("copying between containers is not supported")
	case from == "" && to == "":
		return errors.New("must specify at least one container source")
	case from != "":
		copied.Ref, copied.Path, copied.Local, copied.Output = from, src, dest, s.Out
		if dest == "-" {
			copied.Local, opts.quiet = "", true
			if isTerminal(s.Out) {
				return errors.New("cowardly refusing to write a tar archive to a terminal")
			}
		} else if dest, err = filepath.Abs(dest); err != nil {
			return err
		}
	default:
		copied.Ref, copied.Path, copied.Local, copied.Input = to, dest, src, s.input(ctx)
		if src == "-" {
			copied.Local, opts.quiet = "", true
		}
		dest = opts.dest
	}
	return copyFiles(ctx, s, copied, from != "", opts.quiet, dest)
}

func copyFiles(ctx context.Context, s *session, opts engine.CopyContainerOptions, out, quiet bool, dest string) error {
	if opts.Path == "" {
		return errors.New("path cannot be empty")
	}
	env, err := s.contained(ctx)
	if err != nil {
		return err
	}
	verb := engine.CopyIn
	if out {
		verb = engine.CopyOut
	}
	size, err := verb(ctx, env, opts)
	if err != nil {
		return fromEngine(err)
	}
	if !quiet {
		fmt.Fprintf(s.Err, "Successfully copied %s to %s\n", bytesOf(size), dest)
	}
	return nil
}

// splitContainerPath splits CONTAINER:PATH; what is absolute or begins with a dot is a path of this machine.
func splitContainerPath(arg string) (ref, path string) {
	ref, path, ok := strings.Cut(arg, ":")
	if filepath.IsAbs(arg) || !ok || strings.HasPrefix(ref, ".") {
		return "", arg
	}
	return ref, path
}
