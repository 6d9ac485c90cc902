package cli

import (
	"context"
	"errors"
	"net/netip"
	"strings"

	"github.com/moby/moby/api/types/network"
	"github.com/spf13/cobra"

	"strake/internal/engine"
)

type connectOptions struct {
	engine.ConnectNetworkOptions
	ip, ip6           netip.Addr
	links, driverOpts []string
	aliases           []string
	linkLocal         []netip.Addr
	priority          int
}

func newConnectNetworkCommand(s *session) *cobra.Command {
	var opts connectOptions
	cmd := &cobra.Command{
		Use:   "connect [OPTIONS] NETWORK CONTAINER",
		Short: "Connect a container to a network",
		Args:  argsBetween(2, 2),
		RunE: func(cmd *cobra.Command, args []string) error {
			opts.Network, opts.Container = args[0], args[1]
			return runConnectNetwork(cmd.Context(), s, opts)
		},
		DisableFlagsInUseLine: true,
	}
	flags := cmd.Flags()
	address(flags, &opts.ip, "ip", `IPv4 address (e.g., "172.30.100.104")`)
	address(flags, &opts.ip6, "ip6", `IPv6 address (e.g., "2001:db8::33")`)
	flags.Var(listFlag{values: &opts.links, kind: "list"}, "link", "Add link to another container")
	flags.StringSliceVar(&opts.aliases, "alias", nil, "Add network-scoped alias for the container")
	each(flags, "ipSlice", "link-local-ip", "", "Add a link-local address for the container", func(v string) error {
		a, err := netip.ParseAddr(v)
		opts.linkLocal = append(opts.linkLocal, a)
		return err
	})
	flags.StringSliceVar(&opts.driverOpts, "driver-opt", nil, "driver options for the network")
	flags.IntVar(&opts.priority, "gw-priority", 0, "Highest gw-priority provides the default gateway. Accepts positive and negative values.")
	return cmd
}

func runConnectNetwork(ctx context.Context, s *session, opts connectOptions) error {
	connect := opts.ConnectNetworkOptions
	connect.Endpoint = &network.EndpointSettings{Links: opts.links, Aliases: opts.aliases, DriverOpts: map[string]string{}, GwPriority: opts.priority}
	if opts.ip.IsValid() || opts.ip6.IsValid() || len(opts.linkLocal) > 0 {
		connect.Endpoint.IPAMConfig = &network.EndpointIPAMConfig{IPv4Address: opts.ip, IPv6Address: opts.ip6, LinkLocalIPs: opts.linkLocal}
	}
	for _, o := range opts.driverOpts {
		key, value, ok := strings.Cut(o, "=")
		if key = strings.TrimSpace(key); !ok || key == "" {
			return errors.New("invalid key/value pair format in driver options")
		}
		connect.Endpoint.DriverOpts[key] = strings.TrimSpace(value)
	}
	env, err := s.contained(ctx)
	if err != nil {
		return err
	}
	return fromEngine(engine.ConnectNetwork(ctx, env, connect))
}

func newDisconnectNetworkCommand(s *session) *cobra.Command {
	var opts engine.DisconnectNetworkOptions
	cmd := &cobra.Command{
		Use:   "disconnect [OPTIONS] NETWORK CONTAINER",
		Short: "Disconnect a container from a network",
		Args:  argsBetween(2, 2),
		RunE: func(cmd *cobra.Command, args []string) error {
			opts.Network, opts.Container = args[0], args[1]
			env, err := s.contained(cmd.Context())
			if err != nil {
				return err
			}
			return fromEngine(engine.DisconnectNetwork(cmd.Context(), env, opts))
		},
		DisableFlagsInUseLine: true,
	}
	cmd.Flags().BoolVarP(&opts.Force, "force", "f", false, "Force the container to disconnect from a network")
	return cmd
}
