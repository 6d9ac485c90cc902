package engine

import (
	"bytes"
	"cmp"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/containerd/errdefs"
	containertypes "github.com/moby/moby/api/types/container"
)

// TopContainer lists the processes of a container as the ps of this machine does, with its arguments; none are -ef.
func TopContainer(ctx context.Context, env *Env, ref string, args []string) (containertypes.TopResponse, error) {
	c, err := containers(env).Get(ctx, ref)
	if err != nil {
		return containertypes.TopResponse{}, err
	}
	switch {
	case c.State.Status == containertypes.StateRestarting:
		return containertypes.TopResponse{}, messageError{"Container " + c.ID + " is restarting, wait until the container is running", errdefs.ErrConflict}
	case !c.State.Running():
		return containertypes.TopResponse{}, notRunning(c)
	}
	pids, err := processesOf(c.State.Pid)
	if err != nil {
		return containertypes.TopResponse{}, err
	}
	if len(args) == 0 {
		args = []string{"-ef"}
	}
	var out, said bytes.Buffer
	cmd := exec.CommandContext(ctx, "ps", args...)
	cmd.Stdout, cmd.Stderr = &out, &said
	if err := cmd.Run(); err != nil {
		why, _, _ := strings.Cut(strings.TrimSpace(said.String()), "\n") // what follows is how ps is used
		return containertypes.TopResponse{}, messageError{"ps: " + cmp.Or(why, err.Error()), errdefs.ErrInvalidArgument}
	}
	return parsePs(out.String(), pids)
}

// parsePs picks the lines of processes from what ps printed.
func parsePs(text string, pids []int) (r containertypes.TopResponse, err error) {
	lines := strings.Split(strings.TrimRight(text, "\n"), "\n")
	r.Titles = strings.Fields(lines[0])
	at := slices.Index(r.Titles, "PID")
	if at < 0 {
		return r, messageError{"Couldn't find PID field in ps output", errdefs.ErrInvalidArgument}
	}
	r.Processes = [][]string{}
	for _, line := range lines[1:] {
		fields := strings.Fields(line)
		if len(fields) <= at {
			continue
		}
		pid, err := strconv.Atoi(fields[at])
		if err != nil || !slices.Contains(pids, pid) {
			continue
		}
		if n := len(r.Titles); len(fields) > n { // the last column has spaces
			fields = append(fields[:n-1:n-1], strings.Join(fields[n-1:], " "))
		}
		r.Processes = append(r.Processes, fields)
	}
	return r, nil
}

// processesOf lists the processes of the container whose first one is pid: those of its namespace or, where that is the machine's,
// its descendants.
func processesOf(pid int) ([]int, error) {
	own, err := os.Readlink("/proc/self/ns/pid")
	if err != nil {
		return nil, err
	}
	theirs, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/pid", pid))
	if err != nil {
		return nil, err
	}
	paths, err := filepath.Glob("/proc/[0-9]*")
	if err != nil {
		return nil, err
	}
	parents, pids := map[int]int{}, []int{}
	for _, path := range paths {
		n, err := strconv.Atoi(filepath.Base(path))
		if err != nil {
			continue
		}
		if ns, err := os.Readlink(path + "/ns/pid"); err == nil && ns == theirs && theirs != own {
			pids = append(pids, n)
		}
		if text, err := os.ReadFile(path + "/stat"); err == nil {
			if fields := strings.Fields(string(text[bytes.LastIndexByte(text, ')')+1:])); len(fields) > 1 {
				parents[n], _ = strconv.Atoi(fields[1]) // written by the kernel
			}
		}
	}
	if theirs != own {
		return pids, nil
	}
	for n := range parents {
		for at, depth := n, 0; at > 1 && depth < 1000; at, depth = parents[at], depth+1 {
			if at == pid {
				pids = append(pids, n)
				break
			}
		}
	}
	return pids, nil
}
