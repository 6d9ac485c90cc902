package engine

import (
	"context"
	"time"

	"strake/internal/container"
)

// LogLine is a line of a container's log.
type LogLine = container.LogLine

// LogsOptions say what to read of a container's log.
type LogsOptions struct {
	Ref    string
	Since  string // a time or a duration before now; "" is any
	Until  string // the same
	Tail   int    // at most so many of the last lines; negative is all
	Follow bool   // wait for more until the container has ended
	Each   func(LogLine) error
}

// Logs tells what a container said, the oldest line first.
func Logs(ctx context.Context, env *Env, opts LogsOptions) (err error) {
	now := time.Now()
	read := container.LogOptions{Tail: opts.Tail, Follow: opts.Follow, Each: opts.Each}
	if opts.Since != "" {
		if read.Since, err = parseTime(opts.Since, now); err != nil {
			return err
		}
	}
	if opts.Until != "" {
		if read.Until, err = parseTime(opts.Until, now); err != nil {
			return err
		}
	}
	table := containers(env)
	c, err := table.Get(ctx, opts.Ref)
	if err != nil {
		return err
	}
	return table.ReadLog(ctx, c, read)
}
