package cli

import (
	"archive/tar"
	"context"
	"flag"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"
	"golang.org/x/sys/unix"

	"strake/internal/auth"
	"strake/internal/conformance"
	"strake/internal/executor"
	"strake/internal/hub"
	"strake/internal/registry"
	"strake/internal/userns"
)

var update = flag.Bool("update", false, "rewrite golden files")

func TestMain(m *testing.M) {
	if strings.HasSuffix(os.Args[0], ".test") && os.Geteuid() == 0 {
		alone()
	}
	testscript.Main(m, map[string]func(){
		"strake": func() {
			os.Exit(Main(context.Background(), os.Args[1:], Streams{In: os.Stdin, Out: os.Stdout, Err: os.Stderr}))
		},
	})
}

// aloneVariable is set where the tests are in a network namespace of their own.
const aloneVariable = "STRAKE_TEST_ALONE"

// alone runs the tests again in a network namespace of their own, where they make their bridges and rules, and ends with them. There it brings
// the loopback interface up.
func alone() {
	if os.Getenv(aloneVariable) != "" {
		if err := raiseLoopback(); err != nil {
			fmt.Fprintln(os.Stderr, "bring the loopback interface up:", err)
			os.Exit(1)
		}
		return
	}
	runtime.LockOSThread() // whose death the other one is not to outlive
	cmd := exec.Command("/proc/self/exe", os.Args[1:]...)
	cmd.Args[0] = os.Args[0]
	cmd.Env = append(os.Environ(), aloneVariable+"=1")
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET, Pdeathsig: syscall.SIGKILL}
	err := cmd.Run()
	if cmd.ProcessState == nil {
		fmt.Fprintln(os.Stderr, "run the tests in a network namespace:", err)
		os.Exit(1)
	}
	os.Exit(cmd.ProcessState.ExitCode())
}

func raiseLoopback() error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM, 0)
	if err != nil {
		return err
	}
	defer func() { _ = unix.Close(fd) }() // nothing was written
	lo, err := unix.NewIfreq("lo")
	if err != nil {
		return err
	}
	lo.SetUint16(unix.IFF_UP)
	return unix.IoctlIfreq(fd, unix.SIOCSIFFLAGS, lo)
}

func TestScripts(t *testing.T) {
	params := scripts()
	params.Dir, params.UpdateScripts = "testdata", *update
	testscript.Run(t, params)
}

// TestScriptsOfS3: what needs an S3 server.
func TestScriptsOfS3(t *testing.T) {
	bucket, err := url.Parse(conformance.S3(t))
	if err != nil {
		t.Fatal(err)
	}
	params := scripts()
	params.Dir = filepath.Join("testdata", "s3")
	params.Setup = func(env *testscript.Env) error {
		endpoint := bucket.Query().Get("endpoint")
		for name, value := range map[string]string{
			"ENDPOINT": endpoint, "BUCKET": bucket.Host, "KEY": conformance.S3Key, "SECRET": conformance.S3Secret,
			"CACHE": "type=s3,use_path_style=true,region=us-east-1,endpoint_url=" + endpoint + ",bucket=" + bucket.Host + ",access_key_id=" + conformance.S3Key + ",secret_access_key=" + conformance.S3Secret,
		} {
			env.Setenv(name, value)
		}
		return setup(env)
	}
	testscript.Run(t, params)
}

// TestScriptsOfAzure: what needs a server of Azure's blob storage.
func TestScriptsOfAzure(t *testing.T) {
	account, container := conformance.Azure(t)
	params := scripts()
	params.Dir = filepath.Join("testdata", "azure")
	params.Setup = func(env *testscript.Env) error {
		for name, value := range map[string]string{
			"ACCOUNT_URL": account, "ACCOUNT": conformance.AzureAccount, "CONTAINER": container, "KEY": conformance.AzureKey,
			"CACHE": "type=azblob,account_url=" + account + ",account_name=" + conformance.AzureAccount + ",container=" + container + ",secret_access_key=" + conformance.AzureKey,
		} {
			env.Setenv(name, value)
		}
		return setup(env)
	}
	testscript.Run(t, params)
}

// TestScriptsOfRunc: what containers do does not depend on the runtime, of which crun is the default.
func TestScriptsOfRunc(t *testing.T) {
	if _, err := exec.LookPath("runc"); err != nil {
		t.Skip("needs runc")
	}
	params := scripts()
	for _, name := range []string{"buildlimits", "containerend", "containerlife", "containerupdate", "terminal"} {
		params.Files = append(params.Files, filepath.Join("testdata", name+".txtar"))
	}
	params.Setup = func(env *testscript.Env) error {
		env.Setenv(executor.RuntimeVariable, "runc")
		return setup(env)
	}
	testscript.Run(t, params)
}

// scripts are how scripts are run.
func scripts() testscript.Params {
	return testscript.Params{
		Setup:     setup,
		Condition: condition,
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"busybox": makeBusybox,
			"trim":    trim,
			"blob":    blobFile,
			"flip":    flip,
			"nowhere": nowhere,
			"fill":    fill,
			"serve":   conformance.ServeFiles,
			"actions": actions,
			"operate": operate,
		},
	}
}

// programVariable is set to the directory of a program `strake` that scripts run in place of this one.
const programVariable = "STRAKE_TEST_PROGRAM"

// setup gives a script its own store, configuration and registry, which is made when the first request comes.
func setup(env *testscript.Env) error {
	l, err := (&net.ListenConfig{}).Listen(context.Background(), "tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	var opened *hub.Hub
	handler := sync.OnceValues(func() (http.Handler, error) {
		h, err := hub.Open(context.Background(), hub.Options{Dir: filepath.Join(env.WorkDir, ".hub")})
		if err != nil {
			return nil, err
		}
		opened = h
		return auth.Open(registry.NewHandler(h, registry.Options{})), nil
	})
	srv := &httptest.Server{Listener: l, Config: &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h, err := handler()
		if err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
			return
		}
		h.ServeHTTP(w, r)
	})}}
	srv.Start()
	env.Defer(func() {
		srv.Close()
		if opened == nil {
			return
		}
		if err := opened.Close(); err != nil {
			env.T().Log(err)
		}
	})
	env.Defer(func() { removeContainers(env) })
	env.Setenv("REGISTRY", l.Addr().String())
	env.Setenv("STRAKE_ROOT", filepath.Join(env.WorkDir, ".store"))
	env.Setenv("DOCKER_CONFIG", filepath.Join(env.WorkDir, ".docker"))
	env.Setenv("CONTAINERS_REGISTRIES_CONF", os.DevNull)
	env.Setenv("HOME", env.WorkDir)
	env.Setenv("TZ", "UTC")
	if dir := os.Getenv(programVariable); dir != "" {
		env.Setenv("PATH", dir+string(os.PathListSeparator)+env.Getenv("PATH"))
	}
	return nil
}

// removeContainers ends what a script that failed left running.
func removeContainers(env *testscript.Env) {
	entries, err := os.ReadDir(filepath.Join(env.Getenv("STRAKE_ROOT"), "containers"))
	if err != nil {
		return // there are none
	}
	for _, e := range entries {
		cmd := exec.Command("strake", "rm", "-f", e.Name())
		cmd.Env = env.Vars
		if out, err := cmd.CombinedOutput(); err != nil {
			env.T().Log(fmt.Sprintf("rm -f: %v: %s", err, out))
		}
	}
}

// condition tells what a script may need: root, runtime, systemd to ask for cgroups; where an ordinary user has no user namespace, scripts that need the latter fail.
func condition(name string) (bool, error) {
	switch name {
	case "root":
		return os.Geteuid() == 0, nil
	case "cgroups": // some, at least
		return os.Geteuid() == 0 || len(executor.UnifiedControllers()) > 0, nil
	case "ids":
		plan, err := userns.NewPlan()
		return os.Geteuid() == 0 || plan.IDs() > 1, err
	case "runtime":
		for _, runtime := range []string{"runc", "crun"} {
			if _, err := exec.LookPath(runtime); err == nil {
				return true, nil
			}
		}
		return false, nil
	case "systemd":
		return os.Geteuid() != 0 && executor.MayDelegate(), nil
	}
	return false, fmt.Errorf("unknown condition %q", name)
}

// makeBusybox writes a tar of a small root file system: busybox FILE.
func makeBusybox(ts *testscript.TestScript, _ bool, args []string) {
	path, err := exec.LookPath("busybox")
	if err != nil {
		ts.Fatalf("busybox-static is needed: %v", err)
	}
	program, err := os.ReadFile(path)
	ts.Check(err)
	f, err := os.Create(ts.MkAbs(args[0]))
	ts.Check(err)
	w := tar.NewWriter(f)
	add := func(h tar.Header, data []byte) {
		h.Size = int64(len(data))
		ts.Check(w.WriteHeader(&h))
		_, err := w.Write(data)
		ts.Check(err)
	}
	for _, dir := range []string{"bin/", "etc/", "root/", "tmp/"} {
		add(tar.Header{Typeflag: tar.TypeDir, Name: dir, Mode: 0o755}, nil)
	}
	add(tar.Header{Typeflag: tar.TypeReg, Name: "bin/busybox", Mode: 0o755}, program)
	for _, name := range strings.Fields("sh ls cat echo true false sleep id env pwd hostname touch kill test") {
		add(tar.Header{Typeflag: tar.TypeSymlink, Name: "bin/" + name, Linkname: "busybox"}, nil)
	}
	add(tar.Header{Typeflag: tar.TypeReg, Name: "etc/passwd", Mode: 0o644},
		[]byte("root:x:0:0:root:/root:/bin/sh\nalice:x:1000:1000::/home/alice:/bin/sh\n"))
	add(tar.Header{Typeflag: tar.TypeReg, Name: "etc/group", Mode: 0o644}, []byte("root:x:0:\nalice:x:1000:\n"))
	ts.Check(w.Close())
	ts.Check(f.Close())
}

// trim stores a file's content, without white space around it, in a variable:
// trim VARIABLE FILE.
func trim(ts *testscript.TestScript, _ bool, args []string) {
	ts.Setenv(args[0], strings.TrimSpace(ts.ReadFile(args[1])))
}

// blobFile stores where the store has a blob: blob VARIABLE-OF-DIGEST VARIABLE.
func blobFile(ts *testscript.TestScript, _ bool, args []string) {
	algorithm, hex, _ := strings.Cut(ts.Getenv(args[0]), ":")
	ts.Setenv(args[1], filepath.Join(ts.Getenv("STRAKE_ROOT"), "blobs", algorithm, hex))
}

// flip changes one bit in the middle of a file.
func flip(ts *testscript.TestScript, _ bool, args []string) {
	b, err := os.ReadFile(args[0])
	ts.Check(err)
	b[len(b)/2] ^= 1
	ts.Check(os.WriteFile(args[0], b, 0o600))
}

// actions starts a cache service of GitHub's protocol, as an action sees it.
func actions(ts *testscript.TestScript, _ bool, _ []string) {
	ts.Setenv("ACTIONS_RESULTS_URL", conformance.NewActionsCache(deferrer{ts}).URL+"/results/")
	ts.Setenv("ACTIONS_RUNTIME_TOKEN", conformance.ActionsToken)
}

// deferrer ends things with a script.
type deferrer struct{ *testscript.TestScript }

// Cleanup calls f when the script ends.
func (d deferrer) Cleanup(f func()) { d.Defer(f) }

// TestScriptsOfPolicy: what needs the program that evaluates policies.
func TestScriptsOfPolicy(t *testing.T) {
	params := scripts()
	params.Dir = filepath.Join("testdata", "policy")
	params.Setup = conformance.WithPolicies(t, setup)
	testscript.Run(t, params)
}
