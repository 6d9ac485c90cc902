package conformance

import (
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"
)

// builtProgram finds a program where make puts it, or in PATH.
func builtProgram(name string) (string, error) {
	_, file, _, _ := runtime.Caller(0)
	program := filepath.Join(filepath.Dir(file), "../../bin", name)
	if _, err := os.Stat(program); err == nil {
		return program, nil
	}
	return exec.LookPath(name)
}

// WithPolicies returns a setup of scripts that start strake-policy, which make builds: setup, and the program in PATH.
func WithPolicies(t *testing.T, setup func(*testscript.Env) error) func(*testscript.Env) error {
	t.Helper()
	program, err := builtProgram("strake-policy")
	if err != nil {
		t.Skip("needs bin/strake-policy (make bin/strake-policy)")
	}
	return func(env *testscript.Env) error {
		env.Setenv("PATH", env.Getenv("PATH")+string(os.PathListSeparator)+filepath.Dir(program)) // after the scripts' own strake
		return setup(env)
	}
}

// ServeFiles is a command of scripts that serves a directory over HTTP, to who has the authorization if one is given, and stores the address in
// a variable: serve VARIABLE DIR [AUTHORIZATION].
func ServeFiles(ts *testscript.TestScript, _ bool, args []string) {
	files := http.FileServer(http.Dir(ts.MkAbs(args[1])))
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if len(args) > 2 && r.Header.Get("Authorization") != args[2] {
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		files.ServeHTTP(w, r)
	}))
	ts.Defer(srv.Close)
	ts.Setenv(args[0], srv.Listener.Addr().String())
}
