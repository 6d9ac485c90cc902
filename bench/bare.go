//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"sync/atomic"

	"golang.org/x/sys/unix"
)

// hybridFile says which controllers version 2 has where cgroups are of both versions.
const hybridFile = "/sys/fs/cgroup/unified/cgroup.controllers"

// bareTool is a bare runtime: the lower bound of running containers. What needs a network it does not have.
func bareTool(runtime string, root bool) *tool {
	return &tool{
		name: runtime, note: "bare, a bundle on the volume", baseline: true, needRoot: root, versions: [][]string{{runtime, "--version"}},
		open: func(ctx context.Context, at place) (*client, error) {
			once, stays := filepath.Join(at.store, "bundle"), filepath.Join(at.store, "stays")
			rootfs := filepath.Join(once, "rootfs")
			err := errors.Join(makeBundle(ctx, once, rootfs, "true"), makeBundle(ctx, stays, rootfs, "/bin/busybox", "sleep", "3600"))
			c := &client{argv: bareArgv(runtime, at.run, once, stays, rootfs)}
			if err == nil && runtime == "crun" {
				c.undo, err = hideHybrid()
			}
			return c, err
		},
	}
}

// bareArgv spells the verbs of a runtime whose bundles are once, which ends, and stays.
func bareArgv(runtime, run, once, stays, rootfs string) func(verb string, args []string) []string {
	var runs atomic.Int64
	words := func(args ...string) []string {
		return append([]string{runtime, "--root", filepath.Join(run, runtime)}, args...)
	}
	return func(verb string, args []string) []string {
		switch verb {
		case "run":
			return words("run", "--bundle", once, "bench"+strconv.FormatInt(runs.Add(1), 10))
		case "start":
			return words("run", "--detach", "--bundle", stays, args[0])
		case "exec":
			return words(append([]string{"exec"}, args...)...)
		case "remove":
			return words("delete", "--force", args[0])
		case "ps":
			return words("list", "-q")
		case "import":
			return []string{"tar", "-C", rootfs, "-xf", args[0]}
		}
		return nil
	}
}

// hideHybrid makes crun, which refuses machines whose cgroups are of both versions, use those of version 1: until undone, version 2
// has no controllers in the harness's mount namespace.
func hideHybrid() (undo func() error, err error) {
	if _, err := os.Stat(hybridFile); errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err := unix.Mount(os.DevNull, hybridFile, "", unix.MS_BIND, ""); err != nil {
		return nil, fmt.Errorf("hide the controllers of version 2 from crun: %w", err)
	}
	return func() error { return unix.Unmount(hybridFile, unix.MNT_DETACH) }, nil
}
