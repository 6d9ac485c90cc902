package cli

import (
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"strake/internal/engine"
)

// newRootCommand makes what of the tree the command line args needs.
func newRootCommand(s *session, args []string) *cobra.Command {
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
	root.SetArgs(args)
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
	flags.StringVarP(&s.global.context, "context", "c", "", `Name of the context: there is "default", this machine`)
	flags.BoolVarP(&s.debug, "debug", "D", false, "Enable debug mode")
	flags.StringVarP(&s.global.host, "host", "H", "", "Socket of a daemon: any of this machine stands for the store, an address elsewhere is refused")
	flags.StringVarP(&s.global.logLevel, "log-level", "l", "", `Set the logging level ("debug", "info", "warn", "error", "fatal"; default warn)`)
	root.PersistentPreRunE = func(*cobra.Command, []string) (err error) {
		s.level, err = s.global.check(s.debug)
		return err
	}

	grow(s, root, commands(s), args)
	return root
}

// A node is a command of the tree. What a command line does not name is not
// made: all of them together cost a short command a tenth of its time.
type node struct {
	names string               // the name, and its aliases
	about string               // of a group
	flags func(*pflag.FlagSet) // of all commands of a group; nil: none
	make  func(*session) *cobra.Command
	subs  []node
}

// ownCommands are what Strake starts itself.
func ownCommands() []node {
	return []node{
		{names: engine.MonitorCommand, make: newMonitorCommand},
		{names: engine.KeeperCommand, make: newKeeperCommand},
		{names: engine.ConnectGitCommand, make: newConnectGitCommand},
	}
}

func commands(s *session) []node {
	build := node{names: "build", make: newBuildCommand}
	copying := node{names: "copy", make: newCopyCommand}
	events := node{names: "events", make: newEventsCommand}
	history := node{names: "history", make: newHistoryCommand}
	importing := node{names: "import", make: newImportCommand}
	info := node{names: "info", make: newInfoCommand}
	layers := node{names: "layers", make: newLayersCommand}
	load := node{names: "load", make: newLoadCommand}
	pull := node{names: "pull", make: newPullCommand}
	push := node{names: "push", make: newPushCommand}
	save := node{names: "save", make: newSaveCommand}
	scan := node{names: "scan", make: newScanCommand}
	tag := node{names: "tag", make: newTagCommand}
	tags := node{names: "tags", make: newTagsCommand}
	index := []node{
		{names: "create", make: newCreateIndexCommand},
		{names: "inspect", make: newInspectIndexCommand},
	}
	builder := builders(build, index)
	ofBuildx := func(flags *pflag.FlagSet) {
		ignored(flags, "builder") // there is one
		flags.BoolVarP(&s.debug, "debug", "D", s.debug, "Enable debug logging")
	}
	return slices.Concat(containerCommands(), ownCommands(), []node{
		{names: build.names, make: build.make, subs: []node{buildHistory()}},
		copying, events, history, importing, info, layers, load, pull, push, save, scan, tag, tags,
		{names: "bake", make: newBakeCommand},
		{names: "doctor", make: newDoctorCommand},
		{names: "images", make: newImagesCommand},
		{names: "inspect", make: newInspectCommand},
		{names: "login", make: newLoginCommand},
		{names: "logout", make: newLogoutCommand},
		{names: "ps", make: newPsCommand},
		{names: "rm", make: newRemoveContainerCommand},
		{names: "rmi", make: newRemoveCommand},
		{names: "search", make: newSearchCommand},
		{names: "undo", make: newUndoCommand},
		{names: "version", make: newVersionCommand},
		{names: "manifest", make: newManifestCommand},
		{names: "image", about: "Manage images", subs: []node{
			build, copying, history, importing, layers, load, pull, push, save, scan, tag, tags,
			{names: "browse", make: newBrowseCommand},
			{names: "cat", make: newCatCommand},
			{names: "cp", make: newImageCopyCommand},
			{names: "diff", make: newImageDiffCommand},
			{names: "grep", make: newImageGrepCommand},
			{names: "index imagetools", about: "Manage multi-platform images in registries", subs: index},
			{names: "inspect", make: newImageInspectCommand},
			{names: "ls list", make: newImagesCommand},
			{names: "ls-files", make: newListFilesCommand},
			{names: "pin", make: newPinCommand},
			{names: "prune", make: newImagePruneCommand},
			{names: "rm rmi remove", make: newRemoveCommand},
			{names: "unpin", make: newUnpinCommand},
		}},
		{names: "builder", about: "Manage builds", flags: ofBuildx, subs: builder},
		{names: "buildx", about: "Docker's buildx commands that Strake has", flags: ofBuildx, subs: builder},
		{names: "container", about: "Manage containers", subs: append(containerCommands(),
			node{names: "inspect", make: newContainerInspectCommand},
			node{names: "ls ps list", make: newPsCommand},
			node{names: "prune", make: newContainerPruneCommand},
			node{names: "rm remove", make: newRemoveContainerCommand},
		)},
		contextNode(),
		networkNode(),
		{names: "store", about: "Look after the image store", subs: []node{
			{names: "check", make: newStoreCheckCommand},
			{names: "inventory", make: newStoreInventoryCommand},
		}},
		volumeCommands(),
		{names: "system", about: "Manage Strake", subs: []node{
			events, info,
			{names: "df", make: newDiskUsageCommand},
			{names: "install-unit", make: newInstallUnitCommand},
			{names: "prune", make: newSystemPruneCommand},
			{names: "start-containers", make: newSystemStartCommand},
		}},
	})
}

// containerCommands are those that are commands of their own and of container.
func containerCommands() []node {
	return append(containerFileCommands(), []node{
		{names: "attach", make: newAttachCommand},
		{names: "create", make: newCreateCommand},
		{names: "exec", make: newExecCommand},
		{names: "kill", make: newKillCommand},
		{names: "logs", make: newLogsCommand},
		{names: "pause", make: newPauseCommand},
		{names: "port", make: newPortCommand},
		{names: "rename", make: newRenameCommand},
		{names: "restart", make: newRestartCommand},
		{names: "run", make: newRunCommand},
		{names: "start", make: newStartCommand},
		{names: "stats", make: newStatsCommand},
		{names: "stop", make: newStopCommand},
		{names: "top", make: newTopCommand},
		{names: "unpause", make: newUnpauseCommand},
		{names: "update", make: newUpdateCommand},
		{names: "wait", make: newWaitCommand},
	}...)
}

// builders are the commands of docker's builder and buildx.
func builders(build node, index []node) []node {
	return []node{
		build, buildHistory(),
		{names: "bake f", make: newBakeCommand},
		{names: "create", make: newCreateBuilderCommand},
		{names: "du", make: newBuilderUsageCommand},
		{names: "imagetools", about: "Commands to work on images in registry", subs: index},
		{names: "inspect", make: newInspectBuilderCommand},
		{names: "ls", make: newListBuildersCommand},
		{names: "policy", about: "Commands for working with build policies", subs: []node{
			{names: "eval", make: newPolicyEvalCommand},
			{names: "test", make: newPolicyTestCommand},
		}},
		{names: "prune", make: newBuilderPruneCommand},
		{names: "rm", make: newRemoveBuilderCommand},
		{names: "stop", make: newStopBuilderCommand},
		{names: "use", make: newUseBuilderCommand},
		{names: "version", make: newBuilderVersionCommand},
	}
}

func buildHistory() node {
	return node{names: "history", about: "Commands to work on build records", subs: []node{
		{names: "inspect", make: newInspectBuildCommand},
		{names: "logs", make: newBuildLogsCommand},
		{names: "ls", make: newListBuildsCommand},
		{names: "rm", make: newRemoveBuildsCommand},
	}}
}

// grow adds to cmd the one of nodes that args, cmd's command line, names, or
// all of them where it names none: for help, completion and what is not known.
func grow(s *session, cmd *cobra.Command, nodes []node, args []string) {
	args = skipFlags(cmd.Flags(), args)
	if len(args) > 0 {
		named := func(n node) bool { return slices.Contains(strings.Fields(n.names), args[0]) }
		if i := slices.IndexFunc(nodes, named); i >= 0 {
			nodes, args = nodes[i:i+1], args[1:]
		} else {
			args = nil
		}
	}
	for _, n := range nodes {
		names := strings.Fields(n.names)
		if n.make == nil {
			sub := group(names[0], n.about)
			sub.Aliases = names[1:]
			if n.flags != nil {
				n.flags(sub.PersistentFlags())
				sub.Flags().AddFlagSet(sub.PersistentFlags())
			}
			grow(s, sub, n.subs, args)
			cmd.AddCommand(sub)
			continue
		}
		sub := n.make(s)
		sub.Use = names[0] + sub.Use[len(sub.Name()):]
		sub.Aliases = names[1:]
		grow(s, sub, n.subs, args)
		cmd.AddCommand(sub)
	}
}

// skipFlags returns args from the first that is neither a flag nor the value of
// one; nothing after a flag that flags has not.
func skipFlags(flags *pflag.FlagSet, args []string) []string {
	for len(args) > 0 && strings.HasPrefix(args[0], "-") {
		name, _, hasValue := strings.Cut(args[0], "=")
		flag := flags.Lookup(strings.TrimPrefix(name, "--"))
		if len(name) == len("-D") && flag == nil {
			flag = flags.ShorthandLookup(name[1:])
		}
		if flag == nil {
			return nil
		}
		args = args[1:]
		if flag.NoOptDefVal == "" && !hasValue && len(args) > 0 {
			args = args[1:]
		}
	}
	return args
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
