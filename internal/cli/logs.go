package cli

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"strake/internal/engine"
)

type logsOptions struct {
	ref        string
	details    bool
	follow     bool
	timestamps bool
	since      string
	until      string
	tail       string
}

func newLogsCommand(s *session) *cobra.Command {
	var opts logsOptions
	cmd := &cobra.Command{
		Use:   "logs [OPTIONS] CONTAINER",
		Short: "Fetch the logs of a container",
		Args:  argsBetween(1, 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			opts.ref = args[0]
			return runLogs(cmd.Context(), s, opts)
		},
		Annotations:           map[string]string{aliasesKey: "strake container logs, strake logs"},
		DisableFlagsInUseLine: true,
	}
	flags := cmd.Flags()
	flags.BoolVar(&opts.details, "details", false, "Show extra details provided to logs")
	flags.BoolVarP(&opts.follow, "follow", "f", false, "Follow log output")
	flags.StringVar(&opts.since, "since", "", `Show logs since timestamp (e.g. "2013-01-02T13:23:37Z") or relative (e.g. "42m" for 42 minutes)`)
	flags.StringVar(&opts.until, "until", "", `Show logs before a timestamp (e.g. "2013-01-02T13:23:37Z") or relative (e.g. "42m" for 42 minutes)`)
	flags.BoolVarP(&opts.timestamps, "timestamps", "t", false, "Show timestamps")
	flags.StringVarP(&opts.tail, "tail", "n", "all", "Number of lines to show from the end of the logs")
	return cmd
}

// logTime is the form of times in docker's logs: nanoseconds to the last digit.
const logTime = "2006-01-02T15:04:05.000000000Z07:00"

func runLogs(ctx context.Context, s *session, opts logsOptions) error {
	env, err := s.engine(ctx)
	if err != nil {
		return err
	}
	tail, err := strconv.Atoi(opts.tail)
	if err != nil || tail < 0 {
		tail = -1
	}
	for _, at := range []struct{ flag, value string }{{"since", opts.since}, {"until", opts.until}} {
		if err := engine.CheckTime(at.value); err != nil {
			return fmt.Errorf("invalid value for %q: %w", at.flag, err)
		}
	}
	return fromEngine(engine.Logs(ctx, env, engine.LogsOptions{
		Ref: opts.ref, Since: opts.since, Until: opts.until, Tail: tail, Follow: opts.follow,
		Each: func(l engine.LogLine) error { return writeLogLine(s, opts, l) },
	}))
}

func writeLogLine(s *session, opts logsOptions, l engine.LogLine) error {
	var b strings.Builder
	if opts.timestamps {
		b.WriteString(l.Time.Format(logTime) + " ")
	}
	if opts.details {
		var list []string
		for _, key := range slices.Sorted(maps.Keys(l.Attrs)) {
			list = append(list, key+"="+l.Attrs[key])
		}
		b.WriteString(strings.Join(list, ",") + " ")
	}
	b.WriteString(l.Text)
	out := s.Out
	if l.Stream == "stderr" {
		out = s.Err
	}
	_, err := fmt.Fprint(out, b.String())
	return err
}

// localTime is a time as docker's tables have it.
func localTime(seconds int64) string { return time.Unix(seconds, 0).String() }
