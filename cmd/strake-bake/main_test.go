package main

import (
	"context"
	"flag"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"

	"strake/internal/cli"
	"strake/internal/conformance"
)

var update = flag.Bool("update", false, "rewrite what the scripts expect")

// buildxVariable names docker's buildx, which prints what Strake is to print.
const buildxVariable = "STRAKE_BUILDX"

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){
		"strake-bake": main,
		"strake": func() {
			if buildx := os.Getenv(buildxVariable); buildx != "" {
				runBuildx(buildx)
			}
			os.Exit(cli.Main(context.Background(), os.Args[1:], cli.Streams{In: os.Stdin, Out: os.Stdout, Err: os.Stderr}))
		},
	})
}

// runBuildx runs buildx with our arguments, and ends as it does.
func runBuildx(path string) {
	cmd := exec.Command(path, os.Args[1:]...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	if err := cmd.Run(); err != nil {
		os.Exit(1)
	}
	os.Exit(0)
}

func setup(env *testscript.Env) error {
	env.Setenv("STRAKE_ROOT", filepath.Join(env.WorkDir, ".store"))
	env.Setenv("DOCKER_CONFIG", filepath.Join(env.WorkDir, ".docker"))
	env.Setenv("BUILDX_CONFIG", filepath.Join(env.WorkDir, ".buildx"))
	env.Setenv("CONTAINERS_REGISTRIES_CONF", os.DevNull)
	env.Setenv("HOME", env.WorkDir)
	busybox, err := exec.LookPath("busybox")
	env.Setenv("BUSYBOX", busybox)
	return err
}

// TestPrints: --print and --list show what buildx shows, to the byte.
func TestPrints(t *testing.T) {
	testscript.Run(t, testscript.Params{Dir: "testdata/print", Setup: setup})
}

// TestBuildxPrints: buildx itself shows what the scripts of TestPrints expect. With -update
// they expect what it shows.
func TestBuildxPrints(t *testing.T) {
	buildx := os.Getenv(buildxVariable)
	if buildx == "" {
		return // make conformance names one
	}
	testscript.Run(t, testscript.Params{Dir: "testdata/print", UpdateScripts: *update, Setup: func(env *testscript.Env) error {
		env.Setenv(buildxVariable, buildx)
		return setup(env)
	}})
}

// TestBuilds: targets are built.
func TestBuilds(t *testing.T) {
	testscript.Run(t, testscript.Params{Dir: "testdata/build", Setup: setup, UpdateScripts: *update, Cmds: map[string]func(*testscript.TestScript, bool, []string){
		"serve": conformance.ServeFiles, "moving": serveMoving,
	}})
}

// serveMoving serves a repository as serve does a directory, and another one in its place once it was fetched: moving VARIABLE DIR DIR.
func serveMoving(ts *testscript.TestScript, _ bool, args []string) {
	before, after := http.FileServer(http.Dir(ts.MkAbs(args[1]))), http.FileServer(http.Dir(ts.MkAbs(args[2])))
	var fetched, moved atomic.Bool
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if fetched.Load() && strings.HasSuffix(r.URL.Path, "/info/refs") {
			moved.Store(true)
		}
		if strings.Contains(r.URL.Path, "/objects/") {
			fetched.Store(true)
		}
		if moved.Load() {
			after.ServeHTTP(w, r)
		} else {
			before.ServeHTTP(w, r)
		}
	}))
	ts.Defer(srv.Close)
	ts.Setenv(args[0], srv.Listener.Addr().String())
}

// TestPolicies: what needs the program that evaluates policies.
func TestPolicies(t *testing.T) {
	testscript.Run(t, testscript.Params{Dir: "testdata/policy", Setup: conformance.WithPolicies(t, setup)})
}
