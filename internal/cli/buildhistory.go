package cli

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/docker/go-units"
	"github.com/spf13/cobra"

	"strake/internal/engine"
	"strake/internal/progress"
)

type listBuildsOptions struct {
	format  string
	noTrunc bool
	filters []string
}

func newListBuildsCommand(s *session) *cobra.Command {
	var opts listBuildsOptions
	cmd := &cobra.Command{
		Use:   "ls [OPTIONS]",
		Short: "List build records",
		Args:  argsBetween(0, 0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			return runListBuilds(cmd.Context(), s, opts)
		},
		DisableFlagsInUseLine: true,
	}
	flags := cmd.Flags()
	flags.StringArrayVar(&opts.filters, "filter", nil, `Provide filter values (e.g., "status=error")`)
	flags.StringVar(&opts.format, "format", "table", "Format the output")
	flags.BoolVar(&opts.noTrunc, "no-trunc", false, "Don't truncate output")
	return cmd
}

// maxBuildName is what docker shows of a build's name, its end.
const maxBuildName = 36

func runListBuilds(ctx context.Context, s *session, opts listBuildsOptions) error {
	env, err := s.engine(ctx)
	if err != nil {
		return err
	}
	list, err := engine.BuildHistory(ctx, env)
	if err != nil {
		return fromEngine(err)
	}
	for _, f := range opts.filters {
		key, value, ok := strings.Cut(f, "=")
		if !ok || key != "status" && key != "ref" {
			return fmt.Errorf("invalid filter %q: status=STATUS or ref=REF", f)
		}
		list = slices.DeleteFunc(list, func(r engine.BuildRecord) bool {
			return key == "status" && !strings.EqualFold(r.Status, value) || key == "ref" && r.Ref != value
		})
	}
	trunc := !opts.noTrunc && strings.HasPrefix(opts.format, "table")
	return listing[engine.BuildRecord]{
		columns: []string{"Ref", "Name", "Status", "CreatedAt", "Duration"},
		fields: []field[engine.BuildRecord]{
			{"Ref", "BUILD ID", func(r engine.BuildRecord) string { return r.Ref }},
			{"Name", "NAME", func(r engine.BuildRecord) string {
				if trunc && len(r.Name) > maxBuildName {
					return ".." + r.Name[len(r.Name)-maxBuildName+2:]
				}
				return r.Name
			}},
			{"Status", "STATUS", func(r engine.BuildRecord) string { return r.Status }},
			{"CreatedAt", "CREATED AT", func(r engine.BuildRecord) string { return units.HumanDuration(time.Since(r.Created)) + " ago" }},
			{"Duration", "DURATION", buildDuration},
		},
	}.write(s.Out, opts.format, list)
}

func buildDuration(r engine.BuildRecord) string {
	d := r.Completed.Sub(r.Created)
	if r.Completed.IsZero() {
		d = time.Since(r.Created)
	}
	if d < time.Minute {
		return fmt.Sprintf("%.1fs", d.Seconds())
	}
	return fmt.Sprintf("%dm %2ds", int(d.Minutes()), int(d.Seconds())%60)
}

func newInspectBuildCommand(s *session) *cobra.Command {
	var format string
	cmd := &cobra.Command{
		Use:   "inspect [OPTIONS] [REF]",
		Short: "Inspect a build record",
		Args:  argsBetween(0, 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return runInspectBuild(cmd.Context(), s, cmp.Or(args...), format)
		},
		DisableFlagsInUseLine: true,
	}
	cmd.Flags().StringVar(&format, "format", "pretty", "Format the output")
	return cmd
}

func runInspectBuild(ctx context.Context, s *session, ref, format string) error {
	env, err := s.engine(ctx)
	if err != nil {
		return err
	}
	r, err := engine.FindBuild(ctx, env, ref)
	if err != nil {
		return fromEngine(err)
	}
	out := forTerminal(s.Out)
	switch format {
	case "pretty":
		return prettyBuild(out, r)
	case "json":
		e := json.NewEncoder(out)
		e.SetIndent("", "  ")
		return e.Encode(r)
	}
	tmpl, err := parseTemplate("", unescape(format))
	if err != nil {
		return statusError{exitTemplate, err}
	}
	if err := tmpl.Execute(out, r); err != nil {
		return fmt.Errorf("template parsing error: %w", err)
	}
	_, err = fmt.Fprintln(out)
	return err
}

// prettyBuild writes a record for people.
func prettyBuild(out io.Writer, r engine.BuildRecord) error {
	tw := newTable(out)
	done, cached := 0, 0
	for _, step := range r.Steps {
		if !step.Completed.IsZero() && step.Error == "" {
			done++
		}
		if step.Cached {
			cached++
		}
	}
	for _, line := range [][2]string{
		{"Name", r.Name},
		{"Build ID", r.Ref},
		{"Context", r.Context},
		{"Dockerfile", r.Dockerfile},
		{"Target", r.Target},
		{"Images", strings.Join(r.Images, ", ")},
		{"Image ID", r.ID.String()},
		{"Created", r.Created.Local().Format(time.DateTime)},
		{"Duration", buildDuration(r)},
		{"Status", r.Status},
		{"Error", r.Error},
		{"Build Steps", fmt.Sprintf("%d/%d (%d%% cached)", done, len(r.Steps), 100*cached/max(1, len(r.Steps)))},
	} {
		if line[1] != "" {
			fmt.Fprintf(tw, "%s:\t%s\n", line[0], line[1])
		}
	}
	if err := tw.Flush(); err != nil {
		return err
	}
	if len(r.Misses) > 0 {
		fmt.Fprintln(out)
		why := explanations{r.Misses}
		why.write(out)
	}
	return nil
}

func newBuildLogsCommand(s *session) *cobra.Command {
	var mode string
	cmd := &cobra.Command{
		Use:   "logs [OPTIONS] [REF [STEP]]",
		Short: "Print the logs of a build record, or what one step printed",
		Long: `Print the logs of a build record, those of a build that runs until it is over,
or what one step printed, so far, by its number or a part of its name.`,
		Args: argsBetween(0, 2),
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) == 2 {
				return runStepLog(cmd.Context(), s, args[0], args[1])
			}
			return runBuildLogs(cmd.Context(), s, cmp.Or(args...), mode)
		},
		DisableFlagsInUseLine: true,
	}
	cmd.Flags().StringVar(&mode, "progress", progress.ModePlain, "Set type of progress output (plain, rawjson, tty)")
	return cmd
}

func runBuildLogs(ctx context.Context, s *session, ref, mode string) error {
	env, err := s.engine(ctx)
	if err != nil {
		return err
	}
	r, err := engine.FindBuild(ctx, env, ref)
	if err != nil {
		return fromEngine(err)
	}
	show, err := progress.New(progress.Options{Out: s.Err, Mode: mode})
	if err != nil {
		return err
	}
	return errors.Join(engine.BuildLogs(ctx, env, r, show.Handle), show.Close())
}

// runStepLog writes what a step printed, as it is, to standard output.
func runStepLog(ctx context.Context, s *session, ref, step string) error {
	env, err := s.engine(ctx)
	if err != nil {
		return err
	}
	r, err := engine.FindBuild(ctx, env, ref)
	if err != nil {
		return fromEngine(err)
	}
	log, err := engine.StepLog(ctx, env, r, step)
	if err != nil {
		return fromEngine(err)
	}
	_, err = forTerminal(s.Out).Write(log)
	return err
}

func newRemoveBuildsCommand(s *session) *cobra.Command {
	var every bool
	cmd := &cobra.Command{
		Use:   "rm [OPTIONS] [REF...]",
		Short: "Remove build records",
		RunE: func(cmd *cobra.Command, args []string) error {
			if every == (len(args) > 0) {
				return errors.New("rm requires REF... or --all, and not both")
			}
			return runRemoveBuilds(cmd.Context(), s, args)
		},
		DisableFlagsInUseLine: true,
	}
	cmd.Flags().BoolVar(&every, "all", false, "Remove all build records")
	return cmd
}

// runRemoveBuilds removes the records of refs; all of them where there are none.
func runRemoveBuilds(ctx context.Context, s *session, refs []string) error {
	env, err := s.engine(ctx)
	if err != nil {
		return err
	}
	var list []engine.BuildRecord
	if len(refs) == 0 {
		list, err = engine.BuildHistory(ctx, env)
		list = slices.DeleteFunc(list, func(r engine.BuildRecord) bool { return r.Status == engine.BuildRunning })
	}
	for _, ref := range refs {
		r, findErr := engine.FindBuild(ctx, env, ref)
		list, err = append(list, r), errors.Join(err, findErr)
	}
	if err != nil {
		return fromEngine(err)
	}
	return fromEngine(engine.RemoveBuilds(ctx, env, list...))
}
