package cli

import (
	"context"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"

	"strake/internal/engine"
)

// newMonitorCommand makes the command that starts of containers run; nobody types it.
func newMonitorCommand(s *session) *cobra.Command {
	return &cobra.Command{
		Use:    engine.MonitorCommand,
		Short:  "Look after a container",
		Hidden: true,
		Args:   argsBetween(0, 0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			return runMonitor(cmd.Context(), s)
		},
		DisableFlagsInUseLine: true,
	}
}

func runMonitor(ctx context.Context, s *session) error {
	signal.Ignore(syscall.SIGHUP, syscall.SIGINT, syscall.SIGPIPE)
	env, err := s.open(ctx, engine.OpenOptions{})
	if err != nil {
		return err
	}
	return engine.Monitor(ctx, env)
}
