package cli

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"regexp"
	"strconv"
	"strings"

	"github.com/spf13/cobra"
)

// theContext is the name of the context that there is: this machine, which no socket leads to.
const theContext = "default"

// contextName is what docker takes for one.
const contextName = `^[a-zA-Z0-9][a-zA-Z0-9_.+-]+$`

// global are the flags that say which machine is meant, and how much is told.
type global struct{ context, host, logLevel string }

// check fails for a context or an address that is not this machine, and for a level that is none. It returns the level of messages.
func (g *global) check(debug bool) (level slog.Level, err error) {
	level = slog.LevelWarn
	switch g.logLevel {
	case "":
	case "fatal", "panic":
		level = slog.LevelError + 4
	case "warning":
	default:
		if err := level.UnmarshalText([]byte(g.logLevel)); err != nil {
			return level, fmt.Errorf("Unable to parse logging level: %s", g.logLevel) //nolint:staticcheck // docker's words
		}
	}
	if debug {
		level = slog.LevelDebug
	}
	if g.host != "" && !strings.HasPrefix(g.host, "unix://") && !strings.HasPrefix(g.host, "/") {
		return level, fmt.Errorf("-H %s: there is no daemon elsewhere: run strake on that machine", g.host)
	}
	if g.context != "" {
		return level, findContext(g.context)
	}
	return level, nil
}

// findContext fails for a name that is not the context's.
func findContext(name string) error {
	if name == theContext {
		return nil
	}
	if ok, err := regexp.MatchString(contextName, name); err != nil || !ok {
		return fmt.Errorf("context name %q is invalid, names are validated against regexp %q", name, contextName)
	}
	return fmt.Errorf("context %q: context not found: there is %q, this machine", name, theContext)
}

func contextNode() node {
	return node{names: "context", about: "Manage contexts", subs: []node{
		{names: "inspect", make: newInspectContextCommand},
		{names: "ls list", make: newListContextsCommand},
		{names: "show", make: newShowContextCommand},
		{names: "use", make: newUseContextCommand},
	}}
}

// contextRow is a context as the list has it.
type contextRow struct{ name, description string }

func newListContextsCommand(s *session) *cobra.Command {
	var format string
	var quiet bool
	cmd := &cobra.Command{
		Use:   "ls [OPTIONS]",
		Short: "List contexts",
		Args:  argsBetween(0, 0),
		RunE: func(*cobra.Command, []string) error {
			return runListContexts(s.Out, format, quiet)
		},
		DisableFlagsInUseLine: true,
	}
	cmd.Flags().StringVar(&format, "format", "", listFormatHelp)
	cmd.Flags().BoolVarP(&quiet, "quiet", "q", false, "Only show context names")
	return cmd
}

func runListContexts(out io.Writer, format string, quiet bool) error {
	row := contextRow{theContext, "This machine, without a daemon"}
	if format == "" && quiet {
		format = "{{.Name}}"
	} else if format == "" || strings.HasPrefix(format, "table") {
		row.name += " *"
	}
	none := func(contextRow) string { return "" }
	return listing[contextRow]{
		columns: []string{"Name", "Description", "DockerEndpoint", "Error"},
		fields: []field[contextRow]{
			{"Name", "NAME", func(r contextRow) string { return r.name }},
			{"Description", "DESCRIPTION", func(r contextRow) string { return r.description }},
			{"DockerEndpoint", "DOCKER ENDPOINT", none},
			{"Current", "", func(contextRow) string { return strconv.FormatBool(true) }},
			{"Error", "ERROR", none},
		},
		typed: map[string]func(contextRow) any{"Current": func(contextRow) any { return true }},
	}.write(out, format, []contextRow{row})
}

func newShowContextCommand(s *session) *cobra.Command {
	return &cobra.Command{
		Use:   "show",
		Short: "Print the name of the current context",
		Args:  argsBetween(0, 0),
		RunE: func(*cobra.Command, []string) error {
			_, err := fmt.Fprintln(s.Out, theContext)
			return err
		},
		DisableFlagsInUseLine: true,
	}
}

func newUseContextCommand(s *session) *cobra.Command {
	return &cobra.Command{
		Use:   "use CONTEXT",
		Short: "Set the current docker context",
		Args:  argsBetween(1, 1),
		RunE: func(_ *cobra.Command, args []string) error {
			if err := findContext(args[0]); err != nil {
				return err
			}
			_, err := fmt.Fprintln(s.Out, args[0])
			fmt.Fprintf(s.Err, "Current context is now %q\n", args[0])
			return err
		},
		DisableFlagsInUseLine: true,
	}
}

// contextInspect is what inspect shows, in docker's form.
type contextInspect struct {
	Name      string
	Metadata  struct{}
	Endpoints map[string]contextEndpoint

	TLSMaterial struct{}
	Storage     struct{ MetadataPath, TLSPath string }
}

type contextEndpoint struct {
	Host          string
	SkipTLSVerify bool
}

func newInspectContextCommand(s *session) *cobra.Command {
	var format string
	cmd := &cobra.Command{
		Use:   "inspect [OPTIONS] [CONTEXT] [CONTEXT...]",
		Short: "Display detailed information on one or more contexts",
		Args:  argsBetween(0, -1),
		RunE: func(_ *cobra.Command, args []string) error {
			if len(args) == 0 {
				args = []string{theContext}
			}
			return runInspectContexts(s.Out, format, args)
		},
		DisableFlagsInUseLine: true,
	}
	cmd.Flags().StringVarP(&format, "format", "f", "", inspectFormatHelp)
	return cmd
}

func runInspectContexts(w io.Writer, format string, names []string) error {
	out, err := newInspector(format)
	if err != nil {
		return statusError{exitTemplate, err}
	}
	var errs []error
	for _, name := range names {
		err := findContext(name)
		if err == nil {
			c := contextInspect{Name: name, Endpoints: map[string]contextEndpoint{"docker": {}}}
			const nowhere = "<IN MEMORY>"
			c.Storage.MetadataPath, c.Storage.TLSPath = nowhere, nowhere
			err = out.add(c)
		}
		errs = append(errs, err)
	}
	return errors.Join(append(errs, out.flush(forTerminal(w)))...)
}
