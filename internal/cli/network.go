package cli

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/spf13/cobra"

	"strake/internal/engine"
)

// networkNode are the commands on networks.
func networkNode() node {
	return node{names: "network", about: "Manage networks", subs: []node{
		{names: "connect", make: newConnectNetworkCommand},
		{names: "create", make: newCreateNetworkCommand},
		{names: "disconnect", make: newDisconnectNetworkCommand},
		{names: "inspect", make: newNetworkInspectCommand},
		{names: "ls list", make: newNetworksCommand},
		{names: "prune", make: newNetworkPruneCommand},
		{names: "rm remove", make: newRemoveNetworkCommand},
	}}
}

type networksOptions struct {
	quiet, noTrunc bool
	format         string
	filters        []string
}

func newNetworksCommand(s *session) *cobra.Command {
	var opts networksOptions
	cmd := &cobra.Command{
		Use:   "ls [OPTIONS]",
		Short: "List networks",
		Args:  argsBetween(0, 0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			return runNetworks(cmd.Context(), s, opts)
		},
		Annotations:           map[string]string{aliasesKey: "strake network ls, strake network list"},
		DisableFlagsInUseLine: true,
	}
	flags := cmd.Flags()
	flags.BoolVarP(&opts.quiet, "quiet", "q", false, "Only display network IDs")
	flags.BoolVar(&opts.noTrunc, "no-trunc", false, "Do not truncate the output")
	flags.StringVar(&opts.format, "format", "", listFormatHelp)
	filters(flags, &opts.filters, `Provide filter values (e.g. "driver=bridge")`)
	return cmd
}

func runNetworks(ctx context.Context, s *session, opts networksOptions) error {
	env, err := s.engine(ctx)
	if err != nil {
		return err
	}
	list, err := engine.Networks(ctx, env, conditions(opts.filters))
	if err != nil {
		return fromEngine(err)
	}
	table := listing[engine.Network]{
		docker:  "*network.networkContext",
		columns: []string{"ID", "Name", "Driver", "Scope"},
		labels:  func(n engine.Network) map[string]string { return n.Labels },
		fields: []field[engine.Network]{
			{"ID", "NETWORK ID", func(n engine.Network) string { return idText(n.ID, !opts.noTrunc) }},
			{"Name", "NAME", func(n engine.Network) string { return n.Name }},
			{"Driver", "DRIVER", func(n engine.Network) string { return n.Driver }},
			{"Scope", "SCOPE", func(n engine.Network) string { return n.Scope }},
			{"IPv4", "IPV4", func(n engine.Network) string { return strconv.FormatBool(n.EnableIPv4) }},
			{"IPv6", "IPV6", func(n engine.Network) string { return strconv.FormatBool(n.EnableIPv6) }},
			{"Internal", "INTERNAL", func(n engine.Network) string { return strconv.FormatBool(n.Internal) }},
			{"Labels", "LABELS", func(n engine.Network) string { return labelsText(n.Labels) }},
			{"CreatedAt", "CREATED AT", func(n engine.Network) string { return n.Created.String() }},
		},
	}
	format := opts.format
	if opts.quiet && (format == "" || format == "table") {
		format = "{{.ID}}"
	}
	return table.write(s.Out, format, list)
}

// labelsText are labels as docker's lists have them.
func labelsText(labels map[string]string) string {
	list := make([]string, 0, len(labels))
	for k, v := range labels {
		list = append(list, k+"="+v)
	}
	slices.Sort(list)
	return strings.Join(list, ",")
}

func newRemoveNetworkCommand(s *session) *cobra.Command {
	var force bool
	cmd := &cobra.Command{
		Use:   "rm NETWORK [NETWORK...]",
		Short: "Remove one or more networks",
		Args:  argsBetween(1, -1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return runRemoveNetwork(cmd.Context(), s, args, force)
		},
		Annotations:           map[string]string{aliasesKey: "strake network rm, strake network remove"},
		DisableFlagsInUseLine: true,
	}
	cmd.Flags().BoolVarP(&force, "force", "f", false, "Do not error if the network does not exist")
	return cmd
}

func runRemoveNetwork(ctx context.Context, s *session, names []string, force bool) error {
	env, err := s.engine(ctx)
	if err != nil {
		return err
	}
	failed := false
	for _, name := range names {
		err := engine.RemoveNetwork(ctx, env, name)
		switch {
		case err == nil:
			fmt.Fprintln(s.Out, name)
		case !force || !errdefs.IsNotFound(err):
			fmt.Fprintln(s.Err, fromEngine(err))
			failed = true
		}
	}
	if failed {
		return statusError{code: exitFailure, err: fmt.Errorf("exit status %d", exitFailure)}
	}
	return nil
}

func newNetworkPruneCommand(s *session) *cobra.Command {
	var opts pruneOptions
	cmd := &cobra.Command{
		Use:   "prune [OPTIONS]",
		Short: "Remove all unused networks",
		Args:  argsBetween(0, 0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			return runNetworkPrune(cmd.Context(), s, opts)
		},
		DisableFlagsInUseLine: true,
	}
	flags := cmd.Flags()
	flags.BoolVarP(&opts.force, "force", "f", false, "Do not prompt for confirmation")
	flags.Var(listFlag{&opts.filters, "filter", checkFilter}, "filter", `Provide filter values (e.g. "until=<timestamp>")`)
	return cmd
}

func runNetworkPrune(ctx context.Context, s *session, opts pruneOptions) error {
	const warning = "WARNING! This will remove all custom networks not used by at least one container.\nAre you sure you want to continue?"
	if ok, err := opts.confirm(ctx, s, warning); err != nil || !ok {
		return err
	}
	env, err := s.engine(ctx)
	if err != nil {
		return err
	}
	names, err := engine.PruneNetworks(ctx, env, engine.PruneNetworksOptions{Filters: conditions(opts.filters)})
	if err != nil {
		return fromEngine(err)
	}
	printDeleted(s, "Networks", names)
	return nil
}
