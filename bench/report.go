//go:build linux

package main

import (
	"fmt"
	"slices"
	"strings"
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
func compare(tools []toolRecord, st *stepRecord) (c comparison, fastest string, ok bool) {
	for _, r := range st.Results {
		if len(r.Samples) == 0 || r.Failure != "" {
			continue
		}
		m := medianSample(r.Samples)
		switch {
		case r.Tool == "strake":
			c.strake, ok = m, true
		case slices.ContainsFunc(tools, func(t toolRecord) bool { return t.Name == r.Tool && t.Baseline }):
			if c.baseline.Wall == 0 {
				c.baseline = m // the first: of runc, where there is another
			}
		case fastest == "" || m.Wall < c.fastest.Wall:
			c.fastest, fastest = m, r.Tool
		}
	}
	return c, fastest, ok
}

// writeReport makes the report of the records.
func writeReport(all []record) string {
	b := &strings.Builder{}
	b.WriteString("# Benchmarks\n\nWritten by `make bench`. A time by itself proves nothing: compare the ratios.\n\n" +
		"- Each group of cases says when, where and with which versions it was measured: all its figures are of that run\n" +
		"- Method: tools interleaved, *n* rounds of each (fewer where a peer is slow), each result checked before its time counts;\n" +
		"  inputs in the page cache\n" +
		"- *wall* is until the command returned, *synced* until its file system was also written back; *spread* is (max - min) / median\n" +
		"- *CPU* is user + system of the command, its waited-for children and its daemon (dockerd + containerd, buildkitd). Where a\n" +
		"  group says so, it is also that of processes that outlive their commands (monitors, conmon, runtime shims)\n" +
		"- *RSS* is the peak of the command or its daemon's main process, whichever is larger\n" +
		"- *PSS* is the memory that a container which stays costs besides its own: of monitors, conmon, shims, proxies, and what the\n" +
		"  daemon grew by, pages that several map shared among them; *private* the pages that one maps alone\n" +
		"- *wire* is what the registry's process wrote: bytes sent, or bytes stored of what it received\n\n")
	writeSetup(b, all)
	writeSummary(b, all)
	for i := range all {
		writeGroup(b, &all[i])
	}
	return b.String()
}

// writeSetup lists the tools' set-ups and the inputs, as the newest record has them.
func writeSetup(b *strings.Builder, all []record) {
	newest := slices.Clone(all)
	slices.SortStableFunc(newest, func(a, b record) int { return b.Date.Compare(a.Date) })
	tools, inputs := map[string]bool{}, map[string]bool{}
	b.WriteString("| tool | set-up |\n|---|---|\n")
	for _, r := range newest {
		for _, t := range r.Tools {
			if !tools[t.Name] && t.Note != "" {
				fmt.Fprintf(b, "| %s | %s |\n", t.Name, t.Note)
			}
			tools[t.Name] = true
		}
	}
	b.WriteString("\n| input | bytes | sha256 | uncompressed | sha256 |\n|---|---|---|---|---|\n")
	for _, r := range newest {
		for _, in := range r.Inputs {
			if !inputs[in.Name] {
				fmt.Fprintf(b, "| %s | %s | %s | %s | %s |\n", in.Name, count(in.Size), code(in.Digest), count(in.Plain), code(in.DiffID))
			}
			inputs[in.Name] = true
		}
	}
	b.WriteString("\n")
}

func count(n int64) string {
	if n == 0 {
		return ""
	}
	return fmt.Sprint(n)
}

func code(s string) string {
	if s == "" {
		return ""
	}
	return "`" + s + "`"
}

func writeSummary(b *strings.Builder, all []record) {
	b.WriteString("## Summary\n\n| case | strake | fastest peer | ratio | ratio synced | goals |\n|---|---|---|---|---|---|\n")
	for i := range all {
		for j := range all[i].Steps {
			st := &all[i].Steps[j]
			c, fastest, ok := compare(all[i].Tools, st)
			peer, ratio, synced := "none", "", ""
			if fastest != "" {
				peer = fastest + " " + show(c.fastest.Wall)
			}
			if fastest != "" && ok {
				ratio = fmt.Sprintf("%.1fx", float64(c.fastest.Wall)/float64(c.strake.Wall))
				synced = fmt.Sprintf("%.1fx", float64(c.fastest.Synced)/float64(c.strake.Synced))
			}
			fmt.Fprintf(b, "| %s | %s | %s | %s | %s | %s |\n", st.Name, show(c.strake.Wall), peer, ratio, synced, goalText(st.Goals))
		}
	}
	b.WriteString("\n")
}

func goalText(goals []verdict) string {
	var out []string
	for _, g := range goals {
		said := "**missed**"
		if g.Met {
			said = "met"
		}
		out = append(out, g.Text+": "+said)
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

// writeGroup writes when and how a group was measured, and the tables of its steps.
func writeGroup(b *strings.Builder, r *record) {
	fmt.Fprintf(b, "## %s\n\nMeasured %s on %s; %s; load average at the end %s; inputs from seed %d at scale %g; no peak below %.0f MB can be told.\n\n",
		r.Group, r.Date.UTC().Format("2006-01-02 15:04 UTC"), r.Machine, r.Store, r.Load, r.Seed, r.Scale, float64(r.Floor)/1e6)
	if r.Limits != "" {
		fmt.Fprintf(b, "%s.\n\n", r.Limits)
	}
	if r.Whole {
		b.WriteString("CPU is also that of processes that outlive their commands.\n\n")
	}
	for _, t := range r.Tools {
		fmt.Fprintf(b, "- %s: %s\n", t.Name, t.Version)
	}
	for _, m := range r.Missing {
		fmt.Fprintf(b, "- not measured: %s\n", m)
	}
	b.WriteString("\n")
	for i := range r.Steps {
		writeStep(b, &r.Steps[i])
	}
}

// writeStep writes the table of one step: every tool, then the commands.
func writeStep(b *strings.Builder, st *stepRecord) {
	fmt.Fprintf(b, "### %s: %s\n\n", st.Name, st.Title)
	stays := slices.ContainsFunc(st.Results, func(r result) bool {
		return slices.ContainsFunc(r.Samples, func(s sample) bool { return s.PSS != 0 })
	})
	last, more := "disk MB | wire MB", func(m sample) string { return megabytes(m.Disk) + " | " + megabytes(m.Wire) }
	if stays {
		last, more = "PSS MB | private MB", func(m sample) string { return megabytes(m.PSS) + " | " + megabytes(m.Private) }
	}
	fmt.Fprintf(b, "| tool | n | wall median | min | spread | synced median | CPU | RSS MB | %s |\n|---|---|---|---|---|---|---|---|---|---|\n", last)
	var commands, failures strings.Builder
	for _, r := range st.Results {
		if r.Failure != "" {
			fmt.Fprintf(&failures, "\n%s failed: %s\n", r.Tool, r.Failure)
			continue
		}
		m := medianSample(r.Samples)
		walls := sorted(r.Samples, func(s sample) time.Duration { return s.Wall })
		spread := float64(walls[len(walls)-1]-walls[0]) / float64(m.Wall) * 100
		fmt.Fprintf(b, "| %s | %d | %s | %s | %.0f %% | %s | %s | %s | %s |\n", r.Tool, len(walls), show(m.Wall), show(walls[0]), spread,
			show(m.Synced), show(m.CPU), megabytes(m.RSS), more(m))
		fmt.Fprintf(&commands, "    %s\n", r.Command)
	}
	fmt.Fprintf(b, "\n%s%s\n", commands.String(), failures.String())
}
