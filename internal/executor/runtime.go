package executor

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/containerd/errdefs"
)

// RuntimeVariable is the environment variable that names the runtime to use, by path or by name in PATH.
const RuntimeVariable = "STRAKE_RUNTIME"

// FindRuntime returns the path of the OCI runtime to use: the one that STRAKE_RUNTIME names, else crun, which is several times
// faster, or runc from PATH, else the runc beside the running program. Without a runtime the error is errdefs.ErrNotFound. No
// program is run: Version asks for the version.
func FindRuntime() (string, error) {
	if name := os.Getenv(RuntimeVariable); name != "" {
		path, err := lookPath(name)
		if err != nil {
			return "", fmt.Errorf("find the runtime that %s names: %w: %w", RuntimeVariable, errdefs.ErrNotFound, err)
		}
		return path, nil
	}
	names := []string{"crun", "runc"}
	if self, err := os.Executable(); err == nil {
		names = append(names, filepath.Join(filepath.Dir(self), "runc"))
	}
	for _, name := range names {
		if path, err := lookPath(name); err == nil {
			return path, nil
		}
	}
	return "", fmt.Errorf("find an OCI runtime: neither runc nor crun is in PATH: %w", errdefs.ErrNotFound)
}

// lookPath returns the absolute path of a program; one found in the working directory counts as found.
func lookPath(name string) (string, error) {
	path, err := exec.LookPath(name)
	if err != nil && !errors.Is(err, exec.ErrDot) {
		return "", err
	}
	return filepath.Abs(path)
}

// Version returns the first line of what the runtime says of its version, as "runc version 1.1.5".
func Version(ctx context.Context, path string) (string, error) {
	out, err := exec.CommandContext(ctx, path, "--version").Output()
	if err != nil {
		return "", fmt.Errorf("ask %s for its version: %w", path, err)
	}
	first, _, _ := strings.Cut(string(out), "\n")
	return first, nil
}

// A cgroupMode is the way in which a machine's cgroups are mounted.
type cgroupMode int

const (
	cgroupNone    cgroupMode = iota // not mounted
	cgroupLegacy                    // version 1 alone
	cgroupHybrid                    // version 1, and version 2 beside it without controllers
	cgroupUnified                   // version 2 alone
)

// cgroupRoot is where cgroups are mounted by convention.
const cgroupRoot = "/sys/fs/cgroup"

// currentCgroups looks at the machine's cgroup mounts by the files that each version has.
func currentCgroups() cgroupMode {
	if exists(cgroupRoot + "/cgroup.controllers") {
		return cgroupUnified
	}
	if !exists(cgroupRoot + "/devices/devices.list") {
		return cgroupNone
	}
	if exists(cgroupRoot + "/unified/cgroup.controllers") {
		return cgroupHybrid
	}
	return cgroupLegacy
}

// UnifiedCgroups reports whether the machine's cgroups are of version 2 alone.
func UnifiedCgroups() bool { return currentCgroups() == cgroupUnified }

// exists reports whether a file is there, whatever it is.
func exists(path string) bool {
	_, err := os.Lstat(path)
	return !errors.Is(err, fs.ErrNotExist)
}
