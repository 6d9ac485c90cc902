package cli

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/spf13/cobra"

	"strake/internal/engine"
)

type inspectOptions struct {
	refs     []string
	format   string
	platform string
	kind     string // --type; "" is any
	size     bool
	remote   bool   // in the registry
	noun     string // what a missing object is called, after docker's two commands
}

func newInspectCommand(s *session) *cobra.Command {
	opts := inspectOptions{noun: "object"}
	cmd := &cobra.Command{
		Use:   "inspect [OPTIONS] NAME|ID [NAME|ID...]",
		Short: "Return low-level information on Docker objects",
		Args:  argsBetween(1, -1),
		RunE: func(cmd *cobra.Command, args []string) error {
			opts.refs = args
			if cmd.Flags().Changed("type") {
				if err := checkKind(opts.kind); err != nil {
					return err
				}
				opts.noun = opts.kind
			}
			return runInspect(cmd.Context(), s, opts)
		},
		DisableFlagsInUseLine: true,
	}
	flags := cmd.Flags()
	flags.StringVarP(&opts.format, "format", "f", "", inspectFormatHelp)
	flags.StringVar(&opts.kind, "type", "", "Only inspect objects of the given type")
	flags.BoolVar(&opts.remote, "remote", false, remoteInspectHelp)
	flags.BoolVarP(&opts.size, "size", "s", false, "Display total file sizes if the type is container")
	return cmd
}

func newImageInspectCommand(s *session) *cobra.Command {
	cmd, opts := newInspectOfCommand(s, "image", "images")
	flags := cmd.Flags()
	flags.BoolVar(&opts.remote, "remote", false, remoteInspectHelp)
	flags.StringVar(&opts.platform, "platform", "", `Inspect a specific platform of the multi-platform image.
If the image or the server is not multi-platform capable, the command will error out if the platform does not match.
'os[/arch[/variant]]': Explicit platform (eg. linux/amd64)`)
	return cmd
}

func newContainerInspectCommand(s *session) *cobra.Command {
	cmd, opts := newInspectOfCommand(s, "container", "containers")
	cmd.Flags().BoolVarP(&opts.size, "size", "s", false, "Display total file sizes")
	return cmd
}

func newVolumeInspectCommand(s *session) *cobra.Command {
	cmd, _ := newInspectOfCommand(s, "volume", "volumes")
	return cmd
}

func newNetworkInspectCommand(s *session) *cobra.Command {
	cmd, _ := newInspectOfCommand(s, "network", "networks")
	cmd.Flags().BoolP("verbose", "v", false, "Verbose output for diagnostics")
	return cmd
}

// newInspectOfCommand is the inspect command of one kind of object.
func newInspectOfCommand(s *session, noun, nouns string) (*cobra.Command, *inspectOptions) {
	opts := &inspectOptions{noun: noun}
	arg := strings.ToUpper(noun)
	cmd := &cobra.Command{
		Use:   fmt.Sprintf("inspect [OPTIONS] %s [%s...]", arg, arg),
		Short: "Display detailed information on one or more " + nouns,
		Args:  argsBetween(1, -1),
		RunE: func(cmd *cobra.Command, args []string) error {
			opts.refs = args
			return runInspect(cmd.Context(), s, *opts)
		},
		DisableFlagsInUseLine: true,
	}
	cmd.Flags().StringVarP(&opts.format, "format", "f", "", inspectFormatHelp)
	return cmd, opts
}

const remoteInspectHelp = "Inspect the image in its registry, without pulling it; the size is what a pull transfers"

// kinds are docker's types of objects.
var kinds = [...]string{"config", "container", "image", "network", "node", "plugin", "secret", "service", "task", "volume"}

func checkKind(kind string) error {
	list := `"` + strings.Join(kinds[:], `", "`) + `"`
	switch {
	case slices.Contains(kinds[:], kind):
		return nil
	case kind == "":
		return errors.New("type is empty: must be one of " + list)
	}
	return fmt.Errorf("unknown type: %q: must be one of %s", kind, list)
}

// missing is docker's error for an object of a kind of which there are none
// here, or nil for what is looked for.
func missing(kind, ref string) error {
	switch kind {
	case "container", "image", "network", "object", "volume":
		return nil
	case "plugin":
		return fromEngine(fmt.Errorf("plugin %q not found", ref))
	}
	return fromEngine(errors.New("This node is not a swarm manager. Use \"docker swarm init\" or \"docker swarm join\" to connect this node to swarm and try again.")) //nolint:revive,staticcheck // docker's text
}

// finder finds the objects of one kind.
type finder struct {
	kind string
	find func(ctx context.Context, env *engine.Env, ref string) (any, error)
}

// finders are those of the kinds that are asked for, in docker's order.
func (o *inspectOptions) finders() []finder {
	inspect := engine.Inspect
	if o.remote {
		inspect = engine.InspectRemote
	}
	list := []finder{
		{"container", func(ctx context.Context, env *engine.Env, ref string) (any, error) {
			return engine.InspectContainer(ctx, env, ref, o.size)
		}},
		{"image", func(ctx context.Context, env *engine.Env, ref string) (any, error) {
			return inspect(ctx, env, engine.InspectOptions{Ref: ref, Platform: o.platform})
		}},
		{"network", func(ctx context.Context, env *engine.Env, ref string) (any, error) {
			return engine.InspectNetwork(ctx, env, ref)
		}},
		{"volume", func(ctx context.Context, env *engine.Env, ref string) (any, error) {
			return engine.InspectVolume(ctx, env, ref)
		}},
	}
	return slices.DeleteFunc(list, func(f finder) bool {
		return o.noun != "object" && f.kind != o.noun || o.remote && f.kind != "image"
	})
}

// find returns what ref is, and of which kind.
func (o *inspectOptions) find(ctx context.Context, env *engine.Env, ref string) (found any, kind string, err error) {
	for _, f := range o.finders() {
		found, err = f.find(ctx, env, ref)
		absent := errdefs.IsNotFound(err) || engine.IsInvalidReference(err)
		switch {
		case err == nil:
			return found, f.kind, nil
		case o.noun != "object" || o.remote || !absent:
			return nil, "", fromEngine(err)
		}
	}
	return nil, "", fmt.Errorf("error: no such object: %s", ref)
}

func runInspect(ctx context.Context, s *session, opts inspectOptions) error {
	out, err := newInspector(opts.format)
	if err != nil {
		return statusError{exitTemplate, err}
	}
	if opts.platform != "" {
		if err := checkPlatforms([]string{opts.platform}); err != nil {
			return err
		}
	}
	open := s.engine
	if opts.remote {
		open = func(ctx context.Context) (*engine.Env, error) { return s.registries(ctx) }
	}
	env, err := open(ctx)
	if err != nil {
		return err
	}
	var errs []error
	for _, ref := range opts.refs {
		if err := missing(opts.noun, ref); err != nil {
			errs = append(errs, err)
			continue
		}
		resp, kind, err := opts.find(ctx, env, ref)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		if opts.size && kind != "container" {
			fmt.Fprintln(s.Err, "WARNING: --size ignored for", kind)
		}
		if err := out.add(resp); err != nil {
			errs = append(errs, err)
		}
	}
	if err := out.flush(forTerminal(s.Out)); err != nil {
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// inspector collects what inspect prints: a JSON array, or a template's output
// per object.
type inspector struct {
	execute func(w io.Writer, v any) error // nil: JSON
	indent  string
	values  []any
	text    bytes.Buffer
}

func newInspector(format string) (*inspector, error) {
	switch format {
	case "":
		return &inspector{indent: "    "}, nil
	case "json":
		return &inspector{}, nil
	}
	tmpl, err := parseTemplate("", format)
	if err != nil {
		return nil, err
	}
	execute := func(w io.Writer, v any) error {
		var b bytes.Buffer
		if err := tmpl.Execute(&b, v); err != nil {
			// The names of the JSON may be meant, which differ from the
			// struct's in a few places.
			generic, jsonErr := asMap(v)
			if jsonErr != nil {
				return jsonErr
			}
			b.Reset()
			if err := tmpl.Option("missingkey=error").Execute(&b, generic); err != nil {
				return fmt.Errorf("template parsing error: %w", err)
			}
		}
		_, err := b.WriteTo(w)
		return err
	}
	return &inspector{execute: execute}, nil
}

func asMap(v any) (any, error) {
	b, err := json.Marshal(v)
	if err != nil {
		return nil, err
	}
	dec := json.NewDecoder(bytes.NewReader(b))
	dec.UseNumber()
	var m any
	err = dec.Decode(&m)
	return m, err
}

func (i *inspector) add(v any) error {
	if i.execute == nil {
		i.values = append(i.values, v)
		return nil
	}
	if err := i.execute(&i.text, v); err != nil {
		return err
	}
	return i.text.WriteByte('\n')
}

func (i *inspector) flush(out io.Writer) error {
	if i.execute != nil {
		if i.text.Len() == 0 {
			i.text.WriteByte('\n')
		}
		_, err := i.text.WriteTo(out)
		return err
	}
	if len(i.values) == 0 {
		_, err := io.WriteString(out, "[]\n")
		return err
	}
	enc := json.NewEncoder(out)
	enc.SetEscapeHTML(false)
	enc.SetIndent("", i.indent)
	return enc.Encode(i.values)
}
