package cli

import (
	"cmp"
	"context"
	"fmt"
	"net"
	"slices"
	"strings"

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
	var lines []string
	if port == "" {
		for p, bindings := range c.NetworkSettings.Ports {
			for _, b := range bindings {
				lines = append(lines, fmt.Sprintf("%s -> %s", p, net.JoinHostPort(b.HostIP.String(), b.HostPort)))
			}
		}
	} else {
		p, err := network.ParsePort(port)
		if err != nil {
			return err
		}
		for _, b := range c.NetworkSettings.Ports[p] {
			lines = append(lines, net.JoinHostPort(b.HostIP.String(), b.HostPort))
		}
		if len(lines) == 0 {
			return fmt.Errorf("no public port '%s' published for %s", port, ref)
		}
	}
	slices.SortFunc(lines, compareNatural)
	for _, line := range lines {
		fmt.Fprintln(s.Out, line)
	}
	return nil
}

// compareNatural compares texts in which numbers come by their values: 80 before 443.
func compareNatural(a, b string) int {
	const digits = "0123456789"
	number := func(text string) string { return text[:len(text)-len(strings.TrimLeft(text, digits))] }
	for a != "" && b != "" {
		x, y := number(a), number(b)
		if x == "" || y == "" {
			if a[0] != b[0] {
				return cmp.Compare(a[0], b[0])
			}
			a, b = a[1:], b[1:]
			continue
		}
		m, n := strings.TrimLeft(x, "0"), strings.TrimLeft(y, "0")
		if c := cmp.Or(cmp.Compare(len(m), len(n)), cmp.Compare(m, n)); c != 0 {
			return c
		}
		a, b = a[len(x):], b[len(y):]
	}
	return cmp.Compare(len(a), len(b))
}
