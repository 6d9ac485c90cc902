package cli

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"strake/internal/engine"
	"strake/internal/reference"
)

const manifestAbout = `The **strake manifest** command has subcommands for managing image manifests and
manifest lists. A manifest list allows you to use one name to refer to the same image
built for multiple architectures. Lists that are not yet pushed are kept in
docker's configuration directory, in docker's form.`

func newManifestCommand(s *session) *cobra.Command {
	cmd := group("manifest", "Manage Docker image manifests and manifest lists",
		newManifestAnnotateCommand(s), newManifestCreateCommand(s), newManifestInspectCommand(s),
		newManifestPushCommand(s), newManifestRemoveCommand(s))
	cmd.Long = manifestAbout
	return cmd
}

// insecureHosts are the registries of refs, when insecure asks for them.
func insecureHosts(insecure bool, refs ...string) []string {
	var hosts []string
	for _, ref := range refs {
		if named, err := reference.Parse(ref); err == nil && insecure {
			hosts = append(hosts, named.Domain())
		}
	}
	return hosts
}

func newManifestCreateCommand(s *session) *cobra.Command {
	var opts engine.CreateManifestListOptions
	var insecure bool
	cmd := &cobra.Command{
		Use:   "create MANIFEST_LIST MANIFEST [MANIFEST...]",
		Short: "Create a local manifest list for annotating and pushing to a registry",
		Args:  argsBetween(2, -1),
		RunE: func(cmd *cobra.Command, args []string) error {
			opts.List, opts.Manifests = args[0], args[1:]
			env, err := s.registries(cmd.Context(), insecureHosts(insecure, args...)...)
			if err != nil {
				return err
			}
			list, err := engine.CreateManifestList(cmd.Context(), env, opts)
			if err != nil {
				return err
			}
			_, err = fmt.Fprintln(s.Out, "Created manifest list", list)
			return err
		},
		DisableFlagsInUseLine: true,
	}
	cmd.Flags().BoolVar(&insecure, "insecure", false, "Allow communication with an insecure registry")
	cmd.Flags().BoolVarP(&opts.Amend, "amend", "a", false, "Amend an existing manifest list")
	return cmd
}

func newManifestAnnotateCommand(s *session) *cobra.Command {
	var opts engine.AnnotateManifestOptions
	cmd := &cobra.Command{
		Use:   "annotate [OPTIONS] MANIFEST_LIST MANIFEST",
		Short: "Add additional information to a local image manifest",
		Args:  argsBetween(2, 2),
		RunE: func(cmd *cobra.Command, args []string) error {
			opts.List, opts.Manifest = args[0], args[1]
			env, err := s.registries(cmd.Context())
			if err != nil {
				return err
			}
			return engine.AnnotateManifest(env, opts)
		},
		DisableFlagsInUseLine: true,
	}
	flags, platform := cmd.Flags(), &opts.Platform
	flags.StringVar(&platform.OS, "os", "", "Set operating system")
	flags.StringVar(&platform.Architecture, "arch", "", "Set architecture")
	flags.StringVar(&platform.OSVersion, "os-version", "", "Set operating system version")
	flags.StringSliceVar(&platform.OSFeatures, "os-features", nil, "Set operating system feature")
	flags.StringVar(&platform.Variant, "variant", "", "Set architecture variant")
	return cmd
}

func newManifestInspectCommand(s *session) *cobra.Command {
	var opts engine.InspectManifestOptions
	var insecure, verbose bool
	cmd := &cobra.Command{
		Use:   "inspect [OPTIONS] [MANIFEST_LIST] MANIFEST",
		Short: "Display an image manifest, or manifest list",
		Args:  argsBetween(1, 2),
		RunE: func(cmd *cobra.Command, args []string) error {
			opts.Ref = args[len(args)-1]
			if len(args) == 2 {
				opts.List = args[0]
			}
			env, err := s.registries(cmd.Context(), insecureHosts(insecure, args...)...)
			if err != nil {
				return err
			}
			return runManifestInspect(cmd.Context(), s, env, opts, verbose)
		},
		DisableFlagsInUseLine: true,
	}
	cmd.Flags().BoolVar(&insecure, "insecure", false, "Allow communication with an insecure registry")
	cmd.Flags().BoolVarP(&verbose, "verbose", "v", false, "Output additional info including layers and platform")
	return cmd
}

func runManifestInspect(ctx context.Context, s *session, env *engine.Env, opts engine.InspectManifestOptions, verbose bool) error {
	found, err := engine.InspectManifest(ctx, env, opts)
	if err != nil {
		return err
	}
	var out bytes.Buffer
	switch {
	case verbose:
		var v any = found.Manifests
		if !found.IsList {
			v = found.Manifests[0]
		}
		b, err := json.MarshalIndent(v, "", "\t")
		if err != nil {
			return err
		}
		out.Write(b)
	case found.IsList:
		b, err := found.ManifestList()
		if err != nil {
			return err
		}
		out.Write(b)
	default:
		if err := json.Indent(&out, found.Manifests[0].Payload(), "", "\t"); err != nil {
			return err
		}
	}
	out.WriteByte('\n')
	_, err = out.WriteTo(forTerminal(s.Out))
	return err
}

func newManifestPushCommand(s *session) *cobra.Command {
	var opts engine.PushManifestListOptions
	var insecure bool
	cmd := &cobra.Command{
		Use:   "push [OPTIONS] MANIFEST_LIST",
		Short: "Push a manifest list to a repository",
		Args:  argsBetween(1, 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			opts.List = args[0]
			opts.Pushed = func(ref reference.Named) {
				fmt.Fprintf(s.Out, "Pushed ref %s with digest: %s\n", ref, ref.Digest())
			}
			env, err := s.registries(cmd.Context(), insecureHosts(insecure, args...)...)
			if err != nil {
				return err
			}
			digest, err := engine.PushManifestList(cmd.Context(), env, opts)
			if err != nil {
				return err
			}
			_, err = fmt.Fprintln(s.Out, digest)
			return err
		},
		DisableFlagsInUseLine: true,
	}
	cmd.Flags().BoolVarP(&opts.Purge, "purge", "p", false, "Remove the local manifest list after push")
	cmd.Flags().BoolVar(&insecure, "insecure", false, "Allow push to an insecure registry")
	return cmd
}

func newManifestRemoveCommand(s *session) *cobra.Command {
	return &cobra.Command{
		Use:   "rm MANIFEST_LIST [MANIFEST_LIST...]",
		Short: "Delete one or more manifest lists from local storage",
		Args:  argsBetween(1, -1),
		RunE: func(cmd *cobra.Command, args []string) error {
			env, err := s.registries(cmd.Context())
			if err != nil {
				return err
			}
			var errs []error
			for _, ref := range args {
				errs = append(errs, engine.RemoveManifestList(env, ref))
			}
			return errors.Join(errs...)
		},
		DisableFlagsInUseLine: true,
	}
}
