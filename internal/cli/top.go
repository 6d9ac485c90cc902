package cli

import (
	"context"
	"fmt"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"strake/internal/engine"
)

func newTopCommand(s *session) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "top CONTAINER [ps OPTIONS]",
		Short: "Display the running processes of a container",
		Args:  argsBetween(1, -1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return runTop(cmd.Context(), s, args[0], args[1:])
		},
		Annotations:           map[string]string{aliasesKey: "strake container top, strake top"},
		DisableFlagsInUseLine: true,
	}
	cmd.Flags().SetInterspersed(false)
	return cmd
}

func runTop(ctx context.Context, s *session, ref string, args []string) error {
	env, err := s.engine(ctx)
	if err != nil {
		return err
	}
	list, err := engine.TopContainer(ctx, env, ref, args)
	if err != nil {
		return fromEngine(err)
	}
	w := tabwriter.NewWriter(forTerminal(s.Out), 20, 1, 3, ' ', 0)
	fmt.Fprintln(w, strings.Join(list.Titles, "\t"))
	for _, p := range list.Processes {
		fmt.Fprintln(w, strings.Join(p, "\t"))
	}
	return w.Flush()
}
