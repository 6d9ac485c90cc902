//go:build linux

package main

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"
)

// figures are those of one round of a case on one server.
type figures struct {
	rate     float64 // requests a second; a POST and its PUT are one
	p50, p99 time.Duration
	cpu      time.Duration // of the server, for each request
	rss      int64         // peak, bytes
}

func (f figures) String() string {
	return fmt.Sprintf("%8.0f/s  p50 %-9v p99 %-9v cpu %-8v rss %d MB", f.rate, short(f.p50), short(f.p99), short(f.cpu), f.rss/1e6)
}

func short(d time.Duration) time.Duration { return d.Round(max(d/1000, time.Microsecond/10)) }

// A row is a case with a count of clients: the figures of each server, of all rounds.
type row struct {
	name, title string
	clients     int
	figures     [][]figures
}

// median is the middle one of each figure.
func median(all []figures) figures {
	return figures{
		rate: middle(all, func(f figures) float64 { return f.rate }),
		p50:  middle(all, func(f figures) time.Duration { return f.p50 }),
		p99:  middle(all, func(f figures) time.Duration { return f.p99 }),
		cpu:  middle(all, func(f figures) time.Duration { return f.cpu }),
		rss:  middle(all, func(f figures) int64 { return f.rss }),
	}
}

func middle[T cmp.Ordered](all []figures, field func(figures) T) T {
	values := make([]T, len(all))
	for i, f := range all {
		values[i] = field(f)
	}
	slices.Sort(values)
	return values[(len(values)-1)/2]
}

func report(servers []*server, rows []*row, missing []string, machine string, o options) string {
	b := &strings.Builder{}
	fmt.Fprintf(b, "# Benchmarks of the Hub\n\nWritten by `make bench-hub`. A figure by itself proves nothing: compare those of one case.\n\n"+
		"Measured %s on %s: %d rounds of %v for each case and server, in turns; medians of the rounds. Clients and server share the\n"+
		"machine, one connection a client. Each server has 100 images in one repository and %d tags in another; no server logs single\n"+
		"requests. *CPU* is the server's own time for each request, *RSS* its peak.\n\n",
		time.Now().UTC().Format("2006-01-02 15:04 UTC"), machine, o.rounds, o.last, o.tags)
	for _, s := range servers {
		fmt.Fprintf(b, "- %s: %s\n", s.name, s.version)
	}
	for _, m := range missing {
		fmt.Fprintf(b, "- not measured: %s\n", m)
	}
	b.WriteString("\n| case | clients | server | requests/s | p50 | p99 | CPU | RSS MB | against strake-hub |\n|---|---|---|---|---|---|---|---|---|\n")
	for _, r := range rows {
		first := median(r.figures[0])
		for i, s := range servers {
			m := median(r.figures[i])
			ratio := ""
			if i > 0 {
				ratio = fmt.Sprintf("%.2fx the rate, %.2fx the p99, %.2fx the CPU", m.rate/first.rate, float64(m.p99)/float64(first.p99), float64(m.cpu)/float64(first.cpu))
			}
			fmt.Fprintf(b, "| %s | %d | %s | %.0f | %v | %v | %v | %.0f | %s |\n", r.name, r.clients, s.name, m.rate, short(m.p50), short(m.p99), short(m.cpu), float64(m.rss)/1e6, ratio)
		}
	}
	b.WriteString("\n")
	for _, c := range cases {
		fmt.Fprintf(b, "- %s: %s\n", c.name, c.title)
	}
	return b.String()
}
