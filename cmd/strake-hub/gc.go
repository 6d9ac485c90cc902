package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"sync"

	"github.com/docker/go-units"

	"strake/internal/hub"
)

// gcNotes ends the help of gc.
const gcNotes = `Replicas that serve may go on, and collect too. 'strake-hub serve' does this
by itself, see its --gc-interval. What was deleted goes when it cannot be
restored any more; what was pushed and is named by no manifest, after --grace.
A collection looks at what changed since the last one; --full, at all there is.
`

// prepareGC is strake-hub gc.
func prepareGC(f *flag.FlagSet) action {
	var p place
	var opts hub.GCOptions
	p.define(f)
	f.BoolVar(&opts.DryRun, "dry-run", false, "Only say what would be removed")
	f.DurationVar(&opts.Grace, "grace", hub.DefaultGrace, "`duration` that a blob which no manifest names stays")
	f.BoolVar(&opts.Full, "full", false, "Look at all that the database knows, not at what changed alone; for a database that was changed by hand")
	f.BoolVar(&opts.Orphans, "orphans", false, "Look through all of the storage for blobs that the database does not know, as after a restore; a collection an hour later removes them")
	return func(ctx context.Context, s streams, _ []string) (err error) {
		if err := p.check(); err != nil {
			return err
		}
		if opts.Grace <= 0 {
			return usageError{fmt.Errorf("--grace %s: more than 0", opts.Grace)}
		}
		h, err := hub.Open(ctx, p.hub())
		if err != nil {
			return err
		}
		defer func() { err = errors.Join(err, h.Close()) }()
		result, err := hub.Collect(ctx, h, opts)
		return errors.Join(err, printGC(s.out, opts, result))
	}
}

// printGC says what was removed.
func printGC(w io.Writer, opts hub.GCOptions, r hub.GCResult) error {
	total := "Total reclaimed space"
	if opts.DryRun {
		total = "Would reclaim"
	}
	for _, line := range []struct {
		what string
		n    int64
	}{
		{"Deleted manifests forgotten", r.Manifests},
		{"Blobs that no manifest of their repository names", r.Links},
		{"Unfinished uploads", r.Uploads},
		{"Blobs unknown to the database", r.Orphans},
	} {
		if line.n == 0 {
			continue
		}
		if _, err := fmt.Fprintf(w, "%s: %d\n", line.what, line.n); err != nil {
			return err
		}
	}
	_, err := fmt.Fprintf(w, "%s: %s in %d blobs\n", total, units.HumanSize(float64(r.Bytes)), r.Blobs)
	return err
}

// collect collects garbage in the background; what it returns ends that.
func (o options) collect(ctx context.Context, h *hub.Hub, log *slog.Logger) (stop func()) {
	ctx, cancel := context.WithCancel(ctx)
	var running sync.WaitGroup
	running.Go(func() { hub.CollectEvery(ctx, h, hub.GCOptions{Grace: o.gcGrace}, o.gcInterval, log) })
	return func() {
		cancel()
		running.Wait()
	}
}
