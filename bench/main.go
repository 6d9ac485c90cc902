//go:build linux

// Package main measures Strake beside the container tools installed on the machine and writes docs/benchmarks.md.
//
// A tool is one program under test: strake, or a peer (dockerd, podman, buildah, skopeo, runc). A case group is a list of
// steps that one tool performs in order on a volume of its own: a fresh loop-mounted ext4 file system. A step is one command;
// what surrounds it (making inputs, starting daemons, checking the result) is never timed. Rounds are interleaved: every
// tool once, then every tool again. A result that is wrong is a failure of its tool, not a figure.
//
// A group that has finished is a line of the results beside the report, and the report is made of these lines after each
// group: an interrupted run leaves what it finished, and a run of some groups replaces those alone.
//
// The program runs itself a second time inside a mount and a network namespace of its own. The outer process makes the inputs; the
// inner one measures, so that its children do not inherit the peak memory of making them, and so that no mount, bridge or rule
// outlives it.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"log"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"
)

// innerEnv marks the process that measures; its value is the directory with the inputs.
const innerEnv = "STRAKE_BENCH_INPUTS"

// Options are the command line.
type options struct {
	Rounds   int
	Output   string
	Strake   string
	BuildKit string
	Fresh    bool
	Only     string
	Tools    string
	Seed     uint64
	Scale    float64
}

func parseOptions(args []string) (options, error) {
	var o options
	f := flag.NewFlagSet("bench", flag.ContinueOnError)
	f.IntVar(&o.Rounds, "n", 7, "rounds per tool and case")
	f.StringVar(&o.Output, "o", "", "report to write, and its .jsonl (default docs/benchmarks.md; bin/benchmarks.md of a trial:\n"+
		"a run with -tools, -scale or -fresh=false)")
	f.StringVar(&o.Strake, "strake", "bin/strake", "strake binary")
	f.StringVar(&o.BuildKit, "buildkit", "bin", "directory of buildkitd and buildctl")
	f.BoolVar(&o.Fresh, "fresh", os.Geteuid() == 0, "a fresh loop-mounted ext4 for each store (root)")
	f.StringVar(&o.Only, "only", "", "comma-separated case groups ("+strings.Join(groupNames(), ",")+")")
	f.StringVar(&o.Tools, "tools", "", "comma-separated tools")
	f.Uint64Var(&o.Seed, "seed", 1, "seed of the generated inputs")
	f.Float64Var(&o.Scale, "scale", 1, "size of the inputs, 1 for the published figures")
	if err := f.Parse(args); err != nil {
		return o, err
	}
	if o.Rounds < 1 || o.Scale <= 0 || f.NArg() > 0 {
		return o, fmt.Errorf("bench: -n and -scale must be positive, no arguments: %q", args)
	}
	for name := range strings.SplitSeq(o.Only, ",") {
		if o.Only != "" && !slices.Contains(groupNames(), name) {
			return o, fmt.Errorf("bench: no case group %q", name)
		}
	}
	if trial := o.Tools != "" || o.Scale != 1 || !o.Fresh; o.Output == "" && trial {
		o.Output = "bin/benchmarks.md"
	} else if o.Output == "" {
		o.Output = "docs/benchmarks.md"
	}
	return o, nil
}

func groupNames() (names []string) {
	for _, g := range groups() {
		names = append(names, g.name)
	}
	return names
}

// needed are the inputs that the selected groups need.
func needed(only string) map[string]bool {
	need := map[string]bool{}
	for _, g := range groups() {
		for _, kind := range g.inputs {
			need[kind] = need[kind] || selected(only, g.name)
		}
	}
	return need
}

// selected reports whether name is in a comma-separated list; an empty list selects everything.
func selected(list, name string) bool {
	for s := range strings.SplitSeq(list, ",") {
		if s == name || list == "" {
			return true
		}
	}
	return false
}

func main() {
	log.SetFlags(log.Ltime)
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	o, err := parseOptions(os.Args[1:])
	if errors.Is(err, flag.ErrHelp) {
		return
	}
	if err == nil {
		if dir := os.Getenv(innerEnv); dir != "" {
			err = measure(ctx, o, dir)
		} else {
			err = outer(ctx, o)
		}
	}
	if err != nil {
		log.Print(err)
		stop()
		os.Exit(1)
	}
}

// outer makes the inputs and runs the measuring process; the scratch directory is gone when it returns.
func outer(ctx context.Context, o options) (err error) {
	scratch, err := os.MkdirTemp("", "sb")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(scratch)) }()
	log.Printf("making inputs (seed %d)", o.Seed)
	if err := makeInputs(ctx, scratch, o.Seed, o.Scale, needed(o.Only)); err != nil {
		return fmt.Errorf("make inputs: %w", err)
	}
	self, err := os.Executable()
	if err != nil {
		return err
	}
	c := exec.CommandContext(ctx, self, os.Args[1:]...) // #nosec G204 -- itself
	c.Env = append(os.Environ(), innerEnv+"="+scratch)
	c.Stdout, c.Stderr = os.Stdout, os.Stderr
	c.SysProcAttr = &syscall.SysProcAttr{}
	if o.Fresh {
		c.SysProcAttr.Unshareflags = syscall.CLONE_NEWNS | syscall.CLONE_NEWNET // Go makes the new namespace's mounts private
	}
	c.Cancel = func() error { return c.Process.Signal(syscall.SIGTERM) }
	c.WaitDelay = time.Minute
	return c.Run()
}

// raiseLoopback makes 127.0.0.1 work in a new network namespace.
func raiseLoopback(ctx context.Context, fresh bool) error {
	if !fresh {
		return nil
	}
	return runQuiet(ctx, "ip", "link", "set", "lo", "up")
}

// measure runs every selected case group, and writes results and report after each. It fails when strake failed a step, or when
// no report could be written; a peer's failure is a line in the report.
func measure(ctx context.Context, o options, dir string) (err error) {
	h := &harness{opts: o, dir: dir}
	if h.in, err = readInputs(dir); err != nil {
		return err
	}
	if err := errors.Join(adoptOrphans(), raiseLoopback(ctx, o.Fresh)); err != nil {
		return err
	}
	all, err := readRecords(results(o.Output))
	if err != nil {
		return err
	}
	if h.registry, err = startRegistry(ctx, filepath.Join(dir, "registry")); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, h.registry.Close()) }()
	if err := uploadInputs(ctx, h.registry, h.in); err != nil {
		return fmt.Errorf("fill the registry: %w", err)
	}
	if len(h.in.Layers) > 0 {
		l, err := measureLimits(ctx, h.in)
		if err != nil {
			return err
		}
		h.limits = l.describe()
	}
	if err := h.findTools(ctx); err != nil {
		return err
	}
	var failures []error
	for _, g := range groups() {
		if !selected(o.Only, g.name) {
			continue
		}
		start := time.Now()
		r, err := h.runGroup(ctx, g)
		if err != nil {
			return err
		}
		log.Printf("%s took %v", g.name, round(time.Since(start)))
		if all, err = keep(o.Output, all, r, groupNames()); err != nil {
			return fmt.Errorf("write %s: %w", o.Output, err)
		}
		failures = append(failures, strakeFailure(r))
	}
	return errors.Join(failures...)
}
