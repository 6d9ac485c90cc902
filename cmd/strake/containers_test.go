package main_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// marked lists the processes with a variable in their environment, which all processes of a test's containers have.
func marked(mark string) (pids []int) {
	paths, err := filepath.Glob("/proc/[0-9]*/environ")
	if err != nil {
		return nil
	}
	for _, path := range paths {
		text, err := os.ReadFile(path)
		if err != nil || !strings.Contains(string(text), mark) {
			continue
		}
		if pid, err := strconv.Atoi(filepath.Base(filepath.Dir(path))); err == nil {
			pids = append(pids, pid)
		}
	}
	return pids
}

// parent is a process's, 0 where it is gone.
func parent(pid int) int {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0
	}
	for line := range strings.Lines(string(text)) {
		if n, ok := strings.CutPrefix(line, "PPid:"); ok {
			ppid, _ := strconv.Atoi(strings.TrimSpace(n)) // written by the kernel
			return ppid
		}
	}
	return 0
}

// killings are ways in which a container's life is cut short, after a pause: what starts it is killed, its monitor, or its first
// process.
var killings = map[string]func(t *testing.T, w *world, name string, pause time.Duration){
	"command": func(_ *testing.T, w *world, name string, pause time.Duration) {
		ctx, cancel := context.WithTimeout(context.Background(), pause)
		defer cancel()
		cmd := w.command(ctx, "a", "run", "-d", "--name", name, "-e", "MARK="+name, "busybox", "sleep", "1000")
		cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGKILL) }
		_ = cmd.Run() // it is killed, or was faster
	},
	"monitor": func(t *testing.T, w *world, name string, pause time.Duration) {
		w.strake("a", "run", "-d", "--name", name, "-e", "MARK="+name, "busybox", "sleep", "1000")
		pids := marked("MARK=" + name)
		if len(pids) == 0 {
			t.Fatal("the container has no process")
		}
		monitor := parent(pids[0])
		time.Sleep(pause / 10)
		_ = syscall.Kill(monitor, syscall.SIGKILL)
	},
	"process": func(_ *testing.T, w *world, name string, pause time.Duration) {
		w.strake("a", "run", "-d", "--name", name, "-e", "MARK="+name, "busybox", "sleep", "1000")
		time.Sleep(pause / 10)
		for _, pid := range marked("MARK=" + name) {
			_ = syscall.Kill(pid, syscall.SIGKILL)
		}
	},
}

// Whatever is killed, and whenever: ps tells the truth afterwards, and with the container all that was its goes.
func TestKilledContainers(t *testing.T) {
	w := newWorld(t)
	w.busybox("a")
	rounds := 3
	if os.Getenv("STRAKE_SOAK") != "" {
		rounds = 200
	}
	for round := range rounds {
		for how, kill := range killings {
			name := fmt.Sprintf("%s-%d-%d", how, os.Getpid(), round)
			kill(t, w, name, time.Duration(rand.IntN(300))*time.Millisecond)
			w.settled(t, name)
			if out, err := w.try("a", "rm", "-f", name); err != nil && !strings.Contains(out, "No such container") {
				t.Fatalf("%s: rm: %v\n%s", name, err, out)
			}
		}
	}
	w.nothingLeft(t)
}

// settled waits until ps and the processes say the same.
func (w *world) settled(t *testing.T, name string) {
	t.Helper()
	var status string
	var pids []int
	for deadline := time.Now().Add(20 * time.Second); time.Now().Before(deadline); time.Sleep(20 * time.Millisecond) {
		status = w.strake("a", "ps", "-a", "--filter", "name="+name, "--format", "{{.State}}")
		pids = marked("MARK=" + name + "\x00")
		live := 0
		for _, pid := range pids {
			if parent(pid) > 0 {
				live++
			}
		}
		if (status == "running") == (live > 0) {
			return
		}
	}
	t.Fatalf("%s: ps says %q, and its processes are %v", name, status, pids)
}

// nothingLeft fails where something of a container is there that there is none of.
func (w *world) nothingLeft(t *testing.T) {
	t.Helper()
	if out := w.strake("a", "ps", "-aq"); out != "" {
		t.Errorf("containers are left: %s", out)
	}
	w.waitFor("the last monitor", func() bool { return !strings.Contains(w.run("ps", "-ef"), w.path("a")+" container-monitor") })
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(string(mounts), w.path("a")) {
		t.Error("something is mounted in the store")
	}
	if out := w.strake("a", "store", "check"); strings.Contains(out, "damaged") {
		t.Errorf("store check: %s", out)
	}
	w.strake("a", "system", "prune", "-f")
	left, err := os.ReadDir(w.path("a", "containers"))
	if err != nil && !os.IsNotExist(err) {
		t.Fatal(err)
	}
	if len(left) > 0 {
		t.Errorf("%d directories of containers are left", len(left))
	}
}
