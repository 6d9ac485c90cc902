package cli

import (
	"github.com/spf13/cobra"

	"strake/internal/engine"
)

const inventoryAbout = `List what the store has: the digests of its blobs and layers, one a line.

On another machine, save --not-in leaves out the layers that the list names, and
load here takes them from this store.`

func newStoreInventoryCommand(s *session) *cobra.Command {
	return &cobra.Command{
		Use:   "inventory",
		Short: "List the digests of what the store has",
		Long:  inventoryAbout,
		Args:  argsBetween(0, 0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			env, err := s.engine(cmd.Context())
			if err != nil {
				return err
			}
			return fromEngine(engine.WriteInventory(cmd.Context(), env, s.Out))
		},
		DisableFlagsInUseLine: true,
	}
}
