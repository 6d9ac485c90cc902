//go:build linux

package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"
)

// A sample is one timed run of one command.
type sample struct {
	// Wall is the time until the command returned; Synced adds the time to write its volume back.
	Wall   time.Duration `json:"wall"`
	Synced time.Duration `json:"synced"`
	// CPU is user plus system time of the command, what it started, its daemon and what that started.
	CPU time.Duration `json:"cpu"`
	// RSS is the larger peak of the command's and its daemon's resident memory, in bytes.
	RSS int64 `json:"rss"`
	// Disk is the allocated size of the store, in bytes; Wire is what the registry sent and read from its clients.
	Disk int64 `json:"disk,omitempty"`
	Wire int64 `json:"wire,omitempty"`
	// PSS and Private are the memory of what looks after each container that the step started, in bytes.
	PSS     int64 `json:"pss,omitempty"`
	Private int64 `json:"private,omitempty"`
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

// timeStep runs the commands of a step once on a settled volume and measures them.
func timeStep(ctx context.Context, s *session, vol *volume, st step) (sample, error) {
	if err := vol.sync(); err != nil {
		return sample{}, err
	}
	before, err := s.usage(true)
	if err != nil {
		return sample{}, err
	}
	outlived, _, err := lookOutlived(s.own(), nil)
	if err != nil {
		return sample{}, err
	}
	var held memory
	if st.stays {
		if held, err = helperMemory(); err != nil {
			return sample{}, err
		}
	}
	wire := s.registry.wire()
	start := time.Now()
	sm, err := runCommands(ctx, s, st)
	if err != nil {
		return sample{}, err
	}
	sm.Wall = time.Since(start)
	if err := vol.sync(); err != nil {
		return sample{}, err
	}
	sm.Synced, sm.Wire = time.Since(start), s.registry.wire()-wire
	spent, err := spentSince(s.own(), outlived, st.stays)
	if err != nil {
		return sample{}, err
	}
	after, err := s.usage(false)
	if err != nil {
		return sample{}, err
	}
	sm.CPU += spent + after.CPU - before.CPU
	sm.RSS = max(sm.RSS, after.RSS)
	if st.stays {
		now, err := helperMemory()
		if err != nil {
			return sample{}, err
		}
		n := int64(max(1, st.count))
		sm.PSS, sm.Private = (now.PSS-held.PSS)/n, (now.Private-held.Private)/n
	}
	return sm, nil
}

// runCommands runs the commands of a step, procs at once: their CPU together and their largest peak of memory. The first that
// fails is the error, and no other is started then.
func runCommands(ctx context.Context, s *session, st step) (sm sample, err error) {
	var mu sync.Mutex
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(max(1, st.procs))
	for i := range max(1, st.count) {
		g.Go(func() error {
			if err := ctx.Err(); err != nil {
				return err
			}
			state, err := runCommand(ctx, s, st, i)
			if err != nil {
				return err
			}
			mu.Lock()
			defer mu.Unlock()
			sm.CPU += state.UserTime() + state.SystemTime()
			if ru, ok := state.SysUsage().(*syscall.Rusage); ok {
				sm.RSS = max(sm.RSS, ru.Maxrss<<10)
			}
			return nil
		})
	}
	return sm, g.Wait()
}

// runCommand runs the i-th command of a step. Its errors go to a file: a pipe would be kept open by a container that stays.
func runCommand(ctx context.Context, s *session, st step, i int) (_ *os.ProcessState, err error) {
	args := st.args(s)
	for j := range args {
		args[j] = strings.ReplaceAll(args[j], number, strconv.Itoa(i))
	}
	stderr, err := os.CreateTemp(s.scratch, "stderr")
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, stderr.Close(), os.Remove(stderr.Name())) }()
	c := s.command(ctx, st.verb, args...)
	c.Stderr = stderr
	if err := c.Run(); err != nil {
		said, _ := os.ReadFile(stderr.Name()) // the command's error is the one to tell
		return nil, fmt.Errorf("%s: %w: %s", s.display(st.verb, args), err, lastLines(string(said)))
	}
	return c.ProcessState, nil
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

		PSS:     median(all, func(s sample) int64 { return s.PSS }),
		Private: median(all, func(s sample) int64 { return s.Private }),
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
