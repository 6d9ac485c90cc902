//go:build linux

package main

import (
	"bytes"
	"cmp"
	"context"
	"fmt"
	"os"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// A sample is one timed run of one command.
type sample struct {
	// Wall is the time until the command returned; Synced adds the time to write its volume back.
	Wall   time.Duration `json:"wall"`
	Synced time.Duration `json:"synced"`
	// CPU is user plus system time of the command, its waited-for children and its daemon.
	CPU time.Duration `json:"cpu"`
	// RSS is the larger peak of the command's and its daemon's resident memory, in bytes.
	RSS int64 `json:"rss"`
	// Disk is the allocated size of the store, in bytes; Wire is what the registry sent and read from its clients.
	Disk int64 `json:"disk,omitempty"`
	Wire int64 `json:"wire,omitempty"`
}

func (s sample) String() string {
	return fmt.Sprintf("%v (synced %v), cpu %v, rss %d MB, disk %.1f MB, wire %.1f MB", round(s.Wall), round(s.Synced), round(s.CPU),
		s.RSS/1e6, float64(s.Disk)/1e6, float64(s.Wire)/1e6)
}

func round(d time.Duration) time.Duration {
	if d < time.Second {
		return d.Round(100 * time.Microsecond)
	}
	return d.Round(time.Millisecond)
}

// usage is what a daemon has used since it started.
type usage struct {
	CPU time.Duration
	RSS int64 // peak since the last reset
}

// timeCommand runs one command on a settled volume and measures it.
func timeCommand(ctx context.Context, s *session, vol *volume, verb string, args []string) (sample, error) {
	if err := vol.sync(); err != nil {
		return sample{}, err
	}
	before, err := s.usage(true)
	if err != nil {
		return sample{}, err
	}
	wire := s.registry.wire()
	c := s.command(ctx, verb, args...)
	var stderr bytes.Buffer
	c.Stderr = &stderr
	start := time.Now()
	err = c.Run()
	wall := time.Since(start)
	if err != nil {
		return sample{}, fmt.Errorf("%s: %w: %s", s.display(verb, args), err, lastLines(stderr.String()))
	}
	if err := vol.sync(); err != nil {
		return sample{}, err
	}
	sm := sample{Wall: wall, Synced: time.Since(start), Wire: s.registry.wire() - wire}
	after, err := s.usage(false)
	if err != nil {
		return sample{}, err
	}
	sm.CPU = c.ProcessState.UserTime() + c.ProcessState.SystemTime() + after.CPU - before.CPU
	sm.RSS = after.RSS
	if ru, ok := c.ProcessState.SysUsage().(*syscall.Rusage); ok {
		sm.RSS = max(sm.RSS, ru.Maxrss<<10)
	}
	return sm, nil
}

// lastLines keeps what matters of a command's output.
func lastLines(s string) string {
	const n = 4
	lines := strings.Split(strings.TrimSpace(s), "\n")
	return strings.Join(lines[max(0, len(lines)-n):], " | ")
}

// medianSample takes the median of each field.
func medianSample(all []sample) sample {
	return sample{
		Wall:   median(all, func(s sample) time.Duration { return s.Wall }),
		Synced: median(all, func(s sample) time.Duration { return s.Synced }),
		CPU:    median(all, func(s sample) time.Duration { return s.CPU }),
		RSS:    median(all, func(s sample) int64 { return s.RSS }),
		Disk:   median(all, func(s sample) int64 { return s.Disk }),
		Wire:   median(all, func(s sample) int64 { return s.Wire }),
	}
}

// median is the middle value of a field, the lower of the two in an even number of samples; zero without samples.
func median[T cmp.Ordered](all []sample, field func(sample) T) T {
	values := sorted(all, field)
	if len(values) == 0 {
		var zero T
		return zero
	}
	return values[(len(values)-1)/2]
}

func sorted[T cmp.Ordered](all []sample, field func(sample) T) []T {
	values := make([]T, len(all))
	for i, s := range all {
		values[i] = field(s)
	}
	slices.Sort(values)
	return values
}

// selfPeak is the peak resident memory of this process: no child's figure can be lower, because a child started by vfork
// takes over its parent's peak.
func selfPeak() int64 {
	var ru syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &ru); err != nil {
		return 0
	}
	return ru.Maxrss << 10
}

// loadAverage is the first field of /proc/loadavg.
func loadAverage() string {
	b, err := os.ReadFile("/proc/loadavg")
	if err != nil {
		return "unknown"
	}
	first, _, _ := strings.Cut(string(b), " ")
	return first
}

// machine names the cores and the kernel.
func machine() string {
	kernel := "unknown"
	var uts unix.Utsname
	if unix.Uname(&uts) == nil {
		kernel = unix.ByteSliceToString(uts.Release[:])
	}
	return fmt.Sprintf("%d cores, Linux %s, %s", runtime.NumCPU(), kernel, runtime.GOARCH)
}
