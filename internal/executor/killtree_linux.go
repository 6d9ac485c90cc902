package executor

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// stopTimeout bounds how long a process may take to stop, one that the kernel holds in a system call.
const stopTimeout = 200 * time.Millisecond

// killMaker kills a runtime and the container that it is making, which has no state yet by which the runtime would find it, and no
// cgroup: the runtime's child, or that child's. Who makes is stopped first, so that nothing is added and no id is given away.
func killMaker(runtime *os.Process) {
	var made []int
	stop(runtime.Pid)
	for _, child := range childrenOf(runtime.Pid) {
		stop(child)
		made = append(append(made, child), childrenOf(child)...)
	}
	_ = runtime.Kill() // it may have ended
	for _, pid := range made {
		_ = unix.Kill(pid, unix.SIGKILL) // it may have ended
	}
}

// stop stops a process and waits until it has, or has ended.
func stop(pid int) {
	if unix.Kill(pid, unix.SIGSTOP) != nil {
		return
	}
	for deadline := time.Now().Add(stopTimeout); time.Now().Before(deadline); time.Sleep(time.Millisecond) {
		text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
		state := bytes.TrimSpace(text[bytes.LastIndexByte(text, ')')+1:])
		if err != nil || len(state) == 0 || bytes.IndexByte([]byte("TtZX"), state[0]) >= 0 {
			return
		}
	}
}

// childrenOf returns the children of all threads of a process, those that ended and are not reaped too.
func childrenOf(pid int) (children []int) {
	tasks := fmt.Sprintf("/proc/%d/task", pid)
	threads, err := os.ReadDir(tasks) // filepath.Glob would list the directory of each thread, too, whose entries the kernel then makes
	if err != nil {
		return nil
	}
	for _, thread := range threads {
		text, err := os.ReadFile(filepath.Join(tasks, thread.Name(), "children"))
		if err != nil {
			continue // the thread has ended
		}
		for _, field := range strings.Fields(string(text)) {
			if child, err := strconv.Atoi(field); err == nil {
				children = append(children, child)
			}
		}
	}
	return children
}
