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
		Use:    engine.MonitorCommand + " ID",
		Short:  "Look after a container",
		Hidden: true,
		Args:   argsBetween(1, 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return runMonitor(cmd.Context(), s, args[0])
		},
		DisableFlagsInUseLine: true,
	}
}

func runMonitor(ctx context.Context, s *session, id string) error {
	signal.Ignore(syscall.SIGHUP, syscall.SIGINT, syscall.SIGPIPE)
	env, err := s.open(ctx, engine.OpenOptions{})
	if err != nil {
		return err
	}
	return engine.Monitor(ctx, env, engine.MonitorOptions{ID: id})
}
