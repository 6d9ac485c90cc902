// Command strake-hub serves image repositories over the OCI distribution API,
// with accounts, and looks after them.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"syscall"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	code := run(ctx, os.Args[1:], streams{os.Stdin, os.Stdout, os.Stderr})
	stop()
	os.Exit(code)
}

// streams are those of the process.
type streams struct {
	in       io.Reader
	out, err io.Writer
}

// command is a command, or a group of them.
type command struct {
	name, args, summary string
	children            []command
	// prepare defines the flags and returns what runs once they are parsed.
	prepare func(f *flag.FlagSet) action
	notes   string // after the options
}

// action runs a command with its arguments.
type action func(ctx context.Context, s streams, args []string) error

// exitCodes ends the help of the program and of serve.
const exitCodes = "Exit codes: 0 after SIGTERM or SIGINT, 1 on failure, 2 on wrong usage.\n"

// program is the tree of commands.
func program() command {
	return command{name: "strake-hub", summary: "Serve image repositories over the OCI distribution API", notes: exitCodes, children: []command{
		{name: "backup", args: "DIR", summary: "Copy a Hub that serves to a directory, or renew the copy", prepare: prepareBackup, notes: backupNotes},
		{name: "gc", summary: "Remove blobs that nothing needs, while the Hub serves", prepare: prepareGC, notes: gcNotes},
		{name: "init", summary: "Make the first administrator and the certificate of a Hub", prepare: prepareInit},
		{name: "restore", args: "DIR", summary: "Make a Hub of a backup, in an empty --data", prepare: prepareRestore, notes: backupNotes},
		{name: "serve", summary: "Serve image repositories over the OCI distribution API", prepare: prepareServe, notes: exitCodes},
		{name: "token", summary: "Manage personal and robot tokens", children: tokenCommands()},
		{name: "trust", summary: "Show the command that makes a client trust this Hub", prepare: prepareTrust},
		{name: "user", summary: "Manage users", children: userCommands()},
		{name: "vulnerabilities", summary: "Read vulnerability data, and match the images again that it is about", prepare: prepareVulnerabilities},
	}}
}

// usageError is the fault of who typed the command.
type usageError struct{ error }

// run is the program until ctx ends; it returns the exit code.
func run(ctx context.Context, args []string, s streams) int {
	cmd, path := program(), "strake-hub"
	for len(cmd.children) > 0 {
		if len(args) == 0 || args[0] == "help" || args[0] == "--help" || args[0] == "-h" {
			fmt.Fprint(s.out, cmd.help(path, nil))
			return 0
		}
		child, ok := cmd.child(args[0])
		if !ok {
			return report(s, path, usageError{fmt.Errorf("unknown command: %s", args[0])})
		}
		cmd, path, args = child, path+" "+child.name, args[1:]
	}
	flags := flag.NewFlagSet(path, flag.ContinueOnError)
	flags.SetOutput(io.Discard)
	do := cmd.prepare(flags)
	args, err := parse(flags, args)
	switch {
	case errors.Is(err, flag.ErrHelp):
		fmt.Fprint(s.out, cmd.help(path, flags))
		return 0
	case err != nil:
		err = usageError{errors.New(strings.ReplaceAll(err.Error(), ": -", ": --"))}
	case len(args) != len(strings.Fields(cmd.args)):
		err = usageError{fmt.Errorf("%q accepts %s, got %q", cmd.name, count(cmd.args), args)}
	default:
		err = do(ctx, s, args)
	}
	return report(s, path, err)
}

// parse parses flags before, between and after the arguments, and returns those.
func parse(flags *flag.FlagSet, args []string) (rest []string, err error) {
	for {
		if err := flags.Parse(args); err != nil {
			return nil, err
		}
		if args = flags.Args(); len(args) == 0 {
			return rest, nil
		}
		rest, args = append(rest, args[0]), args[1:]
	}
}

func count(args string) string {
	if args == "" {
		return "no arguments"
	}
	return args
}

// report tells of an error and returns the exit code.
func report(s streams, path string, err error) int {
	if err == nil {
		return 0
	}
	if usage, ok := errors.AsType[usageError](err); ok {
		fmt.Fprintf(s.err, "strake-hub: %v\n\nRun '%s --help' for more information\n", usage, path)
		return 2
	}
	fmt.Fprintf(s.err, "strake-hub: %v\n", err)
	return 1
}

func (c command) child(name string) (command, bool) {
	for _, child := range c.children {
		if child.name == name {
			return child, true
		}
	}
	return command{}, false
}

// help is what --help prints.
func (c command) help(path string, flags *flag.FlagSet) string {
	var b strings.Builder
	if len(c.children) > 0 {
		fmt.Fprintf(&b, "Usage:  %s COMMAND\n\n%s\n\nCommands:\n", path, c.summary)
		for _, child := range c.children {
			fmt.Fprintf(&b, "  %-16s %s\n", child.name, child.summary)
		}
		fmt.Fprintf(&b, "\nRun '%s COMMAND --help' for more information on a command.\n", path)
	} else {
		args := ""
		if c.args != "" {
			args = " " + c.args
		}
		fmt.Fprintf(&b, "Usage:  %s [OPTIONS]%s\n\n%s\n\nOptions:\n", path, args, c.summary)
		flags.VisitAll(func(f *flag.Flag) {
			kind, text := flag.UnquoteUsage(f)
			if f.DefValue != "" && f.DefValue != "false" && f.DefValue != "0s" {
				text += fmt.Sprintf(" (default %q)", f.DefValue)
			}
			fmt.Fprintf(&b, "      %-24s %s\n", strings.TrimSpace("--"+f.Name+" "+kind), text)
		})
	}
	if c.notes != "" {
		b.WriteString("\n" + c.notes)
	}
	return b.String()
}

// list is a flag that may be given several times.
type list []string

// String implements flag.Value.
func (l *list) String() string { return strings.Join(*l, ",") }

// Set implements flag.Value.
func (l *list) Set(s string) error {
	*l = append(*l, s)
	return nil
}
