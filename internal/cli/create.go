package cli

import (
	"context"
	"errors"
	"fmt"
	"os"

	"github.com/containerd/errdefs"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"strake/internal/engine"
)

// createOptions are what run and create have in common.
type createOptions struct {
	flags    *containerFlags
	made     containerConfig // what flags were read to
	image    string
	name     string
	pull     string
	quiet    bool
	platform string
}

// add adds the flags.
func (o *createOptions) add(flags *pflag.FlagSet) {
	flags.SetInterspersed(false)
	o.flags = newContainerFlags(flags)
	flags.Bool("help", false, "Print usage") // without -h, which is the host name
	flags.StringVar(&o.name, "name", "", "Assign a name to the container")
	flags.StringVar(&o.pull, "pull", "missing", `Pull image before running ("always", "missing", "never")`)
	flags.BoolVarP(&o.quiet, "quiet", "q", false, "Suppress the pull output")
	platformFlag(flags, &o.platform)
	obsolete(flags, "disable-content-trust")
}

func newCreateCommand(s *session) *cobra.Command {
	var opts createOptions
	cmd := &cobra.Command{
		Use:   "create [OPTIONS] IMAGE [COMMAND] [ARG...]",
		Short: "Create a new container",
		Args:  argsBetween(1, -1),
		RunE: func(cmd *cobra.Command, args []string) error {
			err := opts.read(cmd.Flags(), args)
			if err == nil {
				err = runCreate(cmd.Context(), s, opts)
			}
			if _, isEngines := errors.AsType[engineError](err); err != nil && !isEngines {
				return runError(cmd, err)
			}
			return err
		},
		Annotations:           map[string]string{aliasesKey: "strake container create, strake create"},
		DisableFlagsInUseLine: true,
	}
	opts.add(cmd.Flags())
	return cmd
}

func runCreate(ctx context.Context, s *session, opts createOptions) (err error) {
	if err := opts.check(); err != nil {
		return err
	}
	cid, err := newCIDFile(opts.made.host.ContainerIDFile)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, cid.close()) }()
	env, err := s.contained(ctx)
	if err != nil {
		return err
	}
	var id string
	err = opts.withImage(ctx, s, env, func() error {
		id, err = engine.CreateContainer(ctx, env, opts.create(s))
		return err
	})
	if err != nil {
		return fromEngine(err)
	}
	fmt.Fprintln(s.Out, id)
	return cid.write(id)
}

// read takes the command line.
func (o *createOptions) read(flags *pflag.FlagSet, args []string) (err error) {
	o.image = args[0]
	o.made, err = o.flags.read(flags, o.image, args[1:])
	return err
}

// check refuses what cannot be.
func (o *createOptions) check() error {
	switch o.pull {
	case "always", "missing", "never", "":
	default:
		return fmt.Errorf("invalid pull option: '%s': must be one of %q, %q or %q", o.pull, "always", "missing", "never")
	}
	if o.platform != "" {
		if err := checkPlatforms([]string{o.platform}); err != nil {
			return fmt.Errorf("error parsing specified platform: %w", err)
		}
	}
	return nil
}

// create is what the verbs take.
func (o *createOptions) create(s *session) engine.CreateOptions {
	return engine.CreateOptions{
		Name: o.name, Ref: o.image, Platform: o.platform, Config: o.made.config, HostConfig: o.made.host,
		Endpoints: o.made.networks.EndpointsConfig,
		Warn:      s.warn,
	}
}

// withImage calls fn, which needs the image, and pulls it before or, where fn finds it missing, then.
func (o *createOptions) withImage(ctx context.Context, s *session, env *engine.Env, fn func() error) error {
	if o.pull == "always" {
		if err := pullForRun(ctx, s, env, *o); err != nil {
			return err
		}
	}
	err := fn()
	if !errdefs.IsNotFound(err) || !isMissingImage(err) || o.pull == "never" || o.pull == "always" {
		return err
	}
	if named, parseErr := engine.ParseName(o.image); parseErr == nil && !o.quiet {
		fmt.Fprintf(s.Err, "Unable to find image '%s' locally\n", named.Familiar().String())
	}
	if err := pullForRun(ctx, s, env, *o); err != nil {
		return err
	}
	return fn()
}

// cidFile is where the ID of a container is to be written; nil is nowhere.
type cidFile struct {
	file    *os.File
	written bool
}

// newCIDFile makes the file, which must not be there.
func newCIDFile(path string) (*cidFile, error) {
	if path == "" {
		return nil, nil
	}
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o666) //nolint:gosec // as docker makes it
	if errors.Is(err, os.ErrExist) {
		return nil, fmt.Errorf("container ID file found, make sure the other container isn't running or delete %s", path)
	}
	if err != nil {
		return nil, fmt.Errorf("failed to create the container ID file: %w", err)
	}
	return &cidFile{file: f}, nil
}

func (c *cidFile) write(id string) error {
	if c == nil {
		return nil
	}
	if _, err := c.file.WriteString(id); err != nil {
		return fmt.Errorf("failed to write the container ID to the file: %w", err)
	}
	c.written = true
	return nil
}

// close closes the file, and removes it where nothing was written.
func (c *cidFile) close() error {
	if c == nil {
		return nil
	}
	err := c.file.Close()
	if !c.written {
		err = errors.Join(err, os.Remove(c.file.Name()))
	}
	return err
}
