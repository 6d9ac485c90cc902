//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// A group is a list of steps that a tool performs in order on one fresh volume.
type group struct {
	name  string
	tools []string
	steps []step
	// rounds bounds the rounds of what is dear; 0 is no bound.
	rounds int
	// prepare readies the store before the first step; nil does nothing.
	prepare func(ctx context.Context, s *session) error
}

// A step is one timed command.
type step struct {
	name  string
	title string
	// verb and args name the command as client.command takes it. A tool without the verb skips the step.
	verb string
	args func(s *session) []string
	// repeat is how often the command runs in a round; the round's sample is the median. 0 is once.
	repeat int
	// disk asks for the store's allocated bytes after the step.
	disk bool
	// check fails when the result is not what the inputs demand.
	check func(ctx context.Context, s *session) error
	goals []goal
}

// A session is one tool at work on one volume in one round.
type session struct {
	*client
	in       *inputs
	registry *registry
	tool     *tool
	round    int
	scale    float64
	// root is the volume, scratch a directory outside of it.
	root    string
	scratch string
	// ids are image IDs that an earlier step left for a later check.
	ids map[string]string
	// closers end with the session, the last first.
	closers []io.Closer
}

// Close ends what the session started, then its tool.
func (s *session) Close() error {
	var errs []error
	for _, c := range slices.Backward(s.closers) {
		errs = append(errs, c.Close())
	}
	return errors.Join(append(errs, s.client.Close())...)
}

// A result is what all rounds of one tool gave for one step.
type result struct {
	samples []sample
	command string
	failure error
}

func (r *result) failed() bool { return r.failure != nil }

// harness holds one run of the benchmark.
type harness struct {
	opts     options
	in       *inputs
	dir      string
	registry *registry
	limits   limits
	tools    []*tool
	missing  []string
	results  map[string]*result
}

func groups() []group {
	all := append([]group{pullGroup(), loadGroup()}, wanGroups()...)
	return append(all, buildGroup(), pushGroup(), manyGroup(), rmiGroup(), relatedGroup())
}

// findTools keeps the selected tools that are installed, with their versions. Peers may be missing, strake may not.
func (h *harness) findTools(ctx context.Context) error {
	for _, t := range allTools(h.opts.Strake, h.opts.Fresh) {
		if !selected(h.opts.Tools, t.name) {
			continue
		}
		if err := t.findVersion(ctx); err != nil {
			if t.name == "strake" {
				return err
			}
			h.missing = append(h.missing, fmt.Sprintf("%s: %v", t.name, err))
			log.Printf("%s is left out: %v", t.name, err)
			continue
		}
		h.tools = append(h.tools, t)
	}
	return nil
}

func (h *harness) result(step, tool string) *result {
	key := step + "\x00" + tool
	if h.results[key] == nil {
		h.results[key] = &result{}
	}
	return h.results[key]
}

// runGroup runs all rounds of one group, tools interleaved. It fails only when ctx ends or the harness itself cannot work.
func (h *harness) runGroup(ctx context.Context, g group) error {
	rounds := h.opts.Rounds
	if g.rounds > 0 {
		rounds = min(rounds, g.rounds)
	}
	for round := range rounds {
		for _, t := range h.tools {
			if !slices.Contains(g.tools, t.name) {
				continue
			}
			err := h.runSession(ctx, g, t, round)
			if ctx.Err() != nil {
				return ctx.Err()
			}
			if err != nil {
				log.Printf("%s %s round %d: %v", g.name, t.name, round+1, err)
			}
		}
	}
	return nil
}

// runSession runs the steps of g with t on a new volume and leaves nothing behind.
func (h *harness) runSession(ctx context.Context, g group, t *tool, round int) (err error) {
	if h.result(g.steps[0].name, t.name).failed() {
		return nil // it failed in an earlier round: no second attempt
	}
	dir, err := os.MkdirTemp(h.dir, "s")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	vol, err := newVolume(ctx, dir, h.opts.Fresh)
	if err != nil {
		return fmt.Errorf("new volume: %w", err)
	}
	defer func() { err = errors.Join(err, vol.Close()) }()
	s := &session{in: h.in, registry: h.registry, tool: t, round: round, scale: h.opts.Scale, root: vol.root, scratch: filepath.Join(dir, "scratch"), ids: map[string]string{}}
	if err := os.Mkdir(s.scratch, 0o700); err != nil {
		return err
	}
	if s.client, err = t.open(ctx, vol.root, dir); err != nil {
		h.result(g.steps[0].name, t.name).failure = err
		return fmt.Errorf("open: %w", err)
	}
	defer func() { err = errors.Join(err, s.Close()) }()
	if g.prepare != nil {
		if err := g.prepare(ctx, s); err != nil {
			h.result(g.steps[0].name, t.name).failure = fmt.Errorf("prepare: %w", err)
			return err
		}
	}
	for _, st := range g.steps {
		if !s.has(st.verb) || !t.measures(st.verb) {
			continue
		}
		if err := h.runStep(ctx, st, s, vol); err != nil {
			if ctx.Err() != nil {
				return ctx.Err()
			}
			h.result(st.name, t.name).failure = err
			log.Printf("%s %s round %d: %v", st.name, t.name, round+1, err)
		}
	}
	return nil
}

// runStep times one step, checks its result and keeps the sample.
func (h *harness) runStep(ctx context.Context, st step, s *session, vol *volume) error {
	r := h.result(st.name, s.tool.name)
	if r.failed() {
		return nil // in an earlier round
	}
	args := st.args(s)
	var all []sample
	for range max(1, st.repeat) {
		sm, err := timeCommand(ctx, s, vol, st.verb, args)
		if err != nil {
			return err
		}
		all = append(all, sm)
	}
	sm := medianSample(all)
	if st.disk {
		var err error
		if sm.Disk, err = diskUsage(vol.root); err != nil {
			return err
		}
	}
	if st.check != nil {
		if err := st.check(ctx, s); err != nil {
			return fmt.Errorf("wrong result: %w", err)
		}
	}
	r.samples = append(r.samples, sm)
	r.command = strings.NewReplacer(s.root, "$VOLUME", filepath.Dir(s.root), "$RUN", h.dir, "$INPUTS", s.registry.addr, "$REGISTRY").
		Replace(s.display(st.verb, args))
	log.Printf("%-14s %-16s round %d: %s", st.name, s.tool.name, s.round+1, sm)
	return nil
}

// strakeFailure joins what strake failed at.
func (h *harness) strakeFailure() error {
	var errs []error
	for _, g := range groups() {
		for _, st := range g.steps {
			if err := h.result(st.name, "strake").failure; err != nil {
				errs = append(errs, fmt.Errorf("strake %s: %w", st.name, err))
			}
		}
	}
	return errors.Join(errs...)
}
