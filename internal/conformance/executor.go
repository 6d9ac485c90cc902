package conformance

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/google/go-cmp/cmp"

	"strake/internal/executor"
	"strake/internal/userns"
	"strake/internal/usertest"
)

// Executor runs the suite that every executor must pass; open makes a fresh executor and has its end registered with t. It needs
// root and a static busybox.
func Executor(t *testing.T, open func(t *testing.T) executor.Executor) {
	busybox := NeedBusybox(t)
	for _, test := range []struct {
		name string
		run  func(t *testing.T, b *box)
	}{
		{"Streams", testStreams},
		{"ExitCodes", testExitCodes},
		{"StartErrors", testStartErrors},
		{"Environment", testEnvironment},
		{"Users", testUsers},
		{"HostileAccounts", testHostileAccounts},
		{"HostileCwd", testHostileCwd},
		{"Confinement", testConfinement},
		{"Devices", testDevices},
		{"NetFiles", testNetFiles},
		{"HostNetwork", testHostNetwork},
		{"NoStubsLeft", testNoStubsLeft},
		{"StubsReplaced", testStubsReplaced},
		{"Mounts", testMounts},
		{"Signals", testSignals},
		{"Cancel", testCancel},
		{"Terminal", testTerminal},
		{"Parallel", testParallel},
		{"Isolation", testIsolation},
		{"Resources", testResources},
		{"HostileRun", testHostileRun},
		{"HostileRuntime", testHostileRuntime},
	} {
		t.Run(test.name, func(t *testing.T) {
			test.run(t, newBox(t, busybox, open(t)))
		})
	}
}

// NeedBusybox returns the path of a static busybox, and skips the test where it or root is missing.
func NeedBusybox(t *testing.T) string {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs a user namespace, and the machine gives none")
	}
	path, err := exec.LookPath("busybox")
	if err != nil {
		t.Skip("no busybox (package busybox-static)")
	}
	return path
}

// A box is an executor and a root file system that has nothing but a busybox.
type box struct {
	executor.Executor
	root, bundle string
}

func newBox(t *testing.T, busybox string, e executor.Executor) *box {
	t.Helper()
	b := &box{Executor: e, root: t.TempDir(), bundle: filepath.Join(t.TempDir(), "bundle")}
	data, err := os.ReadFile(busybox)
	must(t, err)
	b.write(t, "bin/busybox", string(data), 0o755)
	must(t, os.Symlink("busybox", filepath.Join(b.root, "bin/sh")))
	must(t, os.Chmod(b.root, 0o755))
	return b
}

// write puts a file into the root file system.
func (b *box) write(t *testing.T, name, data string, mode fs.FileMode) {
	t.Helper()
	path := filepath.Join(b.root, name)
	must(t, os.MkdirAll(filepath.Dir(path), 0o755))
	must(t, os.WriteFile(path, []byte(data), mode))
	must(t, os.Chmod(path, mode))
}

// spec returns the Spec of a shell script.
func (b *box) spec(script string) executor.Spec {
	full := "PATH=/b; /bin/busybox mkdir -p /b; /bin/busybox --install -s /b; " + script
	return executor.Spec{Bundle: b.bundle, Rootfs: b.root, Args: []string{"/bin/sh", "-c", full}}
}

// out runs spec, which must succeed, and returns its trimmed standard output.
func (b *box) out(t *testing.T, spec executor.Spec) string {
	t.Helper()
	var stdout, stderr bytes.Buffer
	spec.Stdout, spec.Stderr = &stdout, &stderr
	code, err := b.Run(t.Context(), spec)
	if err != nil || code != 0 {
		t.Fatalf("run %q: exit code %d, %v; stderr %q", spec.Args, code, err, stderr.String())
	}
	return strings.TrimSpace(stdout.String())
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func testStreams(t *testing.T, b *box) {
	spec := b.spec("cat; echo err >&2; echo 'runc run failed: no' >&2; printf 'runc run f' >&2")
	var stdout, stderr bytes.Buffer
	spec.Stdin, spec.Stdout, spec.Stderr = strings.NewReader("in\n"), &stdout, &stderr
	code, err := b.Run(t.Context(), spec)
	if code != 0 || err != nil || stdout.String() != "in\n" || stderr.String() != "err\nrunc run failed: no\nrunc run f" {
		t.Errorf("exit code %d, %v; stdout %q, stderr %q", code, err, stdout.String(), stderr.String())
	}
	if got := b.out(t, b.spec("cat")); got != "" {
		t.Errorf("without a standard input cat prints %q", got)
	}
	if left, err := os.ReadDir(b.bundle); err != nil || len(left) != 0 {
		t.Errorf("left in the bundle: %v, %v", left, err)
	}
	r, w, err := os.Pipe() // an input that never ends
	must(t, err)
	defer func() { _ = w.Close() }()
	defer func() { _ = r.Close() }()
	spec = b.spec("echo done")
	spec.Stdin = struct{ *os.File }{r}
	if got := b.out(t, spec); got != "done" {
		t.Errorf("got %q", got)
	}
}

func testExitCodes(t *testing.T, b *box) {
	for script, want := range map[string]int{
		"exit 0": 0, "exit 1": 1, "exit 42": 42, "exit 255": 255, "kill -9 $$; exit 3": 3, "/nonesuch": 127,
		"sh -c 'kill -TERM $$'; exit $?": 143,
	} {
		if code, err := b.Run(t.Context(), b.spec(script)); code != want || err != nil {
			t.Errorf("%q: exit code %d, %v; want %d", script, code, err, want)
		}
	}
}

func testStartErrors(t *testing.T, b *box) {
	b.write(t, "etc/plain", "no program", 0o644)
	b.write(t, "b/plain", "no program", 0o644)
	for _, test := range []struct {
		arg  string
		code int
		kind error
		text string
	}{
		{"nonesuch", executor.CodeNotFound, errdefs.ErrNotFound, `exec: "nonesuch": executable file not found in $path`},
		{"/nonesuch", executor.CodeNotFound, errdefs.ErrNotFound, `exec: "/nonesuch": stat /nonesuch: no such file or directory`},
		{"/etc/plain", executor.CodeNotExecutable, errdefs.ErrPermissionDenied, `exec: "/etc/plain": permission denied`},
		{"/etc", executor.CodeNotExecutable, errdefs.ErrPermissionDenied, ""},
	} {
		spec := b.spec("")
		var stderr bytes.Buffer
		spec.Args, spec.Stderr = []string{test.arg}, &stderr
		_, err := b.Run(t.Context(), spec)
		var start *executor.StartError
		if !errors.As(err, &start) || start.Code != test.code || !errors.Is(err, test.kind) {
			t.Errorf("%s: got error %v (%+v), want code %d and %v", test.arg, err, start, test.code, test.kind)
			continue
		}
		if !strings.Contains(strings.ToLower(start.Message), test.text) || stderr.Len() > 0 {
			t.Errorf("%s: message %q without %q, or on stderr: %q", test.arg, start.Message, test.text, stderr.String())
		}
	}
	for _, bad := range []func(*executor.Spec){
		func(s *executor.Spec) { s.Args = nil },
		func(s *executor.Spec) { s.ID = "../x" },
		func(s *executor.Spec) { s.ID = "-x" },
		func(s *executor.Spec) { s.Network = "bridge" },
		func(s *executor.Spec) { s.Rootfs = "rootfs" },
		func(s *executor.Spec) { s.Cwd = "tmp" },
		func(s *executor.Spec) { s.Mounts = []executor.Mount{{Type: "tmpfs", Target: "/proc/self"}} },
		func(s *executor.Spec) { s.Mounts = []executor.Mount{{Type: "tmpfs", Target: "/x/.."}} },
	} {
		spec := b.spec("")
		bad(&spec)
		if _, err := b.Run(t.Context(), spec); !errors.Is(err, errdefs.ErrInvalidArgument) {
			t.Errorf("%+v: got error %v", spec, err)
		}
	}
}

func testEnvironment(t *testing.T, b *box) {
	b.write(t, "etc/passwd", "root:x:0:0::/root:/bin/sh\n", 0o644)
	spec := b.spec("")
	spec.Args = []string{"/bin/busybox", "env"}
	spec.Env = []string{"A=b c", "EMPTY="}
	want := "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin\nA=b c\nEMPTY=\nHOME=/root"
	if diff := cmp.Diff(want, b.out(t, spec)); diff != "" {
		t.Error(diff)
	}
	spec = b.spec("pwd; hostname; echo $HOME")
	spec.Env = []string{"HOME=/h"}
	spec.Cwd, spec.Hostname = "/new/dir", "boxed"
	if got := b.out(t, spec); got != "/new/dir\nboxed\n/h" {
		t.Errorf("got %q", got)
	}
}

func testUsers(t *testing.T, b *box) {
	usertest.NeedIDs(t)
	b.write(t, "etc/passwd", "root:x:0:0::/root:/bin/sh\nana:x:1000:100::/home/ana:/bin/sh\n", 0o644)
	b.write(t, "etc/group", "root:x:0:\nusers:x:100:\nwheel:x:10:bo,ana\nbig:x:2147483647:ana\n", 0o644)
	for user, want := range map[string]string{
		"": "0 0 0 /root", "root": "0 0 0 /root", "ana": "1000 100 100 10 2147483647 /home/ana",
		"1000": "1000 100 100 10 2147483647 /home/ana", "1000:10": "1000 10 10 /home/ana", "ana:wheel": "1000 10 10 /home/ana",
		"4321": "4321 0 0 /", "4321:4322": "4321 4322 4322 /", "2147483647": "2147483647 0 0 /",
	} {
		if !userns.IsRoot() { // whose namespace has no ids so large
			if user == "2147483647" {
				continue
			}
			want = strings.Replace(want, " 2147483647", "", 1)
		}
		spec := b.spec("")
		spec.User = user
		spec.Args = []string{"/bin/sh", "-c", "echo `/bin/busybox id -u` `/bin/busybox id -g` `/bin/busybox id -G` $HOME"}
		got := b.out(t, spec)
		if got != want {
			t.Errorf("user %q: got %q, want %q", user, got, want)
		}
	}
	for user, want := range map[string]string{
		"bob":                    "unable to find user bob: no matching entries in passwd file",
		"ana:nogroup":            "unable to find group nogroup: no matching entries in group file",
		"2147483648":             "", // CVE-2024-40635
		"4294967296":             "",
		"-1":                     "",
		"0:4294967296":           "",
		"99999999999999999999:0": "",
	} {
		spec := b.spec("id -u")
		spec.User = user
		var start *executor.StartError
		if code, err := b.Run(t.Context(), spec); !errors.As(err, &start) || !strings.Contains(start.Message, want) {
			t.Errorf("user %q: exit code %d, %v; want %q", user, code, err, want)
		}
	}
}

// testHostileAccounts holds CVE-2024-9676 and CVE-2026-47262: account files that are no files, lead out of the image or are huge.
func testHostileAccounts(t *testing.T, b *box) {
	secret := filepath.Join(t.TempDir(), "passwd")
	must(t, os.WriteFile(secret, []byte("mallory:x:0:0::/:/bin/sh\n"), 0o644))
	passwd := filepath.Join(b.root, "etc/passwd")
	must(t, os.MkdirAll(filepath.Dir(passwd), 0o755))
	for name, plant := range map[string]func() error{
		"link":     func() error { return os.Symlink(secret, passwd) },
		"relative": func() error { return os.Symlink("../../../../../../../.."+secret, passwd) },
		"fifo":     func() error { return syscall.Mkfifo(passwd, 0o644) },
		"device":   func() error { return syscall.Mknod(passwd, syscall.S_IFCHR|0o644, 1<<8|5) },
		"dir":      func() error { return os.Mkdir(passwd, 0o755) },
		"loop":     func() error { return os.Symlink("passwd", passwd) },
		"huge":     func() error { return errors.Join(os.WriteFile(passwd, nil, 0o644), os.Truncate(passwd, 1<<40)) },
	} {
		if err := plant(); name == "device" && errors.Is(err, syscall.EPERM) && !userns.IsRoot() {
			continue
		} else if err != nil {
			t.Fatal(err)
		}
		spec := b.spec("id -u")
		spec.User = "mallory"
		var start *executor.StartError
		if code, err := b.Run(t.Context(), spec); !errors.As(err, &start) {
			t.Errorf("%s: exit code %d, %v", name, code, err)
		}
		must(t, os.Remove(passwd))
	}
}

// testHostileCwd holds CVE-2024-21626 and CVE-2026-55686: a working directory that leads to the host or is made there.
func testHostileCwd(t *testing.T, b *box) {
	outside := t.TempDir()
	for name, to := range map[string]string{"magic": "/proc/self/fd/7", "deep": "/proc/self", "devfd": "/dev/fd"} {
		must(t, os.Symlink(to, filepath.Join(b.root, name)))
	}
	must(t, os.Symlink(outside, filepath.Join(b.root, "out")))
	for _, cwd := range []string{"/proc/self/fd/7", "/proc/self/fd/8/../..", "/magic", "/magic/x", "/deep/fd/7", "/devfd/7", "/../proc/1/cwd"} {
		spec := b.spec("pwd")
		spec.Cwd = cwd
		var start *executor.StartError
		if code, err := b.Run(t.Context(), spec); !errors.As(err, &start) {
			t.Errorf("%s: exit code %d, %v", cwd, code, err)
		}
	}
	spec := b.spec("touch here")
	spec.Cwd = "/out/made"
	if code, err := b.Run(t.Context(), spec); err == nil && code == 0 {
		if _, err := os.Stat(filepath.Join(b.root, outside, "made/here")); err != nil {
			t.Errorf("the working directory is neither refused nor in the container: %v", err)
		}
	}
	if left, err := os.ReadDir(outside); err != nil || len(left) > 0 {
		t.Errorf("made on the host: %v, %v", left, err)
	}
}

func testConfinement(t *testing.T, b *box) {
	got := b.out(t, b.spec(`grep -E '^(Cap|NoNewPrivs|Seccomp:)' /proc/self/status; mount -t tmpfs x /tmp 2>&1
		echo x 2>&1 >/proc/sys/kernel/domainname || echo ro; wc -c </proc/timer_list; ls /dev; echo $$; mknod /b/d b 1 1 && cat /b/d 2>&1; unshare -U true 2>&1; true`))
	for _, want := range []string{
		"CapInh:\t0000000000000000", "CapPrm:\t00000000a80425fb", "CapEff:\t00000000a80425fb", "CapBnd:\t00000000a80425fb",
		"CapAmb:\t0000000000000000", "NoNewPrivs:\t0", "Seccomp:\t2", "ro", "\n0\n", "null", "shm", "\n1\n", "Operation not permitted",
	} {
		if !strings.Contains(got, want) {
			t.Errorf("no %q in\n%s", want, got)
		}
	}
	spec := b.spec("")
	spec.ReadOnly = true
	spec.Args = []string{"/bin/sh", "-c", "echo x >/x; test ! -e /x && echo x >/dev/shm/x && echo ok"}
	for _, dir := range []string{"proc", "dev", "sys", "etc"} {
		must(t, os.MkdirAll(filepath.Join(b.root, dir), 0o755))
	}
	if got := b.out(t, spec); got != "ok" {
		t.Errorf("got %q", got)
	}
}

// testDevices makes devices and opens them, in a cgroup at the top and in one in another.
func testDevices(t *testing.T, b *box) {
	parent := fmt.Sprintf("strake-test-%d", os.Getpid())
	defer func() {
		for _, dir := range CgroupsNamed(t, parent) {
			must(t, os.Remove(dir))
		}
	}()
	const allowed, denied = "c 1 3,c 1 5,c 1 7,c 1 8,c 1 9", "c 10 237,c 10 229,b 7 0,b 254 0,b 8 0,b 259 0"
	script := "IFS=,; for d in $DEVICES; do unset IFS; mknod /b/d $d || echo $d is not made; (: </b/d) 2>/dev/null && echo $d; " +
		"rm /b/d; done; mknod /dev/d c 10 237; (: </dev/d) 2>/dev/null && echo opens in /dev; true"
	for _, spec := range []executor.Spec{{}, {AsStep: true}, {CgroupParent: parent}} {
		with := b.spec(script)
		with.Env = []string{"DEVICES=" + denied + "," + allowed}
		with.AsStep, with.CgroupParent = spec.AsStep, spec.CgroupParent
		want := strings.ReplaceAll(allowed, ",", "\n")
		if !userns.IsRoot() { // where nobody makes devices
			want = strings.ReplaceAll(denied+","+allowed, ",", " is not made\n") + " is not made"
		}
		if got := b.out(t, with); got != want {
			t.Errorf("as a step: %t, in %q: got\n%s", spec.AsStep, spec.CgroupParent, got)
		}
	}
}

// CgroupsNamed returns the cgroups with a text in their names, inner ones first.
func CgroupsNamed(t *testing.T, text string) []string {
	t.Helper()
	var found []string
	must(t, filepath.WalkDir("/sys/fs/cgroup", func(path string, d fs.DirEntry, err error) error {
		if err == nil && strings.Contains(d.Name(), text) {
			found = append(found, path)
		}
		return nil // cgroups come and go
	}))
	slices.Reverse(found)
	return found
}

func testNetFiles(t *testing.T, b *box) {
	b.write(t, "etc/hosts", "from the image\n", 0o644)
	spec := b.spec("cat /etc/hosts /etc/hostname; ip -o link | wc -l; ip -o addr show lo; echo more >>/etc/hosts; cat /etc/resolv.conf")
	spec.ID, spec.ExtraHosts = "0123456789abcdef", []executor.Host{{Name: "db", IP: "10.0.0.1"}}
	got := b.out(t, spec)
	for _, want := range []string{"127.0.0.1\tlocalhost\n", "10.0.0.1\tdb\n", "0123456789ab\n", "inet 127.0.0.1/8"} {
		if !strings.Contains(got, want) {
			t.Errorf("no %q in\n%s", want, got)
		}
	}
	if data, err := os.ReadFile(filepath.Join(b.root, "etc/hosts")); err != nil || string(data) != "from the image\n" {
		t.Errorf("the image's /etc/hosts became %q, %v", data, err)
	}
}

func testHostNetwork(t *testing.T, b *box) {
	name, err := os.Hostname()
	must(t, err)
	resolv, err := os.ReadFile("/etc/resolv.conf")
	must(t, err)
	host, err := os.Readlink("/proc/self/ns/net")
	must(t, err)
	spec := b.spec("hostname; readlink /proc/self/ns/net; cat /etc/resolv.conf")
	spec.Network = executor.NetworkHost
	want := strings.TrimSpace(fmt.Sprintf("%s\n%s\n%s", name, host, resolv))
	if diff := cmp.Diff(want, b.out(t, spec)); diff != "" {
		t.Error(diff)
	}
}

// tree lists a directory: names, types, sizes and the times of directories.
func tree(t *testing.T, root string) []string {
	t.Helper()
	var lines []string
	must(t, filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		lines = append(lines, fmt.Sprint(strings.TrimPrefix(path, root), info.Mode(), info.ModTime().UnixNano()))
		return nil
	}))
	return lines
}

// testNoStubsLeft: a root file system with one static program is runnable, and as it was afterwards.
func testNoStubsLeft(t *testing.T, b *box) {
	must(t, os.MkdirAll(filepath.Join(b.root, "etc"), 0o711))
	must(t, os.Symlink("../run/systemd/resolve.conf", filepath.Join(b.root, "etc/resolv.conf")))
	past := time.Unix(1e9, 5)
	for _, dir := range []string{"", "etc", "bin"} {
		must(t, os.Chtimes(filepath.Join(b.root, dir), past, past))
	}
	before := tree(t, b.root)
	spec := b.spec("")
	source := t.TempDir()
	spec.Mounts = []executor.Mount{{Type: "bind", Source: source, Target: "/a/b/c", Options: []string{"rbind"}}}
	spec.Args = []string{"/bin/sh", "-c", "echo x >/a/b/c/x"}
	b.out(t, spec)
	if diff := cmp.Diff(before, tree(t, b.root)); diff != "" {
		t.Error(diff)
	}
	if _, err := os.Stat(filepath.Join(source, "x")); err != nil {
		t.Error(err)
	}
}

// testStubsReplaced holds CVE-2024-23652: the process makes the place of a mount a link to the host.
func testStubsReplaced(t *testing.T, b *box) {
	outside := t.TempDir()
	must(t, os.Mkdir(filepath.Join(outside, "sub"), 0o755))
	must(t, os.WriteFile(filepath.Join(outside, "file"), nil, 0o644))
	source := t.TempDir()
	file := filepath.Join(t.TempDir(), "f")
	must(t, os.WriteFile(file, nil, 0o644))
	spec := b.spec("mv /m /gone && ln -s " + outside + " /m && rm -rf /etc/none; echo own >/keep/own")
	spec.Mounts = []executor.Mount{
		{Type: "bind", Source: source, Target: "/m/sub", Options: []string{"rbind"}},
		{Type: "bind", Source: file, Target: "/m/file", Options: []string{"rbind"}},
		{Type: "bind", Source: source, Target: "/keep/sub", Options: []string{"rbind"}},
	}
	b.out(t, spec)
	for _, name := range []string{"sub", "file"} {
		if _, err := os.Lstat(filepath.Join(outside, name)); err != nil {
			t.Errorf("removed on the host: %v", err)
		}
	}
	if _, err := os.Stat(filepath.Join(b.root, "keep/own")); err != nil {
		t.Errorf("the process's own file is lost: %v", err)
	}
	if _, err := os.Stat(filepath.Join(b.root, "keep/sub")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the stub beside it is left: %v", err)
	}
}

func testMounts(t *testing.T, b *box) {
	source := t.TempDir()
	must(t, os.WriteFile(filepath.Join(source, "f"), []byte("data"), 0o644))
	spec := b.spec("cat /ro/f; echo x >/ro/g 2>/dev/null || echo refused; df -k /dev/shm | tail -1 | tr -s ' ' | cut -d' ' -f2")
	spec.Mounts = []executor.Mount{
		{Type: "bind", Source: source, Target: "/ro", Options: []string{"rbind", "ro"}},
		{Type: "tmpfs", Source: "shm", Target: "/dev/shm", Options: []string{"size=8k"}},
	}
	if got := b.out(t, spec); got != "datarefused\n8" {
		t.Errorf("got %q", got)
	}
}

func testSignals(t *testing.T, b *box) {
	spec := b.spec("trap 'echo caught; exit 7' TERM; echo ready; while :; do sleep 0.05; done")
	r, w, err := os.Pipe()
	must(t, err)
	signals := make(chan os.Signal, 1)
	spec.Stdout, spec.Signals = w, signals
	go func() {
		line := make([]byte, 6)
		_, _ = r.Read(line)
		signals <- syscall.SIGTERM
	}()
	code, err := b.Run(t.Context(), spec)
	if code != 7 || err != nil {
		t.Errorf("after SIGTERM: exit code %d, %v", code, err)
	}
	must(t, errors.Join(r.Close(), w.Close()))
	spec = b.spec("trap '' TERM; sleep 100")
	kill := make(chan os.Signal, 1)
	spec.Signals = kill
	time.AfterFunc(300*time.Millisecond, func() { kill <- syscall.SIGKILL })
	if code, err := b.Run(t.Context(), spec); code != 137 || err != nil {
		t.Errorf("after SIGKILL: exit code %d, %v", code, err)
	}
}

func testCancel(t *testing.T, b *box) {
	cause := errors.New("enough")
	for i := range 12 { // in every phase of the start
		ctx, cancel := context.WithCancelCause(t.Context())
		spec := b.spec("sleep 100 & sleep 100")
		spec.ID, spec.AsStep = fmt.Sprintf("cancelled-%d-%d", os.Getpid(), i), i%2 == 1
		time.AfterFunc(time.Duration(i)*5*time.Millisecond, func() { cancel(cause) })
		start := time.Now()
		code, err := b.Run(ctx, spec)
		if !errors.Is(err, cause) || time.Since(start) > 5*time.Second {
			t.Errorf("exit code %d, %v after %v", code, err, time.Since(start))
		}
		if left := CgroupsNamed(t, spec.ID); len(left) > 0 {
			t.Errorf("left: %v", left)
		}
	}
	if out, err := exec.Command("ps", "-eo", "args").Output(); err == nil && strings.Contains(string(out), "cancelled-") {
		t.Errorf("still running:\n%s", out)
	}
}

func testTerminal(t *testing.T, b *box) {
	spec := b.spec("test -t 0 && test -t 1 && test -t 2 && test -c /dev/console && read x && echo got $x")
	spec.Terminal, spec.Stdin = true, strings.NewReader("line\n")
	if got := b.out(t, spec); !strings.HasSuffix(got, "got line") {
		t.Errorf("got %q", got)
	}
	spec = b.spec("")
	spec.Args, spec.Terminal = []string{"/bin/busybox", "echo", "short"}, true
	for range 20 { // a runtime may end before it has copied what the process wrote
		if got := b.out(t, spec); got != "short" {
			t.Errorf("got %q", got)
		}
	}
	spec.Args = []string{"nonesuch"}
	var start *executor.StartError
	if _, err := b.Run(t.Context(), spec); !errors.As(err, &start) {
		t.Errorf("got error %v", err)
	}
}

func testParallel(t *testing.T, b *box) {
	var all sync.WaitGroup
	for i := range 8 {
		all.Go(func() {
			b := newBox(t, filepath.Join(b.root, "bin/busybox"), b.Executor)
			spec := b.spec("")
			var stdout bytes.Buffer
			spec.Stdout, spec.Args = &stdout, []string{"/bin/busybox", "echo", fmt.Sprint(i)}
			code, err := b.Run(t.Context(), spec)
			if code != 0 || err != nil || stdout.String() != fmt.Sprintln(i) {
				t.Errorf("run %d: exit code %d, %v, %q", i, code, err, stdout.String())
			}
		})
	}
	all.Wait()
}
