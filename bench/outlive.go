//go:build linux

package main

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// outliveLimit is how long a sample waits for processes that outlive their commands.
const outliveLimit = 5 * time.Second

// adoptOrphans makes this process the parent of every descendant whose own parent ends: monitors, conmon and runtime shims, whose
// CPU nobody else would tell.
func adoptOrphans() error {
	if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
		return fmt.Errorf("adopt orphans: %w", err)
	}
	return nil
}

// An outlived is the CPU time that adopted processes have used so far, by process.
type outlived map[int]time.Duration

// orphans are the children that the harness did not start; no command of its own may be running.
func orphans(own []int) ([]int, error) {
	self := os.Getpid()
	parents, err := parentsOf()
	if err != nil {
		return nil, err
	}
	var pids []int
	for pid, parent := range parents {
		if parent == self && !slices.Contains(own, pid) {
			pids = append(pids, pid)
		}
	}
	return pids, nil
}

// lookOutlived reaps the orphans that have ended and tells what the others have used; spent is what those that ended have used
// since before was looked at.
func lookOutlived(own []int, before outlived) (now outlived, spent time.Duration, err error) {
	pids, err := orphans(own)
	if err != nil {
		return nil, 0, err
	}
	now = outlived{}
	for _, pid := range pids {
		var ru unix.Rusage
		got, err := unix.Wait4(pid, nil, unix.WNOHANG, &ru)
		switch {
		case errors.Is(err, unix.ECHILD):
		case err != nil:
			return nil, 0, fmt.Errorf("wait for %d: %w", pid, err)
		case got == pid:
			spent += time.Duration(ru.Utime.Nano()+ru.Stime.Nano()) - before[pid]
		default:
			if now[pid], err = processCPU(pid); err != nil {
				return nil, 0, err
			}
		}
	}
	return now, spent, nil
}

// spentSince waits for the orphans that came since before, unless they stay, and adds up what all of them used.
func spentSince(own []int, before outlived, stay bool) (time.Duration, error) {
	var total time.Duration
	for deadline := time.Now().Add(outliveLimit); ; time.Sleep(2 * time.Millisecond) {
		now, spent, err := lookOutlived(own, before)
		if err != nil {
			return 0, err
		}
		total += spent
		waiting := false
		for pid := range now {
			if _, old := before[pid]; !old {
				waiting = true
			}
		}
		if waiting && !stay && time.Now().Before(deadline) {
			continue
		}
		for pid, used := range now {
			total += used - before[pid]
		}
		return total, nil
	}
}

// killOrphans ends what a session left behind.
func killOrphans(own []int) error {
	for deadline := time.Now().Add(outliveLimit); ; time.Sleep(5 * time.Millisecond) {
		left, _, err := lookOutlived(own, nil)
		if err != nil || len(left) == 0 {
			return err
		}
		for pid := range left {
			if err := unix.Kill(pid, unix.SIGKILL); err != nil && !errors.Is(err, unix.ESRCH) {
				return fmt.Errorf("kill %d: %w", pid, err)
			}
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("%d processes do not end", len(left))
		}
	}
}

// parentsOf has the parent of each process.
func parentsOf() (map[int]int, error) {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil, err
	}
	parents := map[int]int{}
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
		if gone(err) {
			continue
		}
		if err != nil {
			return nil, err
		}
		_, rest, _ := strings.Cut(string(b), ") ")
		if f := strings.Fields(rest); len(f) > 1 {
			if parents[pid], err = strconv.Atoi(f[1]); err != nil {
				return nil, fmt.Errorf("stat of %d: %w", pid, err)
			}
		}
	}
	return parents, nil
}

// memory is what processes hold, in bytes: PSS shares a page among those that map it, Private counts pages that one alone maps.
type memory struct{ PSS, Private int64 }

// helperMemory is the memory of all descendants of the harness that are no container's: those in its own PID namespace.
func helperMemory() (memory, error) {
	parents, err := parentsOf()
	if err != nil {
		return memory{}, err
	}
	self := os.Getpid()
	home, err := os.Readlink("/proc/self/ns/pid")
	if err != nil {
		return memory{}, err
	}
	var total memory
	for pid := range parents {
		up := parents[pid]
		for up > 1 && up != self {
			up = parents[up]
		}
		if up != self {
			continue
		}
		ns, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/pid", pid))
		if gone(err) || err == nil && ns != home {
			continue
		}
		if err != nil {
			return memory{}, err
		}
		if err := total.add(pid); err != nil && !gone(err) {
			return memory{}, err
		}
	}
	return total, nil
}

// add adds the memory of a process.
func (m *memory) add(pid int) error {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/smaps_rollup", pid))
	if err != nil {
		return err
	}
	for lines := bufio.NewScanner(bytes.NewReader(b)); lines.Scan(); {
		f := strings.Fields(lines.Text())
		if len(f) != 3 || f[2] != "kB" {
			continue
		}
		kb, err := strconv.ParseInt(f[1], 10, 64)
		if err != nil {
			return fmt.Errorf("smaps_rollup of %d: %w", pid, err)
		}
		switch f[0] {
		case "Pss:":
			m.PSS += kb << 10
		case "Private_Clean:", "Private_Dirty:":
			m.Private += kb << 10
		}
	}
	return nil
}

// gone reports whether an error says that the process has ended.
func gone(err error) bool { return errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ESRCH) }
