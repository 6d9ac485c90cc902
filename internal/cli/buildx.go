package cli

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"runtime/debug"
	"slices"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"strake/internal/engine"
)

// The builder that there is, its node and what buildx would call its driver: builds
// run in the process that asks for them. Scripts that make builders of their own go
// on: any other name stands for this one, and nothing is kept of it.
const (
	theBuilder = "default"
	itsDriver  = "docker"
)

// otherBuilder tells the user of a name that stands for the builder.
func otherBuilder(s *session, name string) {
	if name != theBuilder {
		fmt.Fprintf(s.Err, "%s stands for %q: builds run here, and there is one builder\n", name, theBuilder)
	}
}

// frontendVersion is the version of the BuildKit whose Dockerfile language this is.
func frontendVersion() string {
	if info, ok := debug.ReadBuildInfo(); ok {
		for _, m := range info.Deps {
			if m.Path == "github.com/moby/buildkit" {
				return m.Version
			}
		}
	}
	return release
}

// builderRow is a line of the list of builders: the builder, or its node.
type builderRow struct{ name, endpoint, status, version, platforms string }

func newListBuildersCommand(s *session) *cobra.Command {
	var format string
	var noTrunc bool
	cmd := &cobra.Command{
		Use:   "ls [OPTIONS]",
		Short: "List builder instances",
		Args:  argsBetween(0, 0),
		RunE: func(*cobra.Command, []string) error {
			return runListBuilders(s.Out, format)
		},
		DisableFlagsInUseLine: true,
	}
	cmd.Flags().StringVar(&format, "format", "table", "Format the output")
	cmd.Flags().BoolVar(&noTrunc, "no-trunc", false, "Don't truncate output")
	return cmd
}

func runListBuilders(out io.Writer, format string) error {
	if format == "json" {
		return json.NewEncoder(out).Encode(map[string]any{"Name": theBuilder, "Driver": itsDriver, "Dynamic": true, "Nodes": []any{map[string]any{
			"Name": theBuilder, "Endpoint": theBuilder, "Status": "running", "Version": frontendVersion(), "Platforms": engine.BuildPlatforms(),
		}}})
	}
	name, node := theBuilder, theBuilder
	if strings.HasPrefix(format, "table") {
		name, node = theBuilder+"*", ` \_ `+theBuilder
	}
	rows := []builderRow{
		{name: name, endpoint: itsDriver},
		{name: node, endpoint: node, status: "running", version: frontendVersion(), platforms: strings.Join(engine.BuildPlatforms(), ", ")},
	}
	return listing[builderRow]{
		columns: []string{"Name", "DriverEndpoint", "Status", "Buildkit", "Platforms"},
		fields: []field[builderRow]{
			{"Name", "NAME/NODE", func(r builderRow) string { return r.name }},
			{"DriverEndpoint", "DRIVER/ENDPOINT", func(r builderRow) string { return r.endpoint }},
			{"LastActivity", "LAST ACTIVITY", func(builderRow) string { return "" }},
			{"Status", "STATUS", func(r builderRow) string { return r.status }},
			{"Buildkit", "BUILDKIT", func(r builderRow) string { return r.version }},
			{"Platforms", "PLATFORMS", func(r builderRow) string { return r.platforms }},
			{"Error", "ERROR", func(builderRow) string { return "" }},
		},
	}.write(out, format, rows)
}

func newInspectBuilderCommand(s *session) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "inspect [OPTIONS] [NAME]",
		Short: "Inspect current builder instance",
		Args:  argsBetween(0, 1),
		RunE: func(_ *cobra.Command, args []string) error {
			otherBuilder(s, cmp.Or(append(args, theBuilder)...))
			return runInspectBuilder(s.Out)
		},
		DisableFlagsInUseLine: true,
	}
	cmd.Flags().Bool("bootstrap", false, "Ensure builder has booted before inspecting")
	return cmd
}

func runInspectBuilder(out io.Writer) error {
	tw := tabwriter.NewWriter(out, 0, 0, 1, ' ', 0)
	fmt.Fprintf(tw, "Name:\t%s\nDriver:\t%s\n\nNodes:\n", theBuilder, itsDriver)
	fmt.Fprintf(tw, "Name:\t%s\nEndpoint:\t%s\nStatus:\trunning\nBuildKit version:\t%s\nPlatforms:\t%s\n",
		theBuilder, theBuilder, frontendVersion(), strings.Join(engine.BuildPlatforms(), ", "))
	return tw.Flush()
}

type createBuilderOptions struct {
	name, driver  string
	append, leave bool
}

func newCreateBuilderCommand(s *session) *cobra.Command {
	var opts createBuilderOptions
	cmd := &cobra.Command{
		Use:   "create [OPTIONS] [CONTEXT|ENDPOINT]",
		Short: "Create a new builder instance",
		Long:  "Create a new builder instance\n\nThere is one, which always is: the name stands for it. Drivers and endpoints on other machines are refused.",
		Args:  argsBetween(0, 1),
		RunE: func(_ *cobra.Command, args []string) error {
			return runCreateBuilder(s, opts, cmp.Or(args...))
		},
		DisableFlagsInUseLine: true,
	}
	flags := cmd.Flags()
	flags.StringVar(&opts.name, "name", "", "Builder instance name")
	flags.StringVar(&opts.driver, "driver", "", `Driver to use (available: "docker", "docker-container")`)
	flags.Bool("use", false, "Set the current builder instance")
	flags.Bool("bootstrap", false, "Boot builder after creation")
	flags.BoolVar(&opts.append, "append", false, "Append a node to builder instead of changing it")
	flags.BoolVar(&opts.leave, "leave", false, "Remove a node from builder instead of changing it")
	flags.StringArray("platform", nil, "Fixed platforms for current node")
	for _, name := range []string{"node", "buildkitd-flags", "buildkitd-config", "config"} {
		ignored(flags, name)
	}
	flags.StringArray("driver-opt", nil, "Options for the driver")
	flags.Lookup("driver-opt").Hidden = true
	return cmd
}

func runCreateBuilder(s *session, opts createBuilderOptions, endpoint string) error {
	switch {
	case opts.driver == "kubernetes" || opts.driver == "remote" || opts.driver == "cloud":
		return fmt.Errorf("ERROR: driver %q is not supported: builds run on this machine", opts.driver)
	case !slices.Contains([]string{"", "docker", "docker-container"}, opts.driver):
		return fmt.Errorf("ERROR: failed to find driver %q", opts.driver)
	case endpoint != "" && endpoint != theBuilder && !strings.HasPrefix(endpoint, "unix://"):
		return fmt.Errorf("ERROR: endpoint %q is not supported: builds run on this machine", endpoint)
	case opts.append && opts.name == "":
		return errors.New("ERROR: no builder name provided for append")
	case opts.leave && opts.name == "":
		return errors.New("ERROR: leave requires instance name")
	case opts.leave:
		return nil
	}
	name := cmp.Or(opts.name, theBuilder)
	otherBuilder(s, name)
	_, err := fmt.Fprintln(s.Out, name)
	return err
}

func newUseBuilderCommand(s *session) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "use [OPTIONS] NAME",
		Short: "Set the current builder instance",
		Args:  argsBetween(0, 1),
		RunE: func(_ *cobra.Command, args []string) error {
			otherBuilder(s, cmp.Or(append(args, theBuilder)...))
			return nil
		},
		DisableFlagsInUseLine: true,
	}
	cmd.Flags().Bool("global", false, "Builder persists context changes")
	cmd.Flags().Bool("default", false, "Set builder as default for current context")
	return cmd
}

func newStopBuilderCommand(*session) *cobra.Command {
	return &cobra.Command{
		Use:                   "stop [NAME]",
		Short:                 "Stop builder instance",
		Long:                  "Stop builder instance\n\nNothing runs between builds: there is nothing to stop.",
		Args:                  argsBetween(0, 1),
		RunE:                  func(*cobra.Command, []string) error { return nil },
		DisableFlagsInUseLine: true,
	}
}

func newRemoveBuilderCommand(s *session) *cobra.Command {
	var inactive bool
	cmd := &cobra.Command{
		Use:   "rm [OPTIONS] [NAME...]",
		Short: "Remove one or more builder instances",
		Long:  "Remove one or more builder instances\n\nThe one that there is stays; of other names there is nothing to remove. The build cache is builder prune's.",
		RunE: func(_ *cobra.Command, args []string) error {
			if inactive && len(args) > 0 {
				return errors.New("ERROR: cannot specify builder name when --all-inactive is set")
			}
			return runRemoveBuilders(s, args)
		},
		DisableFlagsInUseLine: true,
	}
	flags := cmd.Flags()
	flags.BoolVar(&inactive, "all-inactive", false, "Remove all inactive builders")
	flags.BoolP("force", "f", false, "Do not prompt for confirmation")
	flags.Bool("keep-state", false, "Keep BuildKit state")
	flags.Bool("keep-daemon", false, "Keep the BuildKit daemon running")
	return cmd
}

func runRemoveBuilders(s *session, names []string) error {
	for _, name := range names {
		if name == theBuilder {
			fmt.Fprintf(s.Err, "failed to remove %s: it is the only builder\n", name)
			return errors.New("ERROR: failed to remove one or more builders")
		}
		fmt.Fprintf(s.Err, "%s removed\n", name)
	}
	return nil
}

func newBuilderVersionCommand(s *session) *cobra.Command {
	return &cobra.Command{
		Use:   "version",
		Short: "Show version information",
		Args:  argsBetween(0, 0),
		RunE: func(*cobra.Command, []string) error {
			commit, _ := built()
			_, err := fmt.Fprintln(s.Out, strings.TrimSpace("strake v"+release+" "+commit))
			return err
		},
		DisableFlagsInUseLine: true,
	}
}
