package main_test

import (
	"context"
	"fmt"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// mountStep is a Dockerfile whose one step runs text with a cache mount at /c.
func mountStep(sharing, text string) string {
	return fmt.Sprintf("FROM busybox\nARG N\nRUN --mount=type=cache,id=%[1]s,sharing=%[1]s,target=/c %[2]s\n", sharing, text)
}

// Eight builds at a time use a cache mount in each way of sharing: who locks it counts without losing a number, who has a private copy
// is alone in it, who shares it sees what the others wrote, and what was there is there afterwards.
func TestCacheMountsOfEightProcesses(t *testing.T) {
	const all = 8
	w := newWorld(t)
	w.busybox("s")
	dirs := map[string]string{
		"locked":  "n=$(cat /c/n 2>/dev/null || echo 0); sleep 0.05; echo $((n + 1)) >/c/n",
		"private": "mkdir /c/mine; sleep 0.2; rmdir /c/mine; touch /c/used",
		"shared":  "touch /c/$N; for i in $(seq 200); do [ $(ls /c | wc -l) -ge 8 ] && exit; sleep 0.1; done; ls /c; exit 1",
	}
	for sharing, text := range dirs {
		w.write(sharing+"/Dockerfile", mountStep(sharing, text))
	}
	for sharing := range dirs {
		var wait sync.WaitGroup
		for n := range all {
			wait.Go(func() {
				if out, err := w.try("s", "build", "-q", "--build-arg", fmt.Sprintf("N=%d", n), sharing); err != nil {
					t.Errorf("%s, %d: %v\n%s", sharing, n, err, out)
				}
			})
		}
		wait.Wait()
	}
	w.write("after/Dockerfile", mountStep("locked", "echo counted $(cat /c/n)"))
	if out, err := w.try("s", "build", "--progress", "plain", "after"); err != nil || !strings.Contains(out, " counted 8\n") {
		t.Errorf("a locked cache mount lost a number: %v\n%s", err, tail(out))
	}
	copies, err := filepath.Glob(filepath.Join(w.dir, "s", "cachemounts", "*", "*"))
	if err != nil || len(copies) < 3 || len(copies) > 2+all {
		t.Errorf("copies: %q, %v", copies, err)
	}
	if out := w.strake("s", "store", "check"); strings.Contains(out, "damage") {
		t.Errorf("store check:\n%s", out)
	}
	w.strake("s", "builder", "prune", "-f", "--filter", "type=exec.cachemount")
	if left, err := filepath.Glob(filepath.Join(w.dir, "s", "cachemounts", "*", "*")); err != nil || len(left) > 0 {
		t.Errorf("left by prune: %q, %v", left, err)
	}
}

// A build that is killed leaves its cache mount as it was at that moment, and free for the next.
func TestCacheMountOfKilledBuild(t *testing.T) {
	w := newWorld(t)
	w.busybox("s")
	w.write("one/Dockerfile", mountStep("locked", "echo written >/c/f; touch /c/begun; sleep 100"))
	w.write("two/Dockerfile", mountStep("locked", "cat /c/f"))
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	cmd := w.command(ctx, "s", "build", "one")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	w.waitFor("the step", func() bool {
		begun, err := filepath.Glob(filepath.Join(w.dir, "s", "cachemounts", "*", "*", "data", "begun"))
		return err == nil && len(begun) == 1
	})
	if err := cmd.Process.Signal(syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait() // killed
	if out, err := w.try("s", "build", "--progress", "plain", "two"); err != nil || !strings.Contains(out, " written\n") {
		t.Errorf("the cache mount of a killed build: %v\n%s", err, tail(out))
	}
	if copies, err := filepath.Glob(filepath.Join(w.dir, "s", "cachemounts", "*", "*")); err != nil || len(copies) != 1 {
		t.Errorf("copies: %q, %v", copies, err)
	}
}
