package engine

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"runtime"
	"strings"

	"golang.org/x/sys/unix"

	"strake/internal/executor"
	"strake/internal/mount"
	"strake/internal/rootfs"
)

// InfoResult describes this installation, under the names that docker's
// templates have.
type InfoResult struct {
	Images          int
	ServerVersion   string
	Driver          string // how images become root file systems: erofs or unpacked
	DriverReason    string // why, when it is not erofs
	DefaultRuntime  string // path of the OCI runtime; "" if there is none
	RuntimeVersion  string
	KernelVersion   string
	OperatingSystem string
	OSType          string
	Architecture    string
	NCPU            int
	MemTotal        int64 // bytes
	Name            string
	DockerRootDir   string // the store's directory
}

// Info describes the store and what runs containers here. What is missing is
// left empty, and no error.
func Info(ctx context.Context, env *Env) (InfoResult, error) {
	images, err := env.Store.Overview(ctx)
	if err != nil {
		return InfoResult{}, err
	}
	info := InfoResult{
		Images:        len(images),
		ServerVersion: env.Version,
		OSType:        runtime.GOOS,
		Architecture:  runtime.GOARCH,
		NCPU:          runtime.NumCPU(),
		DockerRootDir: env.Store.Root(),
	}
	if info.Name, err = os.Hostname(); err != nil {
		return info, fmt.Errorf("host name: %w", err)
	}
	info.Driver, info.DriverReason = driver(ctx, env)
	if path, err := executor.FindRuntime(); err == nil {
		info.DefaultRuntime = path
		if info.RuntimeVersion, err = executor.Version(ctx, path); err != nil {
			info.RuntimeVersion = "unknown"
		}
	}
	describeHost(&info)
	return info, nil
}

// driver tells how a root file system would be made, and why that way.
func driver(ctx context.Context, env *Env) (name, reason string) {
	ns, err := mount.New(ctx)
	if err != nil {
		return "none", err.Error()
	}
	mounter, reason, err := rootfs.Pick(ctx, mounterOptions(env, ns))
	if err != nil {
		name, reason = "none", err.Error()
	} else {
		name = mounter.Name()
	}
	if closeErr := ns.Close(); err == nil {
		err = closeErr
	}
	if err != nil && reason == "" {
		reason = err.Error()
	}
	return name, reason
}

func describeHost(info *InfoResult) {
	var uts unix.Utsname
	if unix.Uname(&uts) == nil {
		info.KernelVersion = unix.ByteSliceToString(uts.Release[:])
		info.Architecture = unix.ByteSliceToString(uts.Machine[:])
	}
	var sys unix.Sysinfo_t
	if unix.Sysinfo(&sys) == nil {
		info.MemTotal = int64(sys.Totalram) * int64(sys.Unit)
	}
	if b, err := os.ReadFile("/etc/os-release"); err == nil {
		for line := range bytes.Lines(b) {
			if name, ok := strings.CutPrefix(strings.TrimSpace(string(line)), "PRETTY_NAME="); ok {
				info.OperatingSystem = strings.Trim(name, `"'`)
			}
		}
	}
}
