package executor

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"syscall"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// A filter is a seccomp profile as the kernel takes it. To compile one takes libseccomp longer than everything else that crun
// does, so crun compiles each profile once, for a container that is created and never started, and every other container is
// given what it made. runc takes no filter.

// filterAnnotation gives crun a filter, in base64; filterFile is where in its state crun leaves the one of a container.
const (
	filterAnnotation = "run.oci.seccomp_bpf_data"
	filterFile       = "seccomp.bpf"
)

// setFilter replaces the profile of a config by its filter, if the runtime takes one. What is left of the profile forbids every
// system call: a runtime that looks at it instead starts nothing.
func (x *run) setFilter(ctx context.Context, config *specs.Spec) {
	profile := config.Linux.Seccomp
	if !x.runc.isCrun || profile == nil {
		return
	}
	filter, err := x.runc.filter(profile, func() ([]byte, error) { return x.compile(ctx, profile) })
	if err != nil {
		return // the runtime compiles it, or says why it cannot
	}
	giveFilter(config, filter)
}

// giveFilter is setFilter for a filter that is known.
func giveFilter(config *specs.Spec, filter []byte) {
	p := *config.Linux.Seccomp
	p.Syscalls = nil
	config.Linux.Seccomp = &p
	if config.Annotations == nil {
		config.Annotations = map[string]string{}
	}
	config.Annotations[filterAnnotation] = base64.StdEncoding.EncodeToString(filter)
}

// filter returns what compile makes of a profile: from memory, from the state directory, which does not outlive the kernel, or
// made now and kept in both.
func (r *Runc) filter(profile *specs.LinuxSeccomp, compile func() ([]byte, error)) ([]byte, error) {
	key, err := r.filterKey(profile)
	if err != nil {
		return nil, err
	}
	r.filterMu.Lock()
	defer r.filterMu.Unlock()
	if f, ok := r.filters[key]; ok {
		return f, nil
	}
	path := filepath.Join(r.stateDir, "filter-"+key)
	f, ok := keptFilter(path)
	if !ok {
		if f, err = compile(); err != nil {
			return nil, err
		}
		_ = keepFilter(path, f) // no matter: the next process compiles it again
	}
	r.filters[key] = f
	return f, nil
}

// filterKey names what a filter depends on: the profile, the runtime and the kernel. The runtime does not tell which libseccomp it
// loads: a newer one counts from the next start of the machine on.
func (r *Runc) filterKey(profile *specs.LinuxSeccomp) (string, error) {
	var kernel unix.Utsname
	if err := unix.Uname(&kernel); err != nil {
		return "", err
	}
	runtime, err := os.Stat(r.path)
	if err != nil {
		return "", err
	}
	text, err := json.Marshal(profile)
	if err != nil {
		return "", err
	}
	h := sha256.New()
	_, err = fmt.Fprintf(h, "%s %d %d %s %s\n%s", r.path, runtime.Size(), runtime.ModTime().UnixNano(), kernel.Release, kernel.Machine, text)
	return fmt.Sprintf("%x", h.Sum(nil)), err
}

// filterSize is the size of an instruction: code, two jumps, operand.
const filterSize = 8

// keptFilter reads a filter that keepFilter wrote, and deletes a file that is none.
func keptFilter(path string) (filter []byte, ok bool) {
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, false
	}
	if len(b) > sha256.Size && (len(b)-sha256.Size)%filterSize == 0 {
		filter = b[sha256.Size:]
		if sum := sha256.Sum256(filter); bytes.Equal(sum[:], b[:sha256.Size]) {
			return filter, true
		}
	}
	_ = os.Remove(path) // who cannot does not keep its own either
	return nil, false
}

// keepFilter writes a filter after its digest, whole or not at all, unless it is there.
func keepFilter(path string, filter []byte) error {
	fd, err := unix.Open(filepath.Dir(path), unix.O_TMPFILE|unix.O_RDWR|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return err
	}
	f := os.NewFile(uintptr(fd), fmt.Sprintf("/proc/self/fd/%d", fd))
	sum := sha256.Sum256(filter)
	_, err = f.Write(append(sum[:], filter...))
	if err == nil {
		err = f.Sync()
	}
	if err == nil {
		err = unix.Linkat(unix.AT_FDCWD, f.Name(), unix.AT_FDCWD, path, unix.AT_SYMLINK_FOLLOW)
	}
	return errors.Join(err, f.Close())
}

// compile has the runtime compile a profile, adds refuseUnknown, and holds the filter of a second container, which is given that,
// to be the same: then the runtime takes filters.
func (x *run) compile(ctx context.Context, profile *specs.LinuxSeccomp) (_ []byte, err error) {
	bundle := filepath.Join(x.spec.Bundle, "filter")
	defer func() { err = errors.Join(err, os.RemoveAll(bundle)) }()
	if err := os.MkdirAll(filepath.Join(bundle, "root"), 0o755); err != nil { //nolint:gosec // in a closed directory
		return nil, err
	}
	if err := writeScratch(filepath.Join(bundle, "root/never"), nil, 0o755); err != nil {
		return nil, err
	}
	config := &specs.Spec{
		Version: "1.0.2", Root: &specs.Root{Path: filepath.Join(bundle, "root")},
		Process: &specs.Process{Args: []string{"/never"}, Cwd: "/"},
		Mounts: []specs.Mount{
			{Destination: "/proc", Type: "proc", Source: "proc"}, {Destination: "/dev", Type: "tmpfs", Source: "tmpfs"},
		},
		Linux: &specs.Linux{
			Namespaces: []specs.LinuxNamespace{{Type: specs.MountNamespace}, {Type: specs.PIDNamespace}}, Seccomp: profile,
		},
	}
	filter, err := x.created(ctx, bundle, config)
	if err != nil {
		return nil, err
	}
	filter = refuseUnknown(filter)
	giveFilter(config, filter)
	given, err := x.created(ctx, bundle, config)
	if err == nil && (len(filter) == 0 || !bytes.Equal(filter, given)) {
		err = errors.New("the runtime takes no seccomp filter")
	}
	return filter, err
}

// created returns the filter of a container that is created, and deleted again.
func (x *run) created(ctx context.Context, bundle string, config *specs.Spec) (filter []byte, err error) {
	id := x.spec.ID + ".filter"
	if x.runc.cgroups != cgroupNone { // by which its process is found, should this one be killed
		config.Linux.CgroupsPath = filepath.Join("/", x.runc.place.dir, cgroupName(x.owner.dir, id))
	}
	if err := writeConfig(bundle, config); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), destroyTimeout) // half a container is hard to find
	defer cancel()
	defer func() {
		err = errors.Join(err, x.owner.cleaned(x.destroy(ctx, id, cgroupDirs(x.runc.place.dir, cgroupName(x.owner.dir, id)))))
	}()
	// The container's process keeps the standard streams: they must not be pipes.
	args := append(x.runtimeArgs(filepath.Join(bundle, "log"), x.runc.cgroups != cgroupNone), "create", "--bundle", bundle, id)
	cmd := exec.CommandContext(ctx, x.runc.path, args...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	runtime.LockOSThread() // whose death is meant
	defer runtime.UnlockOSThread()
	if err := cmd.Run(); err != nil {
		return nil, err
	}
	return os.ReadFile(filepath.Join(x.owner.dir, id, filterFile))
}

// System calls since Linux 5.1 have the same numbers, from firstCommonCall on, on all architectures but those that begin at 4000
// and above. Other numbers of the same calls, for x32, have the bit callX32.
const (
	firstCommonCall = 424
	lastCommonCall  = 1023
	callX32         = 1 << 30
)

// refuseUnknown puts before a filter that a system call newer than all that it knows does not exist, as runc does: programs do
// without a new call that does not exist, but give up when they may not make it.
func refuseUnknown(filter []byte) []byte {
	last, loaded := uint32(0), uint32(0)
	for f := filter; len(f) >= filterSize; f = f[filterSize:] {
		code, operand := binary.NativeEndian.Uint16(f), binary.NativeEndian.Uint32(f[4:])
		switch code {
		case unix.BPF_LD | unix.BPF_W | unix.BPF_ABS:
			loaded = operand
		case unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, unix.BPF_JMP | unix.BPF_JGT | unix.BPF_K, unix.BPF_JMP | unix.BPF_JGE | unix.BPF_K:
			if loaded == 0 && operand <= lastCommonCall { // compares the number of the call
				last = max(last, operand)
			}
		}
	}
	if last < firstCommonCall {
		return filter
	}
	var out []byte
	for _, f := range []unix.SockFilter{
		{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, K: 0},
		{Code: unix.BPF_JMP | unix.BPF_JGT | unix.BPF_K, K: last, Jf: 2},
		{Code: unix.BPF_JMP | unix.BPF_JGE | unix.BPF_K, K: callX32, Jt: 1},
		{Code: unix.BPF_RET | unix.BPF_K, K: unix.SECCOMP_RET_ERRNO | uint32(unix.ENOSYS)},
	} {
		out = binary.NativeEndian.AppendUint16(out, f.Code)
		out = append(out, f.Jt, f.Jf)
		out = binary.NativeEndian.AppendUint32(out, f.K)
	}
	return append(out, filter...)
}
