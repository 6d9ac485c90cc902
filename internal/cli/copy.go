package cli

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"

	"strake/internal/engine"
)

const copyAbout = `Copy an image from one place to another, with all its platforms and its digest.

A place is one of

  [docker://]NAME[:TAG|@DIGEST]   an image in a registry
  store:NAME or store:ID          an image of this store
  oci:DIR[:TAG]                   a directory with the OCI image layout
  oci-archive:FILE[:NAME]         a tar of such a directory
  docker-archive:FILE[:NAME]      a tar of docker save before version 25

What the target has is not copied again, so a copy that broke goes on where it
was. Layers that another repository of the target's registry has are mounted
there.`

type copyOptions struct {
	engine.CopyOptions
	quiet bool
}

func newCopyCommand(s *session) *cobra.Command {
	var opts copyOptions
	cmd := &cobra.Command{
		Use:   "copy [OPTIONS] SOURCE TARGET",
		Short: "Copy an image between registries, layouts, archives and the store",
		Long:  copyAbout,
		Args:  argsBetween(2, 2),
		RunE: func(cmd *cobra.Command, args []string) error {
			opts.Source, opts.Target = args[0], args[1]
			return runCopy(cmd.Context(), s, opts)
		},
		Annotations:           map[string]string{aliasesKey: "strake image copy, strake copy"},
		DisableFlagsInUseLine: true,
	}
	flags := cmd.Flags()
	flags.BoolVarP(&opts.quiet, "quiet", "q", false, "Only print the digest")
	flags.StringVar(&opts.Platform, "platform", "", `Copy only the image for the given platform ("os[/arch[/variant]]")`)
	return cmd
}

func runCopy(ctx context.Context, s *session, opts copyOptions) error {
	env, err := s.engine(ctx)
	if err != nil {
		return err
	}
	opts.Write = writeFile
	if !opts.quiet {
		opts.Progress = newTransfer(s.Out, copyVerbs).event
	}
	result, err := engine.Copy(ctx, env, opts.CopyOptions)
	if err != nil {
		return fromEngine(err)
	}
	if opts.quiet {
		_, err = fmt.Fprintln(s.Out, result.Root.Digest)
	} else {
		_, err = fmt.Fprintln(s.Out, "Digest:", result.Root.Digest)
	}
	return err
}
