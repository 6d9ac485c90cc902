//go:build linux

package main

import (
	"context"
	"fmt"
	"strings"
	"time"
)

const (
	atOnce         = 20
	idleContainers = 10
	manyContainers = 200
	manyProcesses  = 8
	idleName       = "idle{n}"
)

// containersGroup runs containers: one after the other, many at once, and many that stay. Bare runtimes are the lower bound of what
// needs no network.
func containersGroup() group {
	run := func(*session) []string { return []string{baseName, "true"} }
	idle := func(*session) []string { return []string{idleName, baseName, "/bin/busybox", "sleep", "3600"} }
	managers := []string{"strake", "dockerd", "podman"}
	remove := func(*session) []string { return []string{idleName} }
	return group{
		name: "containers", tools: []string{"strake", "dockerd", "podman", "podman-crun", "runc", "crun"}, network: true, rounds: 5, peerRounds: 2,
		prepare: importBase,
		steps: []step{
			{
				name: "run-host", title: "run --rm true, in the host's network", verb: "run", repeat: 5, args: run, check: noContainers,
				goals: []goal{bareGoal(1.5), ratioGoal(2)},
			}, {
				name: "run-bridge", title: "run --rm true, with a network of its own on the default bridge", verb: "run-bridge", repeat: 3,
				args: run, check: noContainers, goals: []goal{ratioGoal(2)},
			}, {
				name: "run-limits", title: "run --rm -m 64m --pids-limit 100 true, in the host's network", verb: "run-limits", repeat: 3,
				args: run, check: noContainers, tools: managers, goals: []goal{ratioGoal(2)},
			}, {
				name: "at-once", title: fmt.Sprintf("%d times run --rm true at once, in the host's network", atOnce), verb: "run", args: run,
				count: atOnce, procs: atOnce, check: noContainers, goals: []goal{bareGoal(1.5), ratioGoal(2)},
			}, {
				name: "idle", title: fmt.Sprintf("Start of %d containers that stay, one after the other, and the memory of what looks after each", idleContainers),
				verb: "start", args: idle, count: idleContainers, stays: true, check: wantContainers(idleContainers),
			}, {
				name: "exec", title: "exec true in one of them", verb: "exec", repeat: 5,
				args:  func(*session) []string { return []string{"idle0", "true"} },
				goals: []goal{ratioGoal(2)},
			}, {
				name: "remove", title: fmt.Sprintf("rm -f of the %d, one after the other", idleContainers), verb: "remove", args: remove,
				count: idleContainers, check: noContainers,
				goals: []goal{ratioGoal(2)},
			}, {
				name: "idle-port", title: fmt.Sprintf("Start of %d containers with a network and a published port, and the memory of what looks after each", idleContainers),
				verb: "publish", args: idle, count: idleContainers, stays: true, check: wantContainers(idleContainers), tools: managers,
			}, {
				name: "remove-port", title: fmt.Sprintf("rm -f of these %d", idleContainers), verb: "remove-port", args: remove,
				count: idleContainers, check: noContainers, tools: managers,
			}, {
				name: "many", title: fmt.Sprintf("%d times run --rm true from %d processes, on the default bridge", manyContainers, manyProcesses),
				verb: "run-bridge", args: run, count: manyContainers, procs: manyProcesses, check: noContainers,
				tools: []string{"strake", "dockerd"}, rounds: 3, peerRounds: 1, goals: []goal{ratioGoal(2)},
			},
		},
	}
}

// bareGoal asks for a wall time of at most that many times the bare runtime's, runc.
func bareGoal(times float64) goal {
	return goal{fmt.Sprintf("within %gx of bare runc", times), func(c comparison) bool {
		return c.baseline.Wall > 0 && float64(c.strake.Wall) <= times*float64(c.baseline.Wall)
	}}
}

// wantContainers fails unless there are n containers.
func wantContainers(n int) func(ctx context.Context, s *session) error {
	return func(ctx context.Context, s *session) error {
		var ids []string
		// A client returns before the daemon or the monitor has removed the last of a container.
		for deadline := time.Now().Add(5 * time.Second); ; time.Sleep(50 * time.Millisecond) {
			out, err := s.output(ctx, "ps")
			if err != nil {
				return err
			}
			if ids = strings.Fields(out); len(ids) == n {
				return nil
			}
			if time.Now().After(deadline) {
				return fmt.Errorf("%d containers, not %d", len(ids), n)
			}
		}
	}
}

func noContainers(ctx context.Context, s *session) error { return wantContainers(0)(ctx, s) }
