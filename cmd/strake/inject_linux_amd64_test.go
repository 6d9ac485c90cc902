package main_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// injectMode is what happens at a system call that changes files.
type injectMode int

const (
	injectNothing injectMode = iota // count the calls
	injectKill                      // kill -9 instead of the call, everything that the command started
	injectEIO                       // the call fails, those after it do not
	injectFull                      // the disk is full from this call on
)

func (m injectMode) String() string {
	return [...]string{"nothing", "kill", "EIO", "ENOSPC"}[m]
}

// The calls that change files; openat only where it may make one.
func changing() []uintptr {
	return []uintptr{
		unix.SYS_WRITE, unix.SYS_PWRITE64, unix.SYS_WRITEV, unix.SYS_PWRITEV, unix.SYS_COPY_FILE_RANGE, unix.SYS_SENDFILE,
		unix.SYS_FSYNC, unix.SYS_FDATASYNC, unix.SYS_FTRUNCATE, unix.SYS_FALLOCATE,
		unix.SYS_RENAME, unix.SYS_RENAMEAT, unix.SYS_RENAMEAT2, unix.SYS_LINK, unix.SYS_LINKAT, unix.SYS_SYMLINKAT,
		unix.SYS_UNLINK, unix.SYS_UNLINKAT, unix.SYS_RMDIR, unix.SYS_MKDIR, unix.SYS_MKDIRAT,
	}
}

// injectWrapper is what the test binary is when injectEnv is set: it puts itself
// under a seccomp filter that tells of each changing call, hands the listener to
// its parent at descriptor 3, and becomes the command.
func injectWrapper(args []string) error {
	runtime.LockOSThread()
	calls := changing()
	const load, jumpEqual, jumpSet, ret = unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K,
		unix.BPF_JMP | unix.BPF_JSET | unix.BPF_K, unix.BPF_RET | unix.BPF_K
	n := len(calls)
	prog := []unix.SockFilter{{Code: load, K: 0}}
	for i, nr := range calls {
		prog = append(prog, unix.SockFilter{Code: jumpEqual, K: uint32(nr), Jt: uint8(n - i - 1 + 4)}) // to the last
	}
	prog = append(prog,
		unix.SockFilter{Code: jumpEqual, K: unix.SYS_OPENAT, Jf: 2},
		unix.SockFilter{Code: load, K: 16 + 2*8},                      // openat's flags
		unix.SockFilter{Code: jumpSet, K: unix.O_CREAT, Jt: 1, Jf: 0}, //
		unix.SockFilter{Code: ret, K: unix.SECCOMP_RET_ALLOW},
		unix.SockFilter{Code: ret, K: unix.SECCOMP_RET_USER_NOTIF})
	fprog := unix.SockFprog{Len: uint16(len(prog)), Filter: &prog[0]}
	if os.Geteuid() != 0 { // who may not filter calls of programs that would gain rights
		if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
			return fmt.Errorf("no new privileges: %w", err)
		}
	}
	const waitKillable = 1 << 5 // so that the runtime's signals do not repeat a call
	fd, _, errno := unix.Syscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER,
		unix.SECCOMP_FILTER_FLAG_NEW_LISTENER|waitKillable, uintptr(unsafe.Pointer(&fprog)))
	if errno != 0 {
		return fmt.Errorf("seccomp: %w", errno)
	}
	if err := unix.Sendmsg(3, []byte{0}, unix.UnixRights(int(fd)), nil, 0); err != nil {
		return fmt.Errorf("hand over the listener: %w", err)
	}
	_ = unix.Close(3)
	return unix.Exec(args[0], args, os.Environ())
}

const injectEnv = "STRAKE_TEST_INJECT"

// inject runs strake on a store, does what mode says at its call number at that
// changes a file of the world (counted from 1, over all its threads and
// children that are strake), and returns how many there were.
func (w *world) inject(store string, at int, mode injectMode, args ...string) (calls []string, out string, err error) {
	w.Helper()
	ctx, cancel := context.WithTimeout(w.Context(), time.Minute)
	defer cancel()
	self, err := os.Executable()
	if err != nil {
		w.Fatal(err)
	}
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		w.Fatal(err)
	}
	theirs := os.NewFile(uintptr(pair[1]), "theirs")
	cmd := w.command(ctx, store, args...)
	cmd.Args = append([]string{self, cmd.Path}, cmd.Args[1:]...)
	cmd.Path = self
	cmd.Env = append(cmd.Env, injectEnv+"=1")
	cmd.ExtraFiles = []*os.File{theirs}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.WaitDelay = 5 * time.Second
	var output bytes.Buffer
	cmd.Stdout, cmd.Stderr = &output, &output
	if err := cmd.Start(); err != nil {
		w.Fatal(err)
	}
	theirs.Close()
	listener, err := receiveFD(pair[0])
	if err != nil {
		_ = cmd.Wait()
		w.Fatalf("no seccomp listener: %v\n%s", err, output.String())
	}
	s := &supervisor{listener: listener, dir: w.dir, at: at, mode: mode, group: cmd.Process.Pid}
	served := make(chan error, 1)
	go func() { served <- s.serve() }()
	err = cmd.Wait()
	_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) // what it may have left behind
	if serveErr := <-served; serveErr != nil {
		w.Fatalf("supervise %v: %v", args, serveErr)
	}
	return s.calls, output.String(), err
}

// receiveFD takes one descriptor from a socket, which it closes.
func receiveFD(socket int) (int, error) {
	conn, err := net.FileConn(os.NewFile(uintptr(socket), "ours"))
	if err != nil {
		return -1, err
	}
	defer conn.Close()
	oob := make([]byte, unix.CmsgSpace(4))
	_, n, _, _, err := conn.(*net.UnixConn).ReadMsgUnix(make([]byte, 1), oob)
	if err != nil {
		return -1, err
	}
	messages, err := unix.ParseSocketControlMessage(oob[:n])
	if err != nil || len(messages) != 1 {
		return -1, errors.Join(err, errors.New("no descriptor came"))
	}
	fds, err := unix.ParseUnixRights(&messages[0])
	if err != nil {
		return -1, err
	}
	return fds[0], nil
}

// supervisor answers the calls of one command.
type supervisor struct {
	listener int
	dir      string // whose files count
	at       int
	mode     injectMode
	group    int
	calls    []string
}

// notification is struct seccomp_notif; answer is struct seccomp_notif_resp.
type notification struct {
	id         uint64
	pid, flags uint32
	nr         int32
	arch       uint32
	ip         uint64
	args       [6]uint64
}

type answer struct {
	id           uint64
	value        int64
	errno, flags int32
}

// serve answers until nobody is under the filter any more.
func (s *supervisor) serve() error {
	defer unix.Close(s.listener)
	const receive, send, flagContinue = 0xc0502100, 0xc0182101, 1
	for {
		poll := []unix.PollFd{{Fd: int32(s.listener), Events: unix.POLLIN}}
		if _, err := unix.Poll(poll, -1); err != nil && !errors.Is(err, unix.EINTR) {
			return err
		}
		if poll[0].Revents&unix.POLLIN == 0 {
			if poll[0].Revents&unix.POLLHUP != 0 {
				return nil
			}
			continue
		}
		var n notification
		if _, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(s.listener), receive, uintptr(unsafe.Pointer(&n))); errno != 0 {
			if errno == unix.ENOENT || errno == unix.EINTR { // its caller is dead
				continue
			}
			return errno
		}
		a := answer{id: n.id, flags: flagContinue}
		if errno, kill := s.decide(&n); kill {
			_ = syscall.Kill(-s.group, syscall.SIGKILL)
			continue
		} else if errno != 0 {
			a.errno, a.flags = -int32(errno), 0
		}
		if _, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(s.listener), send, uintptr(unsafe.Pointer(&a))); errno != 0 && errno != unix.ENOENT {
			return errno
		}
	}
}

// decide counts a call, and says what becomes of it.
func (s *supervisor) decide(n *notification) (errno syscall.Errno, kill bool) {
	proc := fmt.Sprintf("/proc/%d/", n.pid)
	if exe, err := os.Readlink(proc + "exe"); err != nil || filepath.Base(exe) != "strake" {
		return 0, false
	}
	var target string
	removes := false
	switch uintptr(n.nr) {
	case unix.SYS_UNLINK, unix.SYS_RMDIR:
		removes = true
		target = readString(n.pid, n.args[0])
	case unix.SYS_MKDIR, unix.SYS_RENAME, unix.SYS_LINK:
		target = readString(n.pid, n.args[0])
	case unix.SYS_OPENAT, unix.SYS_MKDIRAT, unix.SYS_UNLINKAT, unix.SYS_RENAMEAT, unix.SYS_RENAMEAT2, unix.SYS_LINKAT:
		removes = uintptr(n.nr) == unix.SYS_UNLINKAT
		if target = readString(n.pid, n.args[1]); !filepath.IsAbs(target) {
			dir, _ := os.Readlink(fmt.Sprintf("%sfd/%d", proc, int32(n.args[0])))
			target = filepath.Join(dir, target)
		}
	case unix.SYS_SYMLINKAT:
		target = readString(n.pid, n.args[2])
	case unix.SYS_COPY_FILE_RANGE:
		target, _ = os.Readlink(fmt.Sprintf("%sfd/%d", proc, int32(n.args[2])))
	default:
		target, _ = os.Readlink(fmt.Sprintf("%sfd/%d", proc, int32(n.args[0])))
	}
	if !strings.HasPrefix(target, s.dir) || s.mode == injectFull && removes {
		return 0, false
	}
	s.calls = append(s.calls, fmt.Sprintf("%s %s", callName(uintptr(n.nr)), strings.TrimPrefix(target, s.dir)))
	switch {
	case s.mode == injectKill && len(s.calls) == s.at:
		return 0, true
	case s.mode == injectEIO && len(s.calls) == s.at:
		return unix.EIO, false
	case s.mode == injectFull && len(s.calls) >= s.at && s.at > 0:
		return unix.ENOSPC, false
	}
	return 0, false
}

func callName(nr uintptr) string {
	names := []string{
		"write", "pwrite", "writev", "pwritev", "copy_file_range", "sendfile", "fsync", "fdatasync", "ftruncate", "fallocate",
		"rename", "rename", "rename", "link", "link", "symlink", "unlink", "unlink", "rmdir", "mkdir", "mkdir",
	}
	if i := slices.Index(changing(), nr); i >= 0 {
		return names[i]
	}
	return "create"
}

// readString reads a path of another process.
func readString(pid uint32, at uint64) string {
	buf := make([]byte, 4096)
	remote := []unix.RemoteIovec{{Base: uintptr(at), Len: len(buf) - int(at%4096)}} // to the end of the page
	local := []unix.Iovec{{Base: &buf[0]}}
	local[0].SetLen(len(buf))
	n, err := unix.ProcessVMReadv(int(pid), local, remote, 0)
	if err != nil {
		return ""
	}
	if i := bytes.IndexByte(buf[:n], 0); i >= 0 {
		return string(buf[:i])
	}
	rest := []unix.RemoteIovec{{Base: uintptr(at) + uintptr(n), Len: 4096}}
	local[0].Base = &buf[n]
	local[0].SetLen(len(buf) - n)
	m, err := unix.ProcessVMReadv(int(pid), local, rest, 0)
	if err != nil {
		return ""
	}
	text, _, _ := strings.Cut(string(buf[:n+m]), "\x00")
	return text
}
