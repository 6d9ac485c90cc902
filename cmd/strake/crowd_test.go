package main_test

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"
)

// raceBuild is strake built with the race detector, which ends a process that
// races with the exit code 66.
func (w *world) raceBuild() string {
	w.Helper()
	w.need("gcc")
	out := w.path("race", "strake")
	cmd := exec.Command("go", "build", "-race", "-o", out, "strake/cmd/strake")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=1")
	if text, err := cmd.CombinedOutput(); err != nil {
		w.Fatalf("%s%v", text, err)
	}
	return out
}

// crowd is one store that many processes work on.
type crowd struct {
	*world
	bin   string
	store string
	refs  []string // that all pull and some remove
}

// run runs one command, which must succeed, or fail with one of the texts.
func (c *crowd) run(texts []string, args ...string) error {
	ctx, cancel := context.WithTimeout(c.Context(), 2*time.Minute)
	defer cancel()
	cmd := c.command(ctx, c.store, args...)
	cmd.Path = c.bin
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = io.Discard, &out
	err := cmd.Run()
	if err == nil {
		return nil
	}
	for _, text := range texts {
		if cmd.ProcessState.ExitCode() == 1 && strings.Contains(out.String(), text) {
			return nil
		}
	}
	return fmt.Errorf("strake %s: %w\n%s", strings.Join(args, " "), err, tail(out.String()))
}

// member works until the deadline, with names that are its own and with those
// that all share. It returns the names that it has at the end.
func (c *crowd) member(n int, deadline time.Time) (map[string]bool, error) {
	own := map[string]bool{}
	shared := []string{"No such image"} // another has just removed it
	for round := 0; time.Now().Before(deadline); round++ {
		name := fmt.Sprintf("own%d:%d", n, round%3)
		ref := c.refs[rand.IntN(len(c.refs))]
		var err error
		switch rand.IntN(9) {
		case 0, 1:
			err = c.run(nil, "pull", "-q", ref)
		case 2:
			err = c.run(shared, "rmi", ref)
		case 3, 4:
			dir := fmt.Sprintf("member%d", n)
			c.write(dir+"/Dockerfile", "FROM busybox\nCOPY f /f\nCOPY f /g\n")
			c.write(dir+"/f", fmt.Sprint(rand.IntN(20)))
			if err = c.run(nil, "build", "-q", "-t", name, dir); err == nil {
				own[name] = true
			}
		case 5:
			if err = c.run(shared, "tag", ref, name); err == nil {
				_, err = c.try(c.store, "image", "inspect", name)
				own[name] = err == nil
				err = nil
			}
		case 6:
			if own[name] {
				delete(own, name)
				err = c.run(nil, "rmi", name)
			}
		case 7:
			if own[name] {
				err = c.run(nil, "save", "-o", c.path(fmt.Sprintf("saved%d.tar", n)), name)
			}
		case 8:
			err = c.run(nil, [][]string{{"image", "prune", "-f"}, {"builder", "prune", "-f"}, {"store", "check", "--quick"}}[rand.IntN(3)]...)
		}
		if err != nil {
			return own, err
		}
	}
	return own, nil
}

// Sixteen processes at a time pull, tag, remove, prune, build and save on one
// store: no command fails that would not fail alone, no image is lost, nothing
// is left behind, and none of it races.
func TestSixteenProcesses(t *testing.T) {
	w := newWorld(t)
	last := 12 * time.Second
	if os.Getenv("STRAKE_SOAK") != "" {
		last = 5 * time.Minute
	}
	c := &crowd{world: w, bin: w.raceBuild(), store: "crowd"}
	w.busybox("src")
	w.busybox("crowd")
	hub := w.hub()
	for i := range 3 {
		w.write("app/Dockerfile", "FROM busybox\nCOPY f /f\nCOPY f /g\n")
		w.write("app/f", fmt.Sprint("app", i, strings.Repeat("x", 200_000)))
		c.refs = append(c.refs, fmt.Sprintf("%s/team/app:%d", hub, i))
		w.strake("src", "build", "-t", c.refs[i], "app")
		w.strake("src", "push", c.refs[i])
	}
	deadline := time.Now().Add(last)
	var wg sync.WaitGroup
	var owns [16]map[string]bool
	for i := range owns {
		wg.Go(func() {
			var err error
			if owns[i], err = c.member(i, deadline); err != nil {
				t.Errorf("process %d: %v", i, err)
			}
		})
	}
	wg.Wait()
	have := w.strake("crowd", "images", "--format", "{{.Repository}}:{{.Tag}}") + "\n"
	for _, own := range owns {
		for name, is := range own {
			if is && !strings.Contains(have, name+"\n") {
				t.Errorf("%s is lost", name)
			}
		}
	}
	w.clean("crowd") // before a repair: those who ended in order leave nothing
	if report := w.strake("crowd", "store", "check"); !strings.Contains(report, ": 0 wrong, 0 left over") {
		t.Errorf("%s", report)
	}
}

// A prune does not wait for a pull that hangs, and takes nothing from it.
func TestPruneBesideParallelPull(t *testing.T) {
	w := newWorld(t)
	w.busybox("src")
	w.write("app/Dockerfile", "FROM busybox\nCOPY a /a\nCOPY b /b\n")
	w.write("app/a", "small")
	var big strings.Builder
	for range 100_000 {
		fmt.Fprintln(&big, rand.Uint64())
	}
	w.write("app/b", big.String())
	hub := w.hub()
	ref := hub + "/team/app:1"
	w.strake("src", "build", "-t", ref, "app")
	w.strake("src", "push", ref)
	target, err := url.Parse("http://" + hub)
	if err != nil {
		t.Fatal(err)
	}
	hangs, release := make(chan struct{}), make(chan struct{})
	var once sync.Once
	proxy := httputil.NewSingleHostReverseProxy(target)
	proxy.FlushInterval = -1
	proxy.ModifyResponse = func(r *http.Response) error {
		if r.Request.Method == http.MethodGet && r.ContentLength > 300_000 && strings.Contains(r.Request.URL.Path, "/blobs/") {
			r.Body = struct {
				io.Reader
				io.Closer
			}{io.MultiReader(io.LimitReader(r.Body, 200_000), readerFunc(func([]byte) (int, error) {
				once.Do(func() { close(hangs) })
				<-release
				return 0, io.EOF
			}), r.Body), r.Body}
		}
		return nil
	}
	srv := httptest.NewServer(proxy)
	defer srv.Close()
	slow := strings.TrimPrefix(srv.URL, "http://") + "/team/app:1"
	w.strake("slow", "import", w.busyboxTar(), "other")
	pulled := make(chan error, 1)
	go func() {
		_, err := w.try("slow", "pull", slow)
		pulled <- err
	}()
	select {
	case <-hangs:
	case err := <-pulled:
		t.Fatalf("the pull does not hang: %v", err)
	case <-time.After(20 * time.Second):
		t.Fatal("the pull does not get there")
	}
	time.Sleep(300 * time.Millisecond) // the small layers come in meanwhile
	for _, args := range [][]string{{"rmi", "other"}, {"image", "prune", "-a", "-f"}, {"builder", "prune", "-a", "-f"}, {"system", "prune", "-a", "-f"}, {"store", "check", "--repair"}} {
		start := time.Now()
		out, err := w.try("slow", args...)
		if took := time.Since(start); err != nil || took > time.Second {
			t.Errorf("%v beside a pull took %v: %v\n%s", args, took, err, out)
		}
	}
	close(release)
	if err := <-pulled; err != nil {
		t.Errorf("the pull: %v", err)
	}
	if got, want := w.id("slow", slow), w.id("src", ref); got != want {
		t.Errorf("pulled %s, want %s", got, want)
	}
	w.wholeAndClean("slow")
}

type readerFunc func([]byte) (int, error)

func (f readerFunc) Read(b []byte) (int, error) { return f(b) }
