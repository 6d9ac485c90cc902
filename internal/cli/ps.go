package cli

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/docker/go-units"
	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/mount"
	"github.com/spf13/cobra"

	"strake/internal/engine"
)

type psOptions struct {
	all     bool
	filters []string
	format  string
	last    int
	latest  bool
	noTrunc bool
	quiet   bool
	size    bool
}

func newPsCommand(s *session) *cobra.Command {
	var opts psOptions
	cmd := &cobra.Command{
		Use:   "ps [OPTIONS]",
		Short: "List containers",
		Args:  argsBetween(0, 0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			return runPs(cmd.Context(), s, opts)
		},
		Annotations:           map[string]string{topKey: "3", aliasesKey: "strake container ls, strake container list, strake container ps, strake ps"},
		DisableFlagsInUseLine: true,
	}
	flags := cmd.Flags()
	flags.BoolVarP(&opts.quiet, "quiet", "q", false, "Only display container IDs")
	flags.BoolVarP(&opts.size, "size", "s", false, "Display total file sizes")
	flags.BoolVarP(&opts.all, "all", "a", false, "Show all containers (default shows just running)")
	flags.BoolVar(&opts.noTrunc, "no-trunc", false, "Don't truncate output")
	flags.BoolVarP(&opts.latest, "latest", "l", false, "Show the latest created container (includes all states)")
	flags.IntVarP(&opts.last, "last", "n", -1, "Show n last created containers (includes all states)")
	flags.StringVar(&opts.format, "format", "", listFormatHelp)
	filters(flags, &opts.filters, "Filter output based on conditions provided")
	return cmd
}

func runPs(ctx context.Context, s *session, opts psOptions) error {
	env, err := s.engine(ctx)
	if err != nil {
		return err
	}
	list := engine.ListContainersOptions{All: opts.all, Last: max(opts.last, 0), Filters: conditions(opts.filters)}
	if opts.latest && opts.last < 0 {
		list.Last = 1
	}
	if opts.format == "" && !opts.quiet {
		opts.format = env.Credentials.PsFormat()
	}
	table := listing[container.Summary]{
		docker: "*formatter.ContainerContext", fields: containerFields(!opts.noTrunc),
		columns: []string{"ID", "Image", "Command", "RunningFor", "Status", "Ports", "Names"},
		labels:  func(c container.Summary) map[string]string { return c.Labels },
	}
	if err := table.validate(opts.format); err != nil {
		return err
	}
	list.Size = opts.size || !opts.quiet && (strings.Contains(opts.format, ".Size") || opts.format == "json")
	found, err := engine.ListContainers(ctx, env, list)
	if err != nil {
		return fromEngine(err)
	}
	if opts.size {
		table.columns = append(table.columns, "Size")
	}
	format := opts.format
	if opts.quiet {
		if format != "" {
			fmt.Fprintln(s.Err, "WARNING: Ignoring custom format, because both --format and --quiet are set.")
		}
		format = "{{.ID}}"
	}
	return table.write(s.Out, format, found)
}

// containerFields are docker's fields of a container.
func containerFields(trunc bool) []field[container.Summary] {
	now := time.Now()
	type row = container.Summary
	return []field[row]{
		{"ID", "CONTAINER ID", func(c row) string { return idText(c.ID, trunc) }},
		{"Names", "NAMES", func(c row) string { return containerNames(c, trunc) }},
		{"Image", "IMAGE", func(c row) string { return containerImage(c, trunc) }},
		{"Command", "COMMAND", func(c row) string {
			command := c.Command
			if trunc {
				command = ellipsis(command, 20)
			}
			return strconv.Quote(command)
		}},
		{"CreatedAt", "CREATED AT", func(c row) string { return localTime(c.Created) }},
		{"RunningFor", "CREATED", func(c row) string { return since(now, time.Unix(c.Created, 0)) }},
		{"Ports", "PORTS", func(c row) string { return portsText(c.Ports) }},
		{"State", "STATE", func(c row) string { return string(c.State) }},
		{"Status", "STATUS", func(c row) string { return c.Status }},
		{"HealthStatus", "HEALTH STATUS", func(c row) string {
			if c.Health == nil {
				return ""
			}
			return string(c.Health.Status)
		}},
		{"Size", "SIZE", func(c row) string {
			text := units.HumanSizeWithPrecision(float64(c.SizeRw), 3)
			if c.SizeRootFs > 0 {
				text += " (virtual " + units.HumanSizeWithPrecision(float64(c.SizeRootFs), 3) + ")"
			}
			return text
		}},
		{"Labels", "LABELS", func(c row) string { return labelsText(c.Labels) }},
		{"Mounts", "MOUNTS", func(c row) string { return mountsText(c.Mounts, trunc) }},
		{"LocalVolumes", "LOCAL VOLUMES", func(c row) string {
			n := 0
			for _, m := range c.Mounts {
				if m.Type == mount.TypeVolume && m.Driver == "local" {
					n++
				}
			}
			return strconv.Itoa(n)
		}},
		{"Networks", "NETWORKS", func(c row) string {
			if c.NetworkSettings == nil {
				return ""
			}
			return strings.Join(slices.Sorted(maps.Keys(c.NetworkSettings.Networks)), ",")
		}},
		{"Platform", "PLATFORM", func(row) string { return "" }},
	}
}

// containerNames leaves out the names that links give, where names are cut short.
func containerNames(c container.Summary, trunc bool) string {
	var names []string
	for _, name := range c.Names {
		name = strings.TrimPrefix(name, "/")
		if !trunc || !strings.Contains(name, "/") {
			names = append(names, name)
		}
	}
	return strings.Join(names, ",")
}

func containerImage(c container.Summary, trunc bool) string {
	switch {
	case c.Image == "":
		return "<no image>"
	case trunc && shortID(c.ImageID) == shortID(c.Image):
		return shortID(c.ImageID)
	case trunc:
		if name, _, ok := strings.Cut(c.Image, "@sha256:"); ok {
			return name
		}
	}
	return c.Image
}

func mountsText(mounts []container.MountPoint, trunc bool) string {
	var list []string
	for _, m := range mounts {
		name := m.Name
		if name == "" {
			name = m.Source
		}
		if trunc {
			name = ellipsis(name, 15)
		}
		list = append(list, name)
	}
	return strings.Join(list, ",")
}
