package cli

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"text/template"
	"time"

	"github.com/moby/moby/api/types/events"
	"github.com/spf13/cobra"

	"strake/internal/engine"
)

type eventsOptions struct {
	since, until string
	filters      []string
	format       string
}

func newEventsCommand(s *session) *cobra.Command {
	var opts eventsOptions
	cmd := &cobra.Command{
		Use:   "events [OPTIONS]",
		Short: "Get real time events from the store",
		Args:  argsBetween(0, 0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			return runEvents(cmd.Context(), s, opts)
		},
		Annotations:           map[string]string{aliasesKey: "strake system events, strake events"},
		DisableFlagsInUseLine: true,
	}
	flags := cmd.Flags()
	filters(flags, &opts.filters, "Filter output based on conditions provided")
	flags.StringVar(&opts.format, "format", "", inspectFormatHelp)
	flags.StringVar(&opts.since, "since", "", "Show all events created since timestamp")
	flags.StringVar(&opts.until, "until", "", "Stream events until this timestamp")
	return cmd
}

func runEvents(ctx context.Context, s *session, opts eventsOptions) error {
	write, err := eventWriter(forTerminal(s.Out), opts.format)
	if err != nil {
		return statusError{exitTemplate, fmt.Errorf("Error parsing format: %w", err)}
	}
	for _, at := range []string{opts.since, opts.until} {
		if err := engine.CheckTime(at); err != nil {
			return err
		}
	}
	env, err := s.engine(ctx)
	if err != nil {
		return err
	}
	return fromEngine(engine.Events(ctx, env, engine.EventsOptions{
		Since: opts.since, Until: opts.until, Filters: conditions(opts.filters), Each: write,
	}))
}

// eventWriter chooses how events are printed.
func eventWriter(out io.Writer, format string) (func(events.Message) error, error) {
	switch format {
	case "":
		return func(m events.Message) error { return printEvent(out, m) }, nil
	case "json":
		return func(m events.Message) error { return json.NewEncoder(out).Encode(newEventJSON(m)) }, nil
	}
	tmpl, err := template.New("").Funcs(templateFuncs()).Parse(format)
	if err == nil {
		err = tmpl.Execute(io.Discard, newEventJSON(events.Message{}))
	}
	if err != nil {
		return nil, err
	}
	return func(m events.Message) error {
		err := tmpl.Execute(out, newEventJSON(m))
		fmt.Fprintln(out)
		return err
	}, nil
}

// printEvent prints an event in docker's line form.
func printEvent(out io.Writer, m events.Message) error {
	line := fmt.Sprintf("%s %s %s %s", time.Unix(0, m.TimeNano).Format("2006-01-02T15:04:05.000000000Z07:00"), m.Type, m.Action, m.Actor.ID)
	if len(m.Actor.Attributes) > 0 {
		var list []string
		for _, key := range slices.Sorted(maps.Keys(m.Actor.Attributes)) {
			list = append(list, key+"="+m.Actor.Attributes[key])
		}
		line += " (" + strings.Join(list, ", ") + ")"
	}
	_, err := fmt.Fprintln(out, line)
	return err
}

// eventJSON is an event with the fields that docker's has kept for old clients.
type eventJSON struct {
	Status string `json:"status,omitempty"`
	ID     string `json:"id,omitempty"`
	From   string `json:"from,omitempty"`
	events.Message
}

func newEventJSON(m events.Message) eventJSON {
	e := eventJSON{Message: m}
	if m.Type == events.ImageEventType {
		e.Status, e.ID = string(m.Action), m.Actor.ID
	}
	return e
}

// conditions reads the values of --filter.
func conditions(list []string) map[string][]string {
	m := map[string][]string{}
	for _, f := range list {
		name, value, _ := strings.Cut(f, "=")
		name = strings.ToLower(strings.TrimSpace(name))
		m[name] = append(m[name], strings.TrimSpace(value))
	}
	return m
}
