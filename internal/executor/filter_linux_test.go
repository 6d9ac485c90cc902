package executor_test

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"strake/internal/conformance"
	"strake/internal/executor"
)

// probeVariable makes the test binary, in a container, the process of TestFilter.
const probeVariable = "STRAKE_TEST_PROBE"

// TestProbe makes every system call with impossible arguments and with zeros, and prints what the kernel answers.
func TestProbe(t *testing.T) {
	if os.Getenv(probeVariable) == "" {
		t.Skip("a helper of TestFilter")
	}
	runtime.LockOSThread()
	skip := []uintptr{ // those that end, stop or multiply the process
		unix.SYS_EXIT, unix.SYS_EXIT_GROUP, unix.SYS_CLONE, unix.SYS_RT_SIGRETURN, unix.SYS_RT_SIGSUSPEND, unix.SYS_RT_SIGTIMEDWAIT,
		unix.SYS_PPOLL, unix.SYS_PSELECT6, unix.SYS_CLOSE, unix.SYS_DUP, unix.SYS_DUP3, unix.SYS_CLOSE_RANGE, unix.SYS_SYNC,
		unix.SYS_MUNMAP, unix.SYS_MREMAP, unix.SYS_BRK, unix.SYS_SETITIMER, unix.SYS_KILL, unix.SYS_READ, unix.SYS_RESTART_SYSCALL,
		unix.SYS_WRITE, unix.SYS_SETUID, unix.SYS_SETGID, unix.SYS_SETFSUID, unix.SYS_SETFSGID, unix.SYS_SETREUID, unix.SYS_SETREGID,
		unix.SYS_SETRESUID, unix.SYS_SETRESGID, unix.SYS_SETGROUPS, unix.SYS_CAPSET, unix.SYS_SET_TID_ADDRESS, unix.SYS_FUTEX,
		unix.SYS_RT_SIGACTION, unix.SYS_RT_SIGPROCMASK, unix.SYS_SIGALTSTACK, unix.SYS_SHMAT, unix.SYS_SHMDT, unix.SYS_MPROTECT,
		unix.SYS_MADVISE, unix.SYS_MMAP, unix.SYS_UMASK, unix.SYS_PRCTL, unix.SYS_CHROOT, unix.SYS_WAITID, unix.SYS_WAIT4,
		unix.SYS_MLOCKALL, unix.SYS_SCHED_YIELD, unix.SYS_RSEQ, unix.SYS_SETRLIMIT, unix.SYS_PRLIMIT64, unix.SYS_SETSID,
	}
	skip = append(skip, slowCalls()...)
	for nr := uintptr(0); nr < 470; nr++ {
		if slices.Contains(skip, nr) {
			continue
		}
		_, _, impossible := unix.RawSyscall6(nr, ^uintptr(0), ^uintptr(0), ^uintptr(0), ^uintptr(0), ^uintptr(0), ^uintptr(0))
		fmt.Fprintf(os.Stdout, "call %d %d\n", nr, impossible)
	}
	for _, nr := range []uintptr{1023, 1024, 4000, 1<<30 - 1} {
		_, _, errno := unix.RawSyscall(nr, 0, 0, 0)
		fmt.Fprintf(os.Stdout, "call %d %d\n", nr, errno)
	}
	for _, domain := range []uintptr{unix.AF_UNIX, unix.AF_INET, unix.AF_VSOCK, unix.AF_NETLINK, unix.AF_ALG} {
		_, _, errno := unix.RawSyscall(unix.SYS_SOCKET, domain, 99, 0)
		fmt.Fprintf(os.Stdout, "call socket %d %d\n", domain, errno)
	}
	for _, persona := range []uintptr{0, 8, 0x20000, 0x20008, 0xffffffff, 0x40000, 1 << 32, 1} {
		_, _, errno := unix.RawSyscall(unix.SYS_PERSONALITY, persona, 0, 0)
		fmt.Fprintf(os.Stdout, "call personality %x %d\n", persona, errno)
	}
	for _, flags := range []uintptr{unix.CLONE_NEWUSER, unix.CLONE_NEWNS, unix.CLONE_NEWNET, 1<<40 | unix.CLONE_NEWUSER, unix.CLONE_SIGHAND} {
		// CLONE_SIGHAND without CLONE_VM is refused by the kernel itself: no process is made.
		_, _, errno := unix.RawSyscall(unix.SYS_CLONE, flags|unix.CLONE_SIGHAND, 0, 0)
		fmt.Fprintf(os.Stdout, "call clone %x %d\n", flags, errno)
	}
}

// TestFilter: the answers to all system calls are the same under runc, which compiles the profile, under crun the first time, when
// it does, and under crun with the filter it is given.
func TestFilter(t *testing.T) {
	conformance.NeedBusybox(t)
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	state := t.TempDir()
	var answers [3]string
	for i, name := range []string{"runc", "crun", "crun"} {
		path, err := exec.LookPath(name)
		if err != nil {
			t.Skip("no " + name)
		}
		r, err := executor.NewRunc(executor.RuncOptions{Path: path, StateDir: state})
		if err != nil {
			t.Fatal(err)
		}
		spec := executor.Spec{
			Bundle: filepath.Join(t.TempDir(), "bundle"), Rootfs: t.TempDir(), ID: fmt.Sprintf("probe-%d-%d", os.Getpid(), i),
			Args: []string{"/probe", "-test.run=^TestProbe$"}, Env: []string{probeVariable + "=1", "GODEBUG=asyncpreemptoff=1"},
			Mounts: []executor.Mount{{Source: self, Target: "/probe", Type: "bind", Options: []string{"bind", "ro"}}},
		}
		for _, libraries := range []string{"/lib", "/lib64", "/usr/lib"} {
			if _, err := os.Stat(libraries); err == nil {
				spec.Mounts = append(spec.Mounts, executor.Mount{
					Source: libraries, Target: libraries, Type: "bind", Options: []string{"rbind", "ro"},
				})
			}
		}
		var out bytes.Buffer
		spec.Stdout, spec.Stderr = &out, &out
		if code, err := r.Run(t.Context(), spec); code != 0 || err != nil {
			t.Fatalf("%s: %d, %v, %s", name, code, err, out.String())
		}
		for line := range strings.Lines(out.String()) {
			if strings.HasPrefix(line, "call ") {
				answers[i] += line
			}
		}
		if err := r.Close(); err != nil {
			t.Error(err)
		}
		kept, err := filepath.Glob(state + "/filter-*")
		if err != nil || len(kept) != min(i, 1) {
			t.Errorf("%s: filters %v, %v", name, kept, err)
		}
	}
	if strings.Count(answers[0], "\n") < 300 || !strings.Contains(answers[0], fmt.Sprintf("call %d %d\n", unix.SYS_UNSHARE, unix.EPERM)) {
		t.Errorf("the probe says too little: %s", answers[0])
	}
	if answers[0] != answers[1] || answers[1] != answers[2] {
		t.Errorf("runc:\n%s\ncrun:\n%s\ncrun again:\n%s", answers[0], answers[1], answers[2])
	}
}
