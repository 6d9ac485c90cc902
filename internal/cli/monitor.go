package cli

import (
	"context"
	"errors"
	"os"
	"os/signal"
	"runtime/debug"
	"syscall"

	"github.com/spf13/cobra"

	"strake/internal/engine"
	"strake/internal/userns"
)

// newKeeperCommand makes the command that keeps the networks of an ordinary user; nobody types it.
func newKeeperCommand(s *session) *cobra.Command {
	return &cobra.Command{
		Use:    engine.KeeperCommand,
		Short:  "Keep the networks of containers",
		Hidden: true,
		Args:   argsBetween(0, 0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			standAlone()
			return engine.KeepNetworks(cmd.Context(), s.root)
		},
		DisableFlagsInUseLine: true,
	}
}

// standAlone makes the process go on without who started it, for long: in little memory.
func standAlone() {
	debug.SetGCPercent(100)
	signal.Ignore(syscall.SIGHUP, syscall.SIGINT)
	signal.Notify(make(chan os.Signal, 1), syscall.SIGPIPE) // not ignored: programs that it starts would inherit that, and pasta then fails
}

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

func runMonitor(ctx context.Context, s *session) (err error) {
	standAlone()
	leave, err := userns.Stay(ctx, engine.NamespaceDir(s.root))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, leave()) }()
	env, err := s.open(ctx, engine.OpenOptions{})
	if err != nil {
		return err
	}
	return engine.Monitor(ctx, env)
}
