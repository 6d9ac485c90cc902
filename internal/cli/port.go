package cli

import (
	"context"
	"fmt"
	"net"
	"slices"

	"github.com/moby/moby/api/types/network"
	"github.com/spf13/cobra"

	"strake/internal/engine"
)

func newPortCommand(s *session) *cobra.Command {
	return &cobra.Command{
		Use:   "port CONTAINER [PRIVATE_PORT[/PROTO]]",
		Short: "List port mappings or a specific mapping for the container",
		Args:  argsBetween(1, 2),
		RunE: func(cmd *cobra.Command, args []string) error {
			port := ""
			if len(args) > 1 {
				port = args[1]
			}
			return runPort(cmd.Context(), s, args[0], port)
		},
		Annotations:           map[string]string{aliasesKey: "strake container port, strake port"},
		DisableFlagsInUseLine: true,
	}
}

func runPort(ctx context.Context, s *session, ref, port string) error {
	env, err := s.engine(ctx)
	if err != nil {
		return err
	}
	c, err := engine.InspectContainer(ctx, env, ref, false)
	if err != nil {
		return fromEngine(err)
	}
	ports := c.NetworkSettings.Ports
	if port == "" {
		var lines []string
		for p, bindings := range ports {
			for _, b := range bindings {
				lines = append(lines, fmt.Sprintf("%s -> %s", p, net.JoinHostPort(b.HostIP.String(), b.HostPort)))
			}
		}
		slices.Sort(lines) // docker sorts them as a person would; equal for ports of one length
		for _, line := range lines {
			fmt.Fprintln(s.Out, line)
		}
		return nil
	}
	p, err := network.ParsePort(port)
	if err != nil {
		return err
	}
	bindings := ports[p]
	if len(bindings) == 0 {
		return fmt.Errorf("no public port '%s' published for %s", p, ref)
	}
	for _, b := range bindings {
		fmt.Fprintln(s.Out, net.JoinHostPort(b.HostIP.String(), b.HostPort))
	}
	return nil
}
