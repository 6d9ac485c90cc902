//go:build linux

package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"time"
)

// A comparison is what a goal is judged on.
type comparison struct {
	// strake and fastest are medians; fastest is the peer with the smallest wall time, its zero value when none ran.
	strake, fastest, baseline sample
	in                        *inputs
}

// A goal is a published target for a step.
type goal struct {
	text string
	met  func(comparison) bool
}

// ratioGoal asks for a wall time that many times smaller than the fastest peer's.
func ratioGoal(times float64) goal {
	return goal{fmt.Sprintf("%gx the fastest peer", times), func(c comparison) bool {
		return c.fastest.Wall > 0 && float64(c.strake.Wall)*times <= float64(c.fastest.Wall)
	}}
}

func timeGoal(limit time.Duration) goal {
	return goal{fmt.Sprintf("under %v", limit), func(c comparison) bool { return c.strake.Wall < limit }}
}

// diskGoal limits the store after the step to compressed plus uncompressed layer bytes, times slack.
func diskGoal(slack float64) goal {
	return goal{fmt.Sprintf("disk at most %g of compressed + uncompressed", slack), func(c comparison) bool {
		compressed, plain := c.in.sizes()
		return float64(c.strake.Disk) <= slack*float64(compressed+plain)
	}}
}

// compare gathers the medians of a step; ok is false when strake has none.
func (h *harness) compare(st step) (c comparison, fastest string, ok bool) {
	c.in = h.in
	for _, t := range h.tools {
		r := h.result(st.name, t.name)
		if len(r.samples) == 0 || r.failure != nil {
			continue
		}
		m := medianSample(r.samples)
		switch {
		case t.name == "strake":
			c.strake, ok = m, true
		case t.baseline:
			c.baseline = m
		case fastest == "" || m.Wall < c.fastest.Wall:
			c.fastest, fastest = m, t.name
		}
	}
	return c, fastest, ok
}

// writeReport replaces the report at name.
func writeReport(name string, h *harness) error {
	var b strings.Builder
	h.writeHead(&b)
	h.writeSummary(&b)
	for _, g := range groups() {
		if !selected(h.opts.Only, g.name) {
			continue
		}
		for _, st := range g.steps {
			h.writeStep(&b, st)
		}
	}
	if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil { // #nosec G301 -- a directory of the repository
		return err
	}
	f, err := os.CreateTemp(filepath.Dir(name), ".benchmarks")
	if err != nil {
		return err
	}
	_, err = f.WriteString(b.String())
	err = errors.Join(err, f.Chmod(0o644), f.Sync(), f.Close())
	if err == nil {
		err = os.Rename(f.Name(), name)
	}
	if err != nil {
		return errors.Join(err, os.Remove(f.Name()))
	}
	return nil
}

func (h *harness) writeHead(b *strings.Builder) {
	var uts syscall.Utsname
	kernel := "unknown"
	if syscall.Uname(&uts) == nil {
		var r []byte
		for _, c := range uts.Release {
			if c == 0 {
				break
			}
			r = append(r, byte(c))
		}
		kernel = string(r)
	}
	store := "a directory on the root file system"
	if h.opts.Fresh {
		store = "a fresh loop-mounted ext4 for each tool and round"
	}
	fmt.Fprintf(b, "# Benchmarks\n\nWritten by `make bench` on %s. A time by itself proves nothing: compare the ratios.\n\n",
		time.Now().UTC().Format(time.DateOnly))
	fmt.Fprintf(b, "- Machine: %d cores, Linux %s, %s; load average at the end %s\n", runtime.NumCPU(), kernel, runtime.GOARCH, loadAverage())
	fmt.Fprintf(b, "- Method: %d rounds, tools interleaved; %s; inputs in the page cache; each result is checked before its time counts\n",
		h.opts.Rounds, store)
	b.WriteString("- *wall* is until the command returned, *synced* until its file system was also written back; *spread* is (max - min) / median\n" +
		"- *CPU* is user + system of the command, its waited-for children and its daemon (dockerd + containerd). Processes that nobody\n" +
		"  waits for (conmon, runtime shims) are missing, which flatters podman, buildah and dockerd\n" +
		"- *RSS* is the peak of the command or its daemon's main process, whichever is larger\n" +
		"- *wire* is what the registry's process wrote: bytes sent, or bytes stored of what it received\n")
	fmt.Fprintf(b, "- The harness's own peak is %.0f MB: no smaller peak can be told\n\n", float64(selfPeak())/1e6)
	b.WriteString("| tool | version | set-up |\n|---|---|---|\n")
	for _, t := range h.tools {
		fmt.Fprintf(b, "| %s | %s | %s |\n", t.name, t.version, t.note)
	}
	for _, m := range h.missing {
		fmt.Fprintf(b, "\nNot measured: %s\n", m)
	}
	fmt.Fprintf(b, "\nInputs from seed %d at scale %g:\n\n| input | bytes | sha256 | uncompressed | sha256 |\n|---|---|---|---|---|\n", h.opts.Seed, h.opts.Scale)
	for i, l := range h.in.Layers {
		fmt.Fprintf(b, "| layer %d | %d | `%s` | %d | `%s` |\n", i+1, l.Size, short(l.Digest), l.TarSize, short(l.DiffID))
	}
	fmt.Fprintf(b, "| image | %d | `%s` | | |\n", len(h.in.Config), short(h.in.imageID()))
	fmt.Fprintf(b, "| base (busybox) | %d | `%s` | | |\n", h.in.Base.Size, short(h.in.Base.Digest))
	fmt.Fprintf(b, "| unique layers of the related images | | | %d | |\n\n", h.in.Related)
	fmt.Fprintf(b, "Limits of a pull on one core here: inflating the larger layer %s; inflating and hashing everything once %s.\n\n",
		round(h.limits.Inflate), round(h.limits.Total))
}

func short(digest string) string { return strings.TrimPrefix(digest, "sha256:")[:16] }

func (h *harness) writeSummary(b *strings.Builder) {
	b.WriteString("## Summary\n\n| case | strake | fastest peer | ratio | ratio synced | goals |\n|---|---|---|---|---|---|\n")
	for _, g := range groups() {
		if !selected(h.opts.Only, g.name) {
			continue
		}
		for _, st := range g.steps {
			c, fastest, ok := h.compare(st)
			if !ok {
				fmt.Fprintf(b, "| %s | - | %s %s | | | not measured |\n", st.name, fastest, show(c.fastest.Wall))
				continue
			}
			peer, ratio, synced := "none", "", ""
			if fastest != "" {
				peer = fastest + " " + show(c.fastest.Wall)
				ratio = fmt.Sprintf("%.1fx", float64(c.fastest.Wall)/float64(c.strake.Wall))
				synced = fmt.Sprintf("%.1fx", float64(c.fastest.Synced)/float64(c.strake.Synced))
			}
			fmt.Fprintf(b, "| %s | %s | %s | %s | %s | %s |\n", st.name, show(c.strake.Wall), peer, ratio, synced, goalText(st, c))
		}
	}
	b.WriteString("\n")
}

func goalText(st step, c comparison) string {
	var out []string
	for _, g := range st.goals {
		verdict := "**missed**"
		if g.met(c) {
			verdict = "met"
		}
		out = append(out, g.text+": "+verdict)
	}
	return strings.Join(out, "; ")
}

func show(d time.Duration) string {
	switch {
	case d == 0:
		return ""
	case d < time.Second:
		return fmt.Sprintf("%.1f ms", d.Seconds()*1e3)
	default:
		return fmt.Sprintf("%.2f s", d.Seconds())
	}
}

func megabytes(n int64) string {
	if n == 0 {
		return ""
	}
	return fmt.Sprintf("%.1f", float64(n)/1e6)
}

// writeStep writes the table of one step: every tool, then the commands.
func (h *harness) writeStep(b *strings.Builder, st step) {
	fmt.Fprintf(b, "## %s: %s\n\n", st.name, st.title)
	b.WriteString("| tool | wall median | min | spread | synced median | CPU | RSS MB | disk MB | wire MB |\n|---|---|---|---|---|---|---|---|---|\n")
	var commands, failures strings.Builder
	for _, t := range h.tools {
		r := h.result(st.name, t.name)
		if r.failure != nil {
			fmt.Fprintf(&failures, "\n%s failed: %s\n", t.name, strings.ReplaceAll(r.failure.Error(), h.dir, "$DIR"))
		}
		if len(r.samples) == 0 || r.failure != nil {
			continue
		}
		m := medianSample(r.samples)
		walls := sorted(r.samples, func(s sample) time.Duration { return s.Wall })
		spread := float64(walls[len(walls)-1]-walls[0]) / float64(m.Wall) * 100
		fmt.Fprintf(b, "| %s | %s | %s | %.0f %% | %s | %s | %s | %s | %s |\n", t.name, show(m.Wall), show(walls[0]), spread, show(m.Synced),
			show(m.CPU), megabytes(m.RSS), megabytes(m.Disk), megabytes(m.Wire))
		fmt.Fprintf(&commands, "    %s\n", r.command)
	}
	fmt.Fprintf(b, "\n%s%s\n", commands.String(), failures.String())
}
