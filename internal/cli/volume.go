package cli

import (
	"context"
	"errors"
	"fmt"

	"github.com/moby/moby/api/types/volume"
	"github.com/spf13/cobra"

	"strake/internal/engine"
)

func volumeCommands() node {
	return node{names: "volume", about: "Manage volumes", subs: []node{
		{names: "create", make: newVolumeCreateCommand},
		{names: "inspect", make: newVolumeInspectCommand},
		{names: "ls list", make: newVolumeListCommand},
		{names: "prune", make: newVolumePruneCommand},
		{names: "rm remove", make: newVolumeRemoveCommand},
	}}
}

func newVolumeCreateCommand(s *session) *cobra.Command {
	var opts engine.VolumeOptions
	var labels []string
	cmd := &cobra.Command{
		Use:   "create [OPTIONS] [VOLUME]",
		Short: "Create a volume",
		Args:  argsBetween(0, 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) == 1 {
				if opts.Name != "" {
					return errors.New("conflicting options: cannot specify a volume-name through both --name and as a positional arg")
				}
				opts.Name = args[0]
			}
			opts.Labels = pairMap(labels)
			return runVolumeCreate(cmd.Context(), s, opts)
		},
		DisableFlagsInUseLine: true,
	}
	flags := cmd.Flags()
	flags.StringVarP(&opts.Driver, "driver", "d", "local", "Specify volume driver name")
	flags.StringVar(&opts.Name, "name", "", "Specify volume name")
	flags.Lookup("name").Hidden = true
	list(flags, &labels, "label", "", "Set metadata for a volume")
	opts.Options = map[string]string{}
	each(flags, "map", "opt", "o", "Set driver specific options", func(v string) error {
		for key, value := range pairMap([]string{v}) {
			opts.Options[key] = value
		}
		return nil
	})
	return cmd
}

func runVolumeCreate(ctx context.Context, s *session, opts engine.VolumeOptions) error {
	env, err := s.engine(ctx)
	if err != nil {
		return err
	}
	name, err := engine.CreateVolume(ctx, env, opts)
	if err != nil {
		return fromEngine(err)
	}
	_, err = fmt.Fprintln(s.Out, name)
	return err
}

func newVolumeListCommand(s *session) *cobra.Command {
	var quiet bool
	var format string
	var filter []string
	cmd := &cobra.Command{
		Use:   "ls [OPTIONS]",
		Short: "List volumes",
		Args:  argsBetween(0, 0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if quiet && (format == "" || format == "table") {
				format = "{{.Name}}"
			}
			return runVolumeList(cmd.Context(), s, format, conditions(filter))
		},
		DisableFlagsInUseLine: true,
	}
	flags := cmd.Flags()
	filters(flags, &filter, `Provide filter values (e.g. "dangling=true")`)
	flags.StringVar(&format, "format", "", listFormatHelp)
	flags.BoolVarP(&quiet, "quiet", "q", false, "Only display volume names")
	return cmd
}

func runVolumeList(ctx context.Context, s *session, format string, filters map[string][]string) error {
	env, err := s.engine(ctx)
	if err != nil {
		return err
	}
	list, err := engine.Volumes(ctx, env, filters)
	if err != nil {
		return fromEngine(err)
	}
	return volumeListing("Driver", "Name").write(s.Out, format, list)
}

// volumeListing prints volumes; what only a measurement tells, df does.
func volumeListing(columns ...string) listing[volume.Volume] {
	unknown := func(volume.Volume) string { return "N/A" }
	ofUsage := func(known bool, text func(*volume.UsageData) string) func(volume.Volume) string {
		if !known {
			return unknown
		}
		return func(v volume.Volume) string { return text(v.UsageData) }
	}
	measured := columns[0] == "Name" // df's
	return listing[volume.Volume]{
		labels: func(v volume.Volume) map[string]string { return v.Labels },
		fields: []field[volume.Volume]{
			{"Driver", "DRIVER", func(v volume.Volume) string { return v.Driver }},
			{"Name", "VOLUME NAME", func(v volume.Volume) string { return v.Name }},
			{"Scope", "SCOPE", func(v volume.Volume) string { return v.Scope }},
			{"Mountpoint", "MOUNTPOINT", func(v volume.Volume) string { return v.Mountpoint }},
			{"Labels", "LABELS", func(v volume.Volume) string { return labelsText(v.Labels) }},
			{"Links", "LINKS", ofUsage(measured, func(u *volume.UsageData) string { return fmt.Sprint(u.RefCount) })},
			{"Size", "SIZE", ofUsage(measured, func(u *volume.UsageData) string { return bytesOf(u.Size) })},
			{"Availability", "AVAILABILITY", unknown},
			{"Group", "GROUP", unknown},
			{"Status", "STATUS", unknown},
		},
		columns: columns,
		docker:  "*formatter.volumeContext",
	}
}

func newVolumeRemoveCommand(s *session) *cobra.Command {
	var force bool
	cmd := &cobra.Command{
		Use:   "rm [OPTIONS] VOLUME [VOLUME...]",
		Short: "Remove one or more volumes",
		Long:  "Remove one or more volumes. You cannot remove a volume that is in use by a container.",
		Args:  argsBetween(1, -1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return runVolumeRemove(cmd.Context(), s, args, force)
		},
		DisableFlagsInUseLine: true,
	}
	cmd.Flags().BoolVarP(&force, "force", "f", false, "Force the removal of one or more volumes")
	return cmd
}

// runVolumeRemove removes one volume after the other; one that fails keeps none of the others.
func runVolumeRemove(ctx context.Context, s *session, names []string, force bool) error {
	env, err := s.engine(ctx)
	if err != nil {
		return err
	}
	var errs []error
	for _, name := range names {
		if err := engine.RemoveVolume(ctx, env, name, force); err != nil {
			errs = append(errs, fromEngine(err))
			continue
		}
		fmt.Fprintln(s.Out, name)
	}
	return errors.Join(errs...)
}

func newVolumePruneCommand(s *session) *cobra.Command {
	var opts pruneOptions
	cmd := &cobra.Command{
		Use:   "prune [OPTIONS]",
		Short: "Remove unused local volumes",
		Args:  argsBetween(0, 0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			return runVolumePrune(cmd.Context(), s, opts)
		},
		DisableFlagsInUseLine: true,
	}
	opts.flags(cmd, "Remove all unused volumes, not just anonymous ones", `Provide filter values (e.g. "label=<label>")`)
	return cmd
}

func runVolumePrune(ctx context.Context, s *session, opts pruneOptions) error {
	filters := conditions(opts.filters)
	warning := "WARNING! This will remove anonymous local volumes not used by at least one container.\nAre you sure you want to continue?"
	if opts.all {
		if _, ok := filters["all"]; ok {
			return errors.New("conflicting options: cannot specify both --all and --filter all=1")
		}
		warning = "WARNING! This will remove all local volumes not used by at least one container.\nAre you sure you want to continue?"
	}
	if ok, err := opts.confirm(ctx, s, warning); err != nil || !ok {
		return err
	}
	env, err := s.engine(ctx)
	if err != nil {
		return err
	}
	result, err := engine.PruneVolumes(ctx, env, engine.PruneVolumesOptions{All: opts.all, Filters: filters, DryRun: opts.dryRun})
	if err != nil {
		return fromEngine(err)
	}
	return opts.report(s, engine.PruneResult{Volumes: result.Volumes, Freed: result.Freed})
}
