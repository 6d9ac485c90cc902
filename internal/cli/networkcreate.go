package cli

import (
	"context"
	"errors"
	"fmt"
	"net/netip"

	"github.com/moby/moby/api/types/network"
	"github.com/spf13/cobra"

	"strake/internal/engine"
)

type createNetworkOptions struct {
	engine.CreateNetworkOptions
	options, labels, subnets, ranges, gateways []string
	aux, ipamOpts                              map[string]string
	ipamDriver, configFrom                     string
	ipv4, ipv6                                 bool
}

func newCreateNetworkCommand(s *session) *cobra.Command {
	var opts createNetworkOptions
	cmd := &cobra.Command{
		Use:   "create [OPTIONS] NETWORK",
		Short: "Create a network",
		Args:  argsBetween(1, 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			opts.Name = args[0]
			if cmd.Flags().Changed("ipv4") {
				opts.EnableIPv4 = &opts.ipv4
			}
			if cmd.Flags().Changed("ipv6") {
				opts.EnableIPv6 = &opts.ipv6
			}
			return runCreateNetwork(cmd.Context(), s, opts)
		},
		DisableFlagsInUseLine: true,
	}
	flags := cmd.Flags()
	flags.StringVarP(&opts.Driver, "driver", "d", "bridge", "Driver to manage the Network")
	flags.VarP(listFlag{values: &opts.options, kind: "map"}, "opt", "o", "Set driver specific options")
	flags.Var(listFlag{&opts.labels, "list", checkLabel}, "label", "Set metadata on a network")
	flags.BoolVar(&opts.Internal, "internal", false, "Restrict external access to the network")
	flags.BoolVar(&opts.ipv4, "ipv4", true, "Enable or disable IPv4 address assignment")
	flags.BoolVar(&opts.ipv6, "ipv6", false, "Enable or disable IPv6 address assignment")
	flags.BoolVar(&opts.Attachable, "attachable", false, "Enable manual container attachment")
	flags.BoolVar(&opts.Ingress, "ingress", false, "Create swarm routing-mesh network")
	flags.StringVar(&opts.Scope, "scope", "", "Control the network's scope")
	flags.BoolVar(&opts.ConfigOnly, "config-only", false, "Create a configuration only network")
	flags.StringVar(&opts.configFrom, "config-from", "", "The network from which to copy the configuration")
	flags.StringVar(&opts.ipamDriver, "ipam-driver", "default", "IP Address Management Driver")
	flags.StringSliceVar(&opts.subnets, "subnet", nil, "Subnet in CIDR format that represents a network segment")
	flags.StringSliceVar(&opts.ranges, "ip-range", nil, "Allocate container ip from a sub-range")
	flags.StringSliceVar(&opts.gateways, "gateway", nil, "IPv4 or IPv6 Gateway for the master subnet")
	pairs(flags, &opts.aux, "aux-address", "Auxiliary IPv4 or IPv6 addresses used by Network driver", nil)
	pairs(flags, &opts.ipamOpts, "ipam-opt", "Set IPAM driver specific options", nil)
	return cmd
}

func runCreateNetwork(ctx context.Context, s *session, opts createNetworkOptions) error {
	create := opts.CreateNetworkOptions
	create.Options, create.Labels = pairMap(opts.options), pairMap(opts.labels)
	if opts.configFrom != "" {
		create.ConfigFrom = &network.ConfigReference{Network: opts.configFrom}
	}
	config, err := opts.config()
	if err != nil {
		return err
	}
	create.IPAM = &network.IPAM{Driver: opts.ipamDriver, Config: config, Options: opts.ipamOpts}
	env, err := s.engine(ctx)
	if err != nil {
		return err
	}
	id, err := engine.CreateNetwork(ctx, env, create)
	if err != nil {
		return fromEngine(err)
	}
	_, err = fmt.Fprintln(s.Out, id)
	return err
}

// config puts ranges, gateways and other addresses to the subnets that they are of, as
// docker's client does.
func (o *createNetworkOptions) config() (list []network.IPAMConfig, err error) {
	if len(o.subnets) < len(o.ranges) || len(o.subnets) < len(o.gateways) {
		return nil, errors.New("every ip-range or gateway must have a corresponding subnet")
	}
	for _, text := range o.subnets {
		subnet, err := netip.ParsePrefix(text)
		if err != nil {
			return nil, fmt.Errorf("invalid subnet: invalid CIDR address: %s", text)
		}
		for _, c := range list {
			if c.Subnet.Overlaps(subnet) {
				return nil, errors.New("multiple overlapping subnet configuration is not supported")
			}
		}
		list = append(list, network.IPAMConfig{Subnet: subnet, AuxAddress: map[string]netip.Addr{}})
	}
	find := func(a netip.Addr) *network.IPAMConfig {
		for i := range list {
			if list[i].Subnet.Masked().Contains(a) {
				return &list[i]
			}
		}
		return nil
	}
	for _, text := range o.ranges {
		r, err := netip.ParsePrefix(text)
		if err != nil {
			return nil, fmt.Errorf("invalid CIDR address: %s", text)
		}
		c := find(r.Addr())
		switch {
		case c == nil:
			return nil, fmt.Errorf("no matching subnet for range %s", r)
		case c.IPRange.IsValid():
			return nil, fmt.Errorf("cannot configure multiple ranges (%s, %s) on the same subnet (%s)", r, c.IPRange, c.Subnet)
		}
		c.IPRange = r
	}
	for _, text := range o.gateways {
		g, err := netip.ParseAddr(text)
		if err != nil {
			return nil, fmt.Errorf("invalid string being converted to IP address: %s", text)
		}
		c := find(g)
		switch {
		case c == nil:
			return nil, fmt.Errorf("no matching subnet for gateway %s", g)
		case c.Gateway.IsValid():
			return nil, fmt.Errorf("cannot configure multiple gateways (%s, %s) for the same subnet (%s)", g, c.Gateway, c.Subnet)
		}
		c.Gateway = g
	}
	for name, text := range o.aux {
		a, err := netip.ParseAddr(text)
		if err != nil {
			return nil, err
		}
		c := find(a)
		if c == nil {
			return nil, fmt.Errorf("no matching subnet for aux-address %s", a)
		}
		c.AuxAddress[name] = a
	}
	return list, nil
}
