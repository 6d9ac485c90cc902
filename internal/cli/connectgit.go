package cli

import (
	"github.com/spf13/cobra"

	"strake/internal/engine"
)

// newConnectGitCommand makes the command that git and ssh run in builds; nobody types it.
func newConnectGitCommand(s *session) *cobra.Command {
	return &cobra.Command{
		Use:    engine.ConnectGitCommand + " HOST PORT",
		Short:  "Connect git to a server",
		Hidden: true,
		Args:   argsBetween(2, 2),
		RunE: func(cmd *cobra.Command, args []string) error {
			return engine.ConnectGit(cmd.Context(), engine.ConnectGitOptions{Host: args[0], Port: args[1], In: s.In, Out: s.Out})
		},
		DisableFlagsInUseLine: true,
	}
}
