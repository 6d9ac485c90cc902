package main_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// kills is how many times each command is killed.
func kills(t *testing.T) int {
	if os.Getenv("STRAKE_SOAK") != "" {
		return 1000
	}
	if testing.Short() {
		return 5
	}
	return 34 // of each of three commands: 100 and more
}

// killRandomly runs a command and kills its process group, with everything it
// started, at a random moment of the time that it takes when left alone. It
// reports whether the command had ended before.
func (w *world) killRandomly(within time.Duration, store string, args ...string) bool {
	w.Helper()
	cmd := w.command(context.Background(), store, args...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := cmd.Start(); err != nil {
		w.Fatal(err)
	}
	time.Sleep(time.Duration(rand.Int64N(int64(within))))
	_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL)
	return cmd.Wait() == nil
}

// whole fails the test unless every listed image can be read to its last byte.
func (w *world) whole(store string) {
	w.Helper()
	for _, line := range strings.Fields(w.strake(store, "images", "-a", "-q", "--no-trunc")) {
		w.strake(store, "save", "-o", w.path("whole.tar"), line)
	}
}

// kill -9 at random moments of a pull, a build and an rmi: the next command
// works, only whole images are listed, and the same command succeeds.
func TestKill(t *testing.T) {
	w := newWorld(t)
	w.busybox("src")
	w.write("big/Dockerfile", "FROM busybox\nRUN head -c 20000000 /dev/urandom > /a\nRUN head -c 20000000 /dev/zero > /b\n")
	addr := w.hub()
	ref := addr + "/team/big:1"
	w.strake("src", "build", "-t", ref, "big")
	w.strake("src", "push", ref)
	id := w.id("src", ref)

	t.Run("pull", func(t *testing.T) {
		w := &world{T: t, dir: w.dir}
		start := time.Now()
		w.strake("pull-time", "pull", ref)
		took := time.Since(start)
		for i := range kills(t) {
			store := fmt.Sprintf("pull%d", i%4)
			w.killRandomly(took, store, "pull", ref)
			w.whole(store)
			if i%4 == 3 {
				w.strake(store, "pull", ref)
				if got := w.id(store, ref); got != id {
					t.Fatalf("pulled %s, want %s", got, id)
				}
				w.strake(store, "rmi", "-f", ref)
				w.clean(store)
			}
		}
	})
	t.Run("build", func(t *testing.T) {
		w := &world{T: t, dir: w.dir}
		w.busybox("build")
		w.write("steps/Dockerfile", "FROM busybox\nRUN echo 1 > /1\nRUN head -c 9000000 /dev/urandom > /2\nRUN echo 3 > /3\nCOPY . /ctx\n")
		start := time.Now()
		w.strake("build", "build", "-t", "steps", "steps")
		took := time.Since(start)
		for i := range kills(t) {
			w.write("steps/changed", fmt.Sprint(i))
			w.killRandomly(took, "build", "build", "--build-arg", fmt.Sprintf("i=%d", i), "--no-cache", "-t", "steps", "steps")
			w.whole("build")
			if i%4 == 3 {
				w.strake("build", "build", "-t", "steps", "steps")
				if out, err := w.try("build", "build", "--progress", "plain", "-t", "steps", "steps"); err != nil || strings.Count(out, " CACHED\n") != 5 {
					t.Fatalf("rebuild is not cached: %v\n%s", err, out)
				}
				w.clean("build")
				w.strake("build", "image", "prune", "-f", "--now") // each build takes the name from an image
			}
		}
	})
	t.Run("rmi", func(t *testing.T) {
		w := &world{T: t, dir: w.dir}
		w.strake("src", "save", "-o", w.path("big.tar"), ref)
		w.strake("rmi", "load", "-i", w.path("big.tar"))
		start := time.Now()
		w.strake("rmi", "rmi", ref)
		took := time.Since(start)
		for range kills(t) {
			w.strake("rmi", "load", "-i", w.path("big.tar"))
			w.killRandomly(took, "rmi", "rmi", ref)
			w.whole("rmi")
			if w.strake("rmi", "images", "-q") != "" {
				w.strake("rmi", "rmi", ref)
			}
			if got := w.strake("rmi", "images", "-q"); got != "" {
				t.Fatalf("after rmi: %s", got)
			}
		}
		w.strake("rmi", "load", "-i", w.path("big.tar")) // takes a lease, and so reaps the dead ones
		w.strake("rmi", "rmi", ref)
		w.strake("rmi", "system", "prune", "-a", "-f") // what undo keeps
		w.clean("rmi")
		blobs, err := os.ReadDir(w.path("rmi", "blobs", "sha256"))
		if err != nil || len(blobs) != 0 {
			t.Errorf("blobs left behind by rmi: %v %v", blobs, err)
		}
	})
}

// Eight processes build and pull into one store at once.
func TestEightProcesses(t *testing.T) {
	w := newWorld(t)
	rounds := 20
	if testing.Short() {
		rounds = 3
	}
	w.busybox("src")
	w.write("pulled/Dockerfile", "FROM busybox\nRUN head -c 5000000 /dev/urandom > /a\n")
	ref := w.hub() + "/team/app:1"
	w.strake("src", "build", "-t", ref, "pulled")
	w.strake("src", "push", ref)
	w.busybox("shared")
	for round := range rounds {
		var wg sync.WaitGroup
		errs := make([]error, 8)
		for i := range errs {
			if i%2 == 0 {
				name := fmt.Sprintf("built%d", i%4)
				dir := fmt.Sprintf("ctx%d", i) // one that nobody else writes to
				w.write(dir+"/Dockerfile", "FROM busybox\nCOPY f /f\nRUN cat /f > /g\nRUN echo done\n")
				w.write(dir+"/f", fmt.Sprintf("%d %d", round, i%4))
				wg.Go(func() { _, errs[i] = w.try("shared", "build", "-t", name, dir) })
			} else {
				wg.Go(func() { _, errs[i] = w.try("shared", "pull", ref) })
			}
		}
		wg.Wait()
		for i, err := range errs {
			if err != nil {
				t.Fatalf("round %d, process %d: %v", round, i, err)
			}
		}
		if got, want := w.id("shared", ref), w.id("src", ref); got != want {
			t.Fatalf("round %d: pulled %s, want %s", round, got, want)
		}
		w.clean("shared")
		if round%2 == 1 {
			w.strake("shared", "rmi", ref)
		}
	}
	seen := map[string]bool{}
	for _, name := range strings.Fields(w.strake("shared", "images", "--format", "{{.Repository}}:{{.Tag}}")) {
		if !strings.Contains(name, "<none>") && seen[name] {
			t.Errorf("listed twice: %s", name)
		}
		seen[name] = true
	}
	w.whole("shared")
}
