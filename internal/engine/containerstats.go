package engine

import (
	"bytes"
	"context"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"
)

// ContainerStats are what a container uses. They are zero for one that does not run.
type ContainerStats struct {
	Ref                string // as it was named; the ID where none was
	ID, Name           string
	CPU                float64 // percent of one processor since the sample before
	Memory, Limit      int64   // bytes, without the cache that can go at once
	Received, Sent     int64   // bytes over networks that are not the host's
	BytesRead, Written int64   // of block devices
	PIDs               int64

	usage time.Duration // of processors, since the start
	at    time.Time
}

// SampleContainers measures containers, in the order of refs or the youngest first: those that refs name or, for none, those that run, and with all the others too. before are
// the samples that CPU is measured since, by ID; without one it is 0.
func SampleContainers(ctx context.Context, env *Env, refs []string, all bool, before map[string]ContainerStats) ([]ContainerStats, error) {
	table := containers(env)
	var list []*Container
	var named []string
	for _, ref := range refs {
		if slices.Contains(named, ref) {
			continue
		}
		c, err := table.Get(ctx, ref)
		if err != nil {
			return nil, err
		}
		list, named = append(list, c), append(named, ref)
	}
	if len(refs) == 0 {
		found, err := table.List(ctx)
		if err != nil {
			return nil, err
		}
		for _, c := range found {
			if all || c.State.Running() {
				list, named = append(list, c), append(named, c.ID)
			}
		}
	}
	samples, limits := make([]ContainerStats, len(list)), readKernelLimits()
	for i, c := range list {
		s := ContainerStats{Ref: named[i], ID: c.ID, Name: c.Name, at: time.Now()}
		if c.State.Pid > 0 {
			s.read(c.State.Pid, c.Spec.HostConfig.NetworkMode.IsHost(), limits.any())
		}
		if old, ok := before[c.ID]; ok && s.usage > old.usage && s.at.After(old.at) {
			s.CPU = float64(s.usage-old.usage) / float64(s.at.Sub(old.at)) * 100
		}
		samples[i] = s
	}
	return samples, nil
}

// read reads the counters of the cgroups that a process is in, of version 1 and 2; where containers have none, as an ordinary user's,
// what its processes use. What is not there is 0.
func (s *ContainerStats) read(pid int, hostNetwork, cgroups bool) {
	dirs := cgroupsOf(pid)
	if !cgroups {
		s.readProcesses(pid)
	} else if unified, ok := dirs[""]; ok && dirs["memory"] == "" {
		s.usage = time.Duration(cgroupNumber(unified, "cpu.stat", "usage_usec")) * time.Microsecond
		s.Memory = cgroupNumber(unified, "memory.current", "") - cgroupNumber(unified, "memory.stat", "inactive_file")
		s.Limit, s.PIDs = cgroupNumber(unified, "memory.max", ""), cgroupNumber(unified, "pids.current", "")
		s.readIO(filepath.Join(unified, "io.stat"))
	} else {
		s.usage = time.Duration(cgroupNumber(dirs["cpuacct"], "cpuacct.usage", ""))
		s.Memory = cgroupNumber(dirs["memory"], "memory.usage_in_bytes", "") - cgroupNumber(dirs["memory"], "memory.stat", "total_inactive_file")
		s.Limit, s.PIDs = cgroupNumber(dirs["memory"], "memory.limit_in_bytes", ""), cgroupNumber(dirs["pids"], "pids.current", "")
		s.readIO(filepath.Join(dirs["blkio"], "blkio.throttle.io_service_bytes"))
	}
	if total := cgroupNumber("/proc", "meminfo", "MemTotal:") << 10; s.Limit == 0 || s.Limit > total {
		s.Limit = total
	}
	s.Memory = max(s.Memory, 0)
	if !hostNetwork {
		s.readNetwork(fmt.Sprintf("/proc/%d/net/dev", pid))
	}
}

// readProcesses adds up what the processes in the PID namespace of one use: the time of those that ended counts as their parents', memory
// that several share counts for each.
func (s *ContainerStats) readProcesses(pid int) {
	namespace := func(pid string) string {
		ns, err := os.Readlink(filepath.Join("/proc", pid, "ns/pid"))
		if err != nil {
			return "" // it has ended
		}
		return ns
	}
	of := namespace(strconv.Itoa(pid))
	all, err := os.ReadDir("/proc")
	if err != nil || of == "" {
		return
	}
	for _, e := range all {
		if n, err := strconv.Atoi(e.Name()); err != nil || n != pid && (namespace(e.Name()) != of || of == namespace("self")) {
			continue
		}
		text, err := os.ReadFile(filepath.Join("/proc", e.Name(), "stat"))
		if err != nil {
			continue
		}
		const utime, cstime, rss = 11, 14, 21 // of the fields behind the name, proc(5)
		fields := strings.Fields(string(text[bytes.LastIndexByte(text, ')')+1:]))
		if len(fields) <= rss {
			continue
		}
		for _, ticks := range fields[utime : cstime+1] {
			n, _ := strconv.ParseInt(ticks, 10, 64) // written by the kernel, which counts hundredths of seconds for programs
			s.usage += time.Duration(n) * time.Second / 100
		}
		pages, _ := strconv.ParseInt(fields[rss], 10, 64) // the same
		s.Memory += pages * int64(os.Getpagesize())
		s.PIDs++
	}
}

// cgroupsOf returns the directories of a process's cgroups by controller; "" is version 2.
func cgroupsOf(pid int) map[string]string {
	dirs := map[string]string{}
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", pid))
	if err != nil {
		return dirs // it has ended
	}
	const top = "/sys/fs/cgroup"
	for line := range strings.Lines(string(text)) {
		parts := strings.SplitN(strings.TrimSpace(line), ":", 3)
		if len(parts) != 3 {
			continue
		}
		for _, c := range strings.Split(parts[1], ",") {
			dirs[c] = filepath.Join(top, c, parts[2])
		}
	}
	return dirs
}

// cgroupNumber reads a number from a file: its only one or, with a key, the one behind that. "max" is the largest.
func cgroupNumber(dir, file, key string) int64 {
	text, err := os.ReadFile(filepath.Join(dir, file))
	if err != nil {
		return 0
	}
	for line := range strings.Lines(string(text)) {
		fields := strings.Fields(line)
		if key != "" && (len(fields) < 2 || fields[0] != key) {
			continue
		}
		if key != "" {
			fields = fields[1:]
		}
		if len(fields) == 0 {
			continue
		}
		if fields[0] == "max" {
			return math.MaxInt64
		}
		n, _ := strconv.ParseInt(fields[0], 10, 64) // written by the kernel
		return n
	}
	return 0
}

// readIO adds up what was read from and written to block devices: "8:0 Read 4096" lines, or "8:0 rbytes=4096 ..." ones.
func (s *ContainerStats) readIO(path string) {
	text, err := os.ReadFile(path)
	if err != nil {
		return
	}
	for line := range strings.Lines(string(text)) {
		fields := strings.Fields(line)
		if len(fields) == 3 && strings.Contains(fields[0], ":") {
			fields = []string{fields[0], fields[1] + "=" + fields[2]}
		}
		for _, f := range fields {
			key, value, _ := strings.Cut(f, "=")
			n, _ := strconv.ParseInt(value, 10, 64) // written by the kernel
			switch key {
			case "Read", "rbytes":
				s.BytesRead += n
			case "Write", "wbytes":
				s.Written += n
			}
		}
	}
}

// readNetwork adds up what the interfaces but the loopback one received and sent.
func (s *ContainerStats) readNetwork(path string) {
	text, err := os.ReadFile(path)
	if err != nil {
		return
	}
	const received, sent, columns = 0, 8, 16
	for line := range strings.Lines(string(text)) {
		name, rest, ok := strings.Cut(line, ":")
		fields := strings.Fields(rest)
		if !ok || strings.TrimSpace(name) == "lo" || len(fields) < columns {
			continue
		}
		in, _ := strconv.ParseInt(fields[received], 10, 64) // written by the kernel
		out, _ := strconv.ParseInt(fields[sent], 10, 64)    // the same
		s.Received, s.Sent = s.Received+in, s.Sent+out
	}
}
