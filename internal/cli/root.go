package cli

import (
	"slices"
	"strconv"

	"github.com/spf13/cobra"
)

// newRootCommand makes the whole tree.
func newRootCommand(s *session) *cobra.Command {
	root := &cobra.Command{
		Use:                   "strake [OPTIONS] COMMAND [ARG...]",
		Short:                 "Container images without a daemon",
		SilenceUsage:          true,
		SilenceErrors:         true,
		TraverseChildren:      true,
		DisableFlagsInUseLine: true,
		Args:                  cobra.ArbitraryArgs,
		RunE:                  unknownCommand,
		Version:               version(),
		CompletionOptions:     cobra.CompletionOptions{HiddenDefaultCmd: true},
	}
	root.SetIn(s.In)
	root.SetOut(s.Out)
	root.SetErr(s.Err)
	root.SetFlagErrorFunc(flagError)
	root.SetHelpCommand(newHelpCommand())
	setHelp(root)

	flags := root.Flags()
	flags.BoolP("version", "v", false, "Print version information and quit")
	flags.StringVar(&s.root, "root", "", "Directory of the image store (default $STRAKE_ROOT, else /var/lib/strake,\nwithout root $XDG_DATA_HOME/strake)")
	flags.StringVar(&s.config, "config", "", "Location of client config files (default $DOCKER_CONFIG, else ~/.docker)")
	flags.BoolVarP(&s.debug, "debug", "D", false, "Enable debug mode")

	root.AddCommand(
		newRunCommand(s), newBuildCommand(s), newPullCommand(s), newPushCommand(s), newImagesCommand(s),
		newLoginCommand(s), newLogoutCommand(s), newVersionCommand(s), newInfoCommand(s),
		newHistoryCommand(s), newImportCommand(s), newInspectCommand(s), newLayersCommand(s), newLoadCommand(s),
		newRemoveCommand(s), newSaveCommand(s), newTagCommand(s), newTagsCommand(s), newCopyCommand(s), newSearchCommand(s),
		group("image", "Manage images",
			newBrowseCommand(s), newCatCommand(s), newImageCopyCommand(s), newImageDiffCommand(s), newImageGrepCommand(s), newLayersCommand(s), newListFilesCommand(s),
			newBuildCommand(s), newHistoryCommand(s), newImportCommand(s), newImageInspectCommand(s),
			newLoadCommand(s), renamed(newImagesCommand(s), "ls", "list"), newPullCommand(s), newPushCommand(s),
			renamed(newRemoveCommand(s), "rm", "rmi", "remove"), newSaveCommand(s), newTagCommand(s),
			newTagsCommand(s), newCopyCommand(s),
			group("index", "Manage multi-platform images in registries", newCreateIndexCommand(s), newInspectIndexCommand(s))),
		group("builder", "Manage builds", newBuildCommand(s)),
		group("container", "Manage containers", newRunCommand(s)),
		newManifestCommand(s),
		group("buildx", "Docker's buildx commands that Strake has", newBuildCommand(s),
			group("imagetools", "Commands to work on images in registry", newCreateIndexCommand(s), newInspectIndexCommand(s))),
		group("store", "Look after the image store", newStoreCheckCommand(s), newStoreInventoryCommand(s)),
		group("system", "Manage Strake", newEventsCommand(s), newInfoCommand(s)),
	)
	root.AddCommand(newUndoCommand(s), newEventsCommand(s))
	addTo(root, "image", newImagePruneCommand(s), newPinCommand(s), newUnpinCommand(s))
	addTo(root, "builder", newBuilderPruneCommand(s))
	addTo(root, "system", newSystemPruneCommand(s), newDiskUsageCommand(s))
	return root
}

// group makes a command that only has subcommands.
func group(name, about string, subs ...*cobra.Command) *cobra.Command {
	cmd := &cobra.Command{
		Use:                   name,
		Short:                 about,
		Args:                  cobra.ArbitraryArgs,
		RunE:                  unknownCommand,
		DisableFlagsInUseLine: true,
	}
	cmd.AddCommand(subs...)
	return cmd
}

// addTo adds commands to a group.
func addTo(root *cobra.Command, group string, cmds ...*cobra.Command) {
	for _, cmd := range root.Commands() {
		if cmd.Name() == group {
			cmd.AddCommand(cmds...)
		}
	}
}

// renamed gives a command the names that it has in a group.
func renamed(cmd *cobra.Command, name string, more ...string) *cobra.Command {
	cmd.Use = name + cmd.Use[len(cmd.Name()):]
	cmd.Aliases = more
	return cmd
}

func sortByRank(cmds []*cobra.Command) {
	rank := func(cmd *cobra.Command) int {
		n, err := strconv.Atoi(cmd.Annotations[topKey])
		if err != nil {
			return len(cmds)
		}
		return n
	}
	slices.SortStableFunc(cmds, func(a, b *cobra.Command) int { return rank(a) - rank(b) })
}
