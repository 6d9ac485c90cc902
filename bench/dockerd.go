//go:build linux

package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// clockTick is the unit of /proc/<pid>/stat on every Linux the tools run on.
const clockTick = 10 * time.Millisecond

// dockerCLI is the client that still speaks to the BuildKit inside dockerd 20.10 by itself; a newer one needs buildx.
const dockerCLI = "/usr/bin/docker"

// A daemon is a running server and how to look at it.
type daemon struct {
	cmd *exec.Cmd
	log bytes.Buffer
	// pidFiles name further processes whose CPU counts.
	pidFiles []string
	// stopped closes when the process has ended, ended says how.
	stopped chan struct{}
	ended   error
}

// startDaemon runs a server until Close. It is ready when ready returns nil.
func startDaemon(ctx context.Context, argv, env []string, ready func() error) (*daemon, error) {
	// The context must not kill it: Close stops it in order.
	cmd := exec.CommandContext(context.WithoutCancel(ctx), argv[0], argv[1:]...) // #nosec G204 -- fixed commands
	d := &daemon{cmd: cmd, stopped: make(chan struct{})}
	d.cmd.Stdout, d.cmd.Stderr = &d.log, &d.log
	d.cmd.Env = append(os.Environ(), env...)
	d.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGTERM}
	if err := d.cmd.Start(); err != nil {
		return nil, err
	}
	go func() {
		d.ended = d.cmd.Wait()
		close(d.stopped)
	}()
	deadline := time.After(30 * time.Second)
	for {
		err := ready()
		if err == nil {
			return d, nil
		}
		select {
		case <-ctx.Done():
			return nil, errors.Join(ctx.Err(), d.Close())
		case <-d.stopped:
			return nil, fmt.Errorf("%s ended: %w: %s", argv[0], d.ended, lastLines(d.log.String()))
		case <-deadline:
			return nil, errors.Join(fmt.Errorf("%s is not ready: %w", argv[0], err), d.Close())
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// Close asks the daemon to end and kills it after 20 seconds.
func (d *daemon) Close() error {
	if err := d.cmd.Process.Signal(syscall.SIGTERM); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return err
	}
	select {
	case <-d.stopped:
		return nil
	case <-time.After(20 * time.Second):
	}
	err := syscall.Kill(-d.cmd.Process.Pid, syscall.SIGKILL)
	<-d.stopped
	return err
}

// usage adds up the CPU of the daemon, its waited-for children and the processes of its pid files. Runtime shims that no
// process of these waits for are not seen, which flatters the daemon. RSS is the peak of the daemon's own process.
func (d *daemon) usage(reset bool) (usage, error) {
	pid := d.cmd.Process.Pid
	if reset { // 5 resets the peak
		if err := os.WriteFile(fmt.Sprintf("/proc/%d/clear_refs", pid), []byte("5"), 0); err != nil {
			return usage{}, err
		}
	}
	var u usage
	pids := []int{pid}
	for _, f := range d.pidFiles {
		if b, err := os.ReadFile(f); err == nil { // #nosec G304 -- the daemon's own pid file
			if p, err := strconv.Atoi(strings.TrimSpace(string(b))); err == nil {
				pids = append(pids, p)
			}
		}
	}
	for _, p := range pids {
		cpu, err := processCPU(p)
		if err != nil {
			return usage{}, err
		}
		u.CPU += cpu
	}
	var err error
	u.RSS, err = peakRSS(pid)
	return u, err
}

// processCPU is utime+stime+cutime+cstime, fields 14 to 17 of /proc/<pid>/stat.
func processCPU(pid int) (time.Duration, error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, err
	}
	_, rest, _ := strings.Cut(string(b), ") ")
	fields := strings.Fields(rest)
	if len(fields) < 15 {
		return 0, fmt.Errorf("stat of %d: %d fields", pid, len(fields))
	}
	var ticks time.Duration
	for _, f := range fields[11:15] {
		n, err := strconv.ParseInt(f, 10, 64)
		if err != nil {
			return 0, fmt.Errorf("stat of %d: %w", pid, err)
		}
		ticks += time.Duration(n)
	}
	return ticks * clockTick, nil
}

func peakRSS(pid int) (int64, error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(b)) {
		if v, ok := strings.CutPrefix(line, "VmHWM:"); ok {
			kb, err := strconv.ParseInt(strings.TrimSuffix(strings.TrimSpace(v), " kB"), 10, 64)
			return kb << 10, err
		}
	}
	return 0, fmt.Errorf("status of %d has no VmHWM", pid)
}

// dockerTool is dockerd with a client; env chooses the builder.
func dockerTool(name, note, env string, timed []string) *tool {
	return &tool{
		name: name, note: note, needRoot: true, timed: timed,
		versions: [][]string{{"dockerd", "--version"}, {dockerCLI, "--version"}, {"containerd", "--version"}},
		open: func(ctx context.Context, at place) (*client, error) {
			d, err := startDockerd(ctx, at)
			if err != nil {
				return nil, err
			}
			return &client{
				argv: func(verb string, args []string) []string {
					return append([]string{dockerCLI}, dockerWords(verb, args)...)
				},
				env:    []string{"DOCKER_HOST=unix://" + filepath.Join(at.run, "d.sock"), "DOCKER_CONFIG=" + filepath.Join(at.run, "cfg"), env},
				hide:   []string{dockerCLI, env + " docker"},
				daemon: d,
			}, nil
		},
	}
}

// startDockerd starts dockerd with its state at the place; without a network it has no bridge and makes no rules.
func startDockerd(ctx context.Context, at place) (*daemon, error) {
	sock, exe := filepath.Join(at.run, "d.sock"), filepath.Join(at.run, "x")
	argv := []string{
		"dockerd", "--data-root", filepath.Join(at.store, "docker"), "--exec-root", exe, "-H", "unix://" + sock,
		"--pidfile", filepath.Join(at.run, "d.pid"), "--storage-driver", "overlay2",
	}
	if !at.network {
		argv = append(argv, "--iptables=false", "--ip6tables=false", "--bridge=none")
	}
	d, err := startDaemon(ctx, argv, nil, func() error {
		c, err := (&net.Dialer{}).DialContext(ctx, "unix", sock)
		if err != nil {
			return err
		}
		defer func() { _ = c.Close() }() // a probe
		if err := c.SetDeadline(time.Now().Add(2 * time.Second)); err != nil {
			return err
		}
		if _, err := c.Write([]byte("GET /_ping HTTP/1.0\r\n\r\n")); err != nil {
			return err
		}
		b := make([]byte, 64)
		n, err := c.Read(b)
		if err != nil || !bytes.Contains(b[:n], []byte(" 200 ")) {
			return fmt.Errorf("ping: %q: %w", b[:n], errors.Join(err, errors.New("not ready")))
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	d.pidFiles = []string{filepath.Join(exe, "containerd", "containerd.pid")}
	return d, nil
}
