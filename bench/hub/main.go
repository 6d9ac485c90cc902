//go:build linux

// Package main measures registry servers beside each other and writes docs/benchmarks-hub.md: strake-hub, and the peers that are
// installed. A case is a request, or two, that so many clients repeat for a while, each on a connection of its own. What
// counts is requests a second, how long the slowest of a hundred took, and what the server used of the processor for each.
//
// Servers take turns: every case on one, then on the other, round by round. All keep their data on one file system, log nothing
// of single requests, and were filled with the same content. Each answer's status and length is checked.
//
// With -scale it measures strake-hub alone, with rows of many images in its database, for docs/operations.md.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"log"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"
)

type options struct {
	hub     string
	output  string
	only    string
	servers string
	rounds  int
	tags    int
	last    time.Duration
	clients []int

	garbage  int   // blobs
	scale    []int // manifests
	database string
}

func parseOptions(args []string) (options, error) {
	o := options{clients: []int{1, 8, 64}}
	f := flag.NewFlagSet("bench/hub", flag.ContinueOnError)
	f.StringVar(&o.hub, "hub", "bin/strake-hub", "strake-hub binary")
	f.StringVar(&o.output, "o", "docs/benchmarks-hub.md", "report to write")
	f.StringVar(&o.only, "only", "", "comma-separated cases")
	f.StringVar(&o.servers, "servers", "", "comma-separated servers")
	f.IntVar(&o.rounds, "n", 3, "rounds of each case and server")
	f.IntVar(&o.tags, "tags", 10_000, "tags of the repository whose tags are listed")
	f.IntVar(&o.garbage, "garbage", 100_000, "blobs that are collected while clients pull and push; the case is called gc")
	f.DurationVar(&o.last, "t", 3*time.Second, "how long a case runs in a round")
	clients := f.String("c", "1,8,64", "comma-separated counts of clients")
	scale := f.String("scale", "", "comma-separated counts of manifests: measure strake-hub with so many instead, and print a table")
	f.StringVar(&o.database, "database", "", "with -scale: URL of an empty PostgreSQL database; SQLite without")
	if err := f.Parse(args); err != nil {
		return o, err
	}
	var err1, err2 error
	o.clients, err1 = numbers(*clients)
	if *scale != "" {
		o.scale, err2 = numbers(*scale)
	}
	return o, errors.Join(err1, err2)
}

// numbers reads a comma-separated list of numbers above 0.
func numbers(list string) (all []int, err error) {
	for s := range strings.SplitSeq(list, ",") {
		n, err := strconv.Atoi(s)
		if err != nil || n < 1 {
			return nil, fmt.Errorf("bench/hub: %q is no list of numbers", list)
		}
		all = append(all, n)
	}
	return all, nil
}

func main() {
	log.SetFlags(log.Ltime)
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	o, err := parseOptions(os.Args[1:])
	if errors.Is(err, flag.ErrHelp) {
		return
	}
	switch {
	case err != nil:
	case o.scale != nil:
		err = runScale(ctx, o, os.Stdout)
	default:
		err = run(ctx, o)
	}
	if err != nil {
		log.Print(err)
		stop()
		os.Exit(1)
	}
}

// selected reports whether name is in a comma-separated list; an empty list selects everything.
func selected(list, name string) bool {
	return list == "" || slices.Contains(strings.Split(list, ","), name)
}

func run(ctx context.Context, o options) (err error) {
	dir, err := os.MkdirTemp("", "sbh")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	var servers []*server
	defer func() {
		for _, s := range servers {
			err = errors.Join(err, s.Close())
		}
	}()
	var missing []string
	for _, k := range kinds {
		if !selected(o.servers, k.name) || o.only == "gc" {
			continue
		}
		s, err := startServer(ctx, k, o, filepath.Join(dir, k.name))
		if err != nil {
			if k.name == "strake-hub" {
				return err
			}
			missing = append(missing, fmt.Sprintf("%s: %v", k.name, err))
			log.Printf("%s is left out: %v", k.name, err)
			continue
		}
		servers = append(servers, s)
		log.Printf("filling %s", k.name)
		if err := s.fill(ctx, o.tags); err != nil {
			return fmt.Errorf("fill %s: %w", k.name, err)
		}
	}
	var rows []*row
	for _, c := range cases {
		if !selected(o.only, c.name) {
			continue
		}
		for _, clients := range o.clients {
			r, err := measure(ctx, servers, c, clients, o)
			if err != nil {
				return err
			}
			rows = append(rows, r)
		}
	}
	var collections []collection
	if selected(o.only, "gc") {
		if collections, err = measureGarbage(ctx, o, filepath.Join(dir, "gc")); err != nil {
			return fmt.Errorf("gc: %w", err)
		}
	}
	machine := fmt.Sprintf("%d cores, %s/%s", runtime.NumCPU(), runtime.GOOS, runtime.GOARCH)
	return os.WriteFile(o.output, []byte(report(servers, rows, missing, machine, o)+garbageReport(collections, o)), 0o644) // #nosec G306 -- a document
}

// measure runs a case on all servers in turns.
func measure(ctx context.Context, servers []*server, c loadCase, clients int, o options) (*row, error) {
	r := &row{name: c.name, title: c.title, clients: clients, figures: make([][]figures, len(servers))}
	for range o.rounds {
		for i, s := range servers {
			f, err := load(ctx, s, c, clients, lasting(o.last))
			if err != nil {
				return nil, fmt.Errorf("%s on %s: %w", c.name, s.name, err)
			}
			log.Printf("%-10s c=%-3d %-16s %s", c.name, clients, s.name, f) // #nosec G706 -- figures and names of this program
			r.figures[i] = append(r.figures[i], f)
		}
	}
	return r, nil
}
