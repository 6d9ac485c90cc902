package cli

import (
	"fmt"
	"strings"

	"github.com/spf13/cobra"
)

// Annotations that the help reads, as docker's does.
const (
	aliasesKey = "aliases"      // all names of a command, written out
	topKey     = "category-top" // the command's rank among the common ones
)

// setHelp gives the tree docker's help. It is a function, not a template:
// cobra's templates would keep every method of every type in the binary.
func setHelp(root *cobra.Command) {
	root.SetUsageFunc(func(cmd *cobra.Command) error {
		_, err := fmt.Fprint(cmd.OutOrStderr(), usage(cmd))
		return err
	})
	root.SetHelpFunc(func(cmd *cobra.Command, _ []string) {
		fmt.Fprint(cmd.OutOrStdout(), usage(cmd))
	})
	root.PersistentFlags().BoolP("help", "h", false, "Print usage")
	help := root.PersistentFlags().Lookup("help")
	help.Hidden = true
	help.ShorthandDeprecated = "use --help"
}

func newHelpCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "help [command]",
		Short: "Help about the command",
		RunE: func(cmd *cobra.Command, args []string) error {
			topic, rest, err := cmd.Root().Find(args)
			if topic == nil || err != nil || len(rest) > 0 {
				return fmt.Errorf("unknown help topic: %s", strings.Join(args, " "))
			}
			_, err = fmt.Fprint(cmd.OutOrStdout(), usage(topic))
			return err
		},
	}
}

// isGroup reports whether a command does nothing but what its subcommands do.
func isGroup(cmd *cobra.Command) bool {
	return cmd.HasSubCommands() && (!cmd.HasParent() || cmd.Use == cmd.Name())
}

// usage is a command's help.
func usage(cmd *cobra.Command) string {
	var b strings.Builder
	if isGroup(cmd) {
		options := ""
		if cmd.HasAvailableFlags() {
			options = " [OPTIONS]"
		}
		fmt.Fprintf(&b, "Usage:  %s%s COMMAND\n", cmd.CommandPath(), options)
	} else {
		fmt.Fprintf(&b, "Usage:  %s\n", cmd.UseLine())
	}
	about := cmd.Long
	if about == "" {
		about = cmd.Short
	}
	fmt.Fprintf(&b, "\n%s\n", strings.TrimSpace(about))
	if names := aliases(cmd); names != "" {
		fmt.Fprintf(&b, "\nAliases:\n  %s\n", names)
	}
	if cmd.HasParent() {
		writeFlags(&b, cmd, "Options")
	}
	writeCommands(&b, cmd)
	if !cmd.HasParent() {
		writeFlags(&b, cmd, "Global Options")
	}
	if isGroup(cmd) {
		fmt.Fprintf(&b, "\nRun '%s COMMAND --help' for more information on a command.\n", cmd.CommandPath())
	}
	if !cmd.HasParent() {
		b.WriteString("\n" + exitCodesHelp)
	}
	return b.String()
}

func aliases(cmd *cobra.Command) string {
	if names := cmd.Annotations[aliasesKey]; names != "" {
		return names
	}
	if len(cmd.Aliases) == 0 {
		return ""
	}
	names := []string{cmd.CommandPath()}
	for _, alias := range cmd.Aliases {
		names = append(names, cmd.Parent().CommandPath()+" "+alias)
	}
	return strings.Join(names, ", ")
}

func writeFlags(b *strings.Builder, cmd *cobra.Command, title string) {
	if !cmd.HasAvailableFlags() {
		return
	}
	width := terminalWidth(cmd.InOrStdin(), 80)
	fmt.Fprintf(b, "\n%s:\n%s\n", title, strings.TrimRight(cmd.Flags().FlagUsagesWrapped(width-1), " \n"))
}

// writeCommands lists the subcommands: the common ones in their order (at the
// root), those that only have subcommands, and the others.
func writeCommands(b *strings.Builder, cmd *cobra.Command) {
	var top, groups, others []*cobra.Command
	for _, sub := range cmd.Commands() {
		switch {
		case !sub.IsAvailableCommand():
		case isGroup(sub):
			groups = append(groups, sub)
		case sub.Annotations[topKey] != "" && !cmd.HasParent():
			top = append(top, sub)
		default:
			others = append(others, sub)
		}
	}
	sortByRank(top)
	write := func(title string, list []*cobra.Command) {
		if len(list) == 0 {
			return
		}
		fmt.Fprintf(b, "\n%s:\n", title)
		for _, sub := range list {
			fmt.Fprintf(b, "  %-*s %s\n", sub.NamePadding(), sub.Name(), sub.Short)
		}
	}
	write("Common Commands", top)
	write("Management Commands", groups)
	write("Commands", others)
}
