package main_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
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

// runtimeIn is an OCI runtime that starts a container of a store, 0 where there is none.
func runtimeIn(root string) int {
	paths, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		return 0
	}
	for _, path := range paths {
		text, err := os.ReadFile(path)
		if err != nil || !strings.Contains(string(text), "\x00run\x00--detach\x00") || !strings.Contains(string(text), root) {
			continue
		}
		if pid, err := strconv.Atoi(filepath.Base(filepath.Dir(path))); err == nil {
			return pid
		}
	}
	return 0
}

// killings are ways in which a container's life is cut short, after a pause: what starts it is killed, the runtime, its monitor, or its
// first process.
var killings = map[string]func(t *testing.T, w *world, name string, pause time.Duration){
	"command": func(_ *testing.T, w *world, name string, pause time.Duration) {
		ctx, cancel := context.WithTimeout(context.Background(), pause)
		defer cancel()
		cmd := w.command(ctx, "a", "run", "-d", "--name", name, "-e", "MARK="+name, "busybox", "sleep", "1000")
		cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGKILL) }
		_ = cmd.Run() // it is killed, or was faster
	},
	"runtime": func(t *testing.T, w *world, name string, pause time.Duration) {
		cmd := w.command(context.Background(), "a", "run", "-d", "--name", name, "-e", "MARK="+name, "busybox", "sleep", "1000")
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		done := make(chan struct{})
		go func() {
			_ = cmd.Wait() // its runtime is killed, or was faster
			close(done)
		}()
		for {
			if pid := runtimeIn(w.path("a")); pid > 0 {
				time.Sleep(pause / 15)
				_ = syscall.Kill(pid, syscall.SIGKILL)
			}
			select {
			case <-done:
				return
			case <-time.After(time.Millisecond):
			}
		}
	},
	"monitor": func(t *testing.T, w *world, name string, pause time.Duration) {
		w.strake("a", "run", "-d", "--name", name, "-e", "MARK="+name, "busybox", "sleep", "1000")
		monitor := monitorOf(t, name)
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

// monitorOf is the monitor of a container whose processes have a mark.
func monitorOf(t *testing.T, mark string) int {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); time.Now().Before(deadline); time.Sleep(time.Millisecond) {
		for _, pid := range marked("MARK=" + mark + "\x00") { // not before the runtime has started the program
			if monitor := parent(pid); monitor > 0 {
				return monitor
			}
		}
	}
	t.Fatal("the container has no process")
	return 0
}

// Who starts a container whose monitor died starts it, though others find the death too.
func TestStartBesideSettling(t *testing.T) {
	w := newWorld(t)
	w.busybox("a")
	mark := fmt.Sprintf("settle-%d", os.Getpid())
	w.strake("a", "run", "-d", "--name", "web", "-e", "MARK="+mark, "busybox", "sleep", "1000")
	for range 3 {
		monitor := monitorOf(t, mark)
		if err := syscall.Kill(monitor, syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
		w.waitFor("the end of the monitor", func() bool { // until then it is alive for others, too
			return !slices.ContainsFunc(marked("MARK="+mark+"\x00"), func(pid int) bool { return parent(pid) == monitor })
		})
		var all sync.WaitGroup
		for range 3 {
			all.Go(func() { _, _ = w.try("a", "ps") })
		}
		if _, err := w.try("a", "start", "web"); err != nil {
			t.Error(err)
		}
		all.Wait()
		if got := w.strake("a", "inspect", "-f", "{{.State.Status}}", "web"); got != "running" {
			t.Fatalf("the container that was started is %s", got)
		}
	}
	w.strake("a", "rm", "-f", "web")
	w.nothingLeft(t)
}

// Of those who start a container at once and who remove it, all have docker's answer at once.
func TestStartsAndRemovalAtOnce(t *testing.T) {
	w := newWorld(t)
	w.busybox("a")
	for range 3 {
		w.strake("a", "create", "--name", "web", "busybox", "sleep", "1000")
		began := time.Now()
		var all sync.WaitGroup
		for _, verb := range []string{"start", "start", "start", "rm"} {
			all.Go(func() {
				_, err := w.try("a", verb, "web")
				if err == nil || strings.Contains(err.Error(), "No such container") {
					return
				}
				if verb != "rm" || !strings.Contains(err.Error(), "container is running") {
					t.Error(err)
				}
			})
		}
		all.Wait()
		if took := time.Since(began); took > 9*time.Second {
			t.Errorf("that took %s", took)
		}
		_, _ = w.try("a", "rm", "-f", "web") // it may be gone
	}
	w.nothingLeft(t)
}

// A row whose directory a loss of power took is no container.
func TestContainerWithoutDirectory(t *testing.T) {
	w := newWorld(t)
	w.busybox("a")
	for _, args := range [][]string{{"ps", "-aq"}, {"rm", "-f", "lost"}, {"rmi", "busybox"}} {
		if args[0] != "rmi" {
			id := w.strake("a", "create", "--name", "lost", "busybox", "true")
			if err := os.RemoveAll(w.path("a", "containers", id)); err != nil {
				t.Fatal(err)
			}
		}
		out := w.strake("a", args...)
		if args[0] == "ps" && out != "" {
			t.Errorf("ps shows %s", out)
		}
	}
	w.nothingLeft(t)
}

// A container whose monitor died ended when it was last seen alive, not when somebody looks.
func TestFinishedOfLostContainer(t *testing.T) {
	w := newWorld(t)
	w.busybox("a")
	mark := fmt.Sprintf("lost-%d", os.Getpid())
	w.strake("a", "run", "-d", "--name", "web", "-e", "MARK="+mark, "busybox", "sh", "-c", "echo said; sleep 1000")
	w.waitFor("its output", func() bool { return w.strake("a", "logs", "web") == "said" })
	if err := syscall.Kill(monitorOf(t, mark), syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	time.Sleep(time.Second)
	looked := time.Now()
	at, err := time.Parse(time.RFC3339Nano, w.strake("a", "inspect", "-f", "{{.State.FinishedAt}}", "web"))
	if err != nil {
		t.Fatal(err)
	}
	if !at.Before(looked.Add(-time.Second)) {
		t.Errorf("it finished at %s, %s before somebody looked", at, looked.Sub(at))
	}
	w.strake("a", "rm", "web")
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
