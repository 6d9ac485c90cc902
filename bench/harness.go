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
	"time"
)

// A group is a list of steps that a tool performs in order on one fresh volume.
type group struct {
	name  string
	tools []string
	steps []step
	// rounds bounds the rounds of what is dear, peerRounds those of the peers; 0 is no bound.
	rounds, peerRounds int
	// inputs are those that take long to make and that the group needs.
	inputs []string
	// network asks for a daemon that has bridges.
	network bool
	// prepare readies the store before the first step; nil does nothing.
	prepare func(ctx context.Context, s *session) error
}

// number stands for the number of a command, from 0, in the arguments of a step.
const number = "{n}"

// A step is one timed command, or several of them.
type step struct {
	name  string
	title string
	// verb and args name the command as client.command takes it. A tool without the verb skips the step.
	verb string
	args func(s *session) []string
	// repeat is how often the command runs in a round; the round's sample is the median. 0 is once.
	repeat int
	// count commands make one sample, 0 is one; procs of them run at once, 0 is one.
	count, procs int
	// stays says that what the commands start goes on running: its memory is measured.
	stays bool
	// tools are those of the group that perform the step, nil for all; rounds and peerRounds bound its rounds as the group's.
	tools              []string
	rounds, peerRounds int
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
	shared   *registry // of all sessions; registry may be one of its own
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
	return errors.Join(append(errs, s.client.Close(), killOrphans(s.own()))...)
}

// own are the processes that the harness itself started and that go on running.
func (s *session) own() []int {
	pids := []int{s.shared.pid(), s.registry.pid()}
	if s.client != nil && s.daemon != nil {
		pids = append(pids, s.daemon.cmd.Process.Pid)
	}
	return pids
}

// harness holds one run of the benchmark.
type harness struct {
	opts     options
	in       *inputs
	dir      string
	registry *registry
	limits   string
	tools    []*tool
	missing  []string
}

func groups() []group {
	all := append([]group{pullGroup(), loadGroup()}, wanGroups()...)
	all = append(all, runGroup(), containersGroup(), buildGroup(), stagesGroup())
	all = append(all, filesGroups()...)
	return append(all, storeGroup(), archiveGroup(), pushGroup(), manyGroup(), rmiGroup(), relatedGroup())
}

// findTools keeps the selected tools that are installed, with their versions. Peers may be missing, strake may not.
func (h *harness) findTools(ctx context.Context) error {
	for _, t := range allTools(h.opts.Strake, h.opts.BuildKit, h.opts.Fresh) {
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

// roundsOf is how many of so many rounds a tool runs of what has these bounds.
func roundsOf(most, rounds, peerRounds int, t *tool) int {
	if rounds > 0 {
		most = min(most, rounds)
	}
	if peerRounds > 0 && t.name != "strake" {
		most = min(most, peerRounds)
	}
	return most
}

// performs reports whether the session's tool takes a step in its round.
func (s *session) performs(st step) bool {
	return s.has(st.verb) && s.tool.measures(st.verb) && (st.tools == nil || slices.Contains(st.tools, s.tool.name)) &&
		s.round < roundsOf(s.round+1, st.rounds, st.peerRounds, s.tool)
}

// runGroup runs all rounds of one group, tools interleaved. It fails only when ctx ends.
func (h *harness) runGroup(ctx context.Context, g group) (*record, error) {
	r := h.newRecord(g)
	for round := range h.opts.Rounds {
		for _, t := range h.tools {
			if !slices.Contains(g.tools, t.name) || round >= roundsOf(h.opts.Rounds, g.rounds, g.peerRounds, t) {
				continue
			}
			err := h.runSession(ctx, g, r, t, round)
			if ctx.Err() != nil {
				return nil, ctx.Err()
			}
			if err != nil {
				log.Printf("%s %s round %d: %v", g.name, t.name, round+1, err)
			}
		}
	}
	r.Date, r.Load, r.Floor = time.Now(), loadAverage(), selfPeak()
	for i, st := range g.steps {
		c, _, ok := compare(r.Tools, &r.Steps[i])
		c.in = h.in
		for _, goal := range st.goals {
			r.Steps[i].Goals = append(r.Steps[i].Goals, verdict{goal.text, ok && goal.met(c)})
		}
	}
	return r, nil
}

// newRecord is the record of a group that is about to run.
func (h *harness) newRecord(g group) *record {
	r := &record{
		Group: g.name, Whole: true, Machine: machine(), Store: "stores in a directory on the root file system",
		Seed: h.opts.Seed, Scale: h.opts.Scale, Missing: h.missing, Inputs: describeInputs(h.in),
	}
	if h.opts.Fresh {
		r.Store = "a fresh loop-mounted ext4 for each tool and round"
	}
	if slices.Contains(g.inputs, inputImage) {
		r.Limits = h.limits
	}
	for _, t := range h.tools {
		if slices.Contains(g.tools, t.name) {
			r.Tools = append(r.Tools, toolRecord{t.name, t.version, t.note, t.baseline})
		}
	}
	for _, st := range g.steps {
		r.Steps = append(r.Steps, stepRecord{Name: st.name, Title: st.title})
	}
	return r
}

// runSession runs the steps of g with t on a new volume and leaves nothing behind.
func (h *harness) runSession(ctx context.Context, g group, r *record, t *tool, round int) (err error) {
	if first := r.Steps[0].result(t.name); first.Failure != "" {
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
	s := &session{in: h.in, registry: h.registry, shared: h.registry, tool: t, round: round, scale: h.opts.Scale, root: vol.root, scratch: filepath.Join(dir, "scratch"), ids: map[string]string{}}
	if err := os.Mkdir(s.scratch, 0o700); err != nil {
		return err
	}
	if s.client, err = t.open(ctx, place{vol.root, dir, h.registry, g.network}); err == nil {
		defer func() { err = errors.Join(err, s.Close()) }()
		if g.prepare != nil {
			err = g.prepare(ctx, s)
		}
	}
	if err != nil {
		r.Steps[0].result(t.name).Failure = h.public("prepare: " + err.Error())
		return err
	}
	for i, st := range g.steps {
		if !s.performs(st) {
			continue
		}
		if err := h.runStep(ctx, st, s, vol, r.Steps[i].result(t.name)); err != nil {
			if ctx.Err() != nil {
				return ctx.Err()
			}
			r.Steps[i].result(t.name).Failure = h.public(err.Error())
			log.Printf("%s %s round %d: %v", st.name, t.name, round+1, err)
		}
	}
	return nil
}

// public has no path of this run in it.
func (h *harness) public(text string) string { return strings.ReplaceAll(text, h.dir, "$DIR") }

// runStep times one step, checks its result and keeps the sample.
func (h *harness) runStep(ctx context.Context, st step, s *session, vol *volume, r *result) error {
	if r.Failure != "" {
		return nil // in an earlier round
	}
	var all []sample
	for range max(1, st.repeat) {
		sm, err := timeStep(ctx, s, vol, st)
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
	r.Samples = append(r.Samples, sm)
	r.Command = strings.NewReplacer(s.root, "$VOLUME", filepath.Dir(s.root), "$RUN", h.dir, "$INPUTS", s.registry.addr, "$REGISTRY").
		Replace(s.display(st.verb, st.args(s)))
	log.Printf("%-14s %-16s round %d: %s", st.name, s.tool.name, s.round+1, sm)
	return nil
}

// strakeFailure joins what strake failed at.
func strakeFailure(r *record) error {
	var errs []error
	for i := range r.Steps {
		if failure := r.Steps[i].result("strake").Failure; failure != "" {
			errs = append(errs, fmt.Errorf("strake %s: %s", r.Steps[i].Name, failure))
		}
	}
	return errors.Join(errs...)
}
