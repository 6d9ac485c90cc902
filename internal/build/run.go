package build

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	specs "github.com/opencontainers/runtime-spec/specs-go"

	"strake/internal/archive"
	"strake/internal/executor"
	"strake/internal/layer"
	"strake/internal/rootfs"
	"strake/internal/userns"
)

// Run runs one command in its parent's files and keeps what it changed: the RUN
// instruction.
type Run struct {
	Platform ocispec.Platform `json:"-"` // of the programs that it runs; zero is this machine's
	Args     []string
	Shell    []string `json:"-"` // the program by which others are run in the stage
	Env      []string // sorted or not, the order is part of the key
	Cwd      string
	User     string
	Network  string // executor.NetworkHost or executor.NetworkNone
	// Scripts are files that the command sees read-only in ScriptDir.
	Scripts []Inline
	// Hidden is environment that the key leaves out: proxies.
	Hidden     []string
	ExtraHosts []executor.Host

	Hostname     string           `json:",omitempty"` // "" is BuildKit's
	Mounts       []Mount          `json:",omitempty"`
	Devices      []string         `json:",omitempty"` // names of executor.Devices
	Insecure     bool             `json:",omitempty"` // with all privileges that this process has
	Limits       []executor.Limit `json:",omitempty"`
	CgroupParent string           `json:",omitempty"`
	// Resources limit the command; the key leaves them out.
	Resources *specs.LinuxResources `json:"-"`
	ShmSize   int64                 `json:",omitempty"` // of /dev/shm, bytes; 0 is the executor's default
}

// defaultHostname is the name of a step's machine, as BuildKit's.
const defaultHostname = "buildkitsandbox"

// ScriptDir is where a command finds its Scripts.
const ScriptDir = "/dev/pipes"

// Prepare is Op's.
func (r *Run) Prepare(ctx context.Context, w *Work) (Step, error) {
	inputs := []Input{
		{Name: "command", Value: fmt.Sprintf("%q", r.Args)},
		{Name: "directory", Value: r.Cwd},
		{Name: "user", Value: r.User},
		{Name: "network", Value: r.Network},
	}
	for _, kv := range r.Env {
		k, v, _ := strings.Cut(kv, "=")
		inputs = append(inputs, Input{Name: VariableInput + k, Value: v})
	}
	for _, f := range r.Scripts {
		inputs = append(inputs, Input{Name: "script " + f.Name, Value: string(f.Data)})
	}
	for _, h := range r.ExtraHosts {
		inputs = append(inputs, Input{Name: "host " + h.Name}) // as for BuildKit, wherever it is
	}
	inputs = append(inputs, r.confinement()...)
	mounts, err := r.mountInputs(ctx, w)
	if err != nil {
		return Step{}, err
	}
	inputs = append(inputs, mounts...)
	return Step{Inputs: inputs, Make: func(ctx context.Context, out io.Writer) error {
		return r.run(ctx, w, out)
	}}, nil
}

// confinement names how the command is confined, where that is not as usual.
func (r *Run) confinement() []Input {
	var inputs []Input
	if r.Insecure {
		inputs = append(inputs, Input{Name: "security", Value: "insecure"})
	}
	for _, l := range r.Limits {
		inputs = append(inputs, Input{Name: "limit " + l.Name, Value: fmt.Sprintf("%d:%d", l.Soft, l.Hard)})
	}
	for _, name := range r.Devices {
		inputs = append(inputs, Input{Name: "device " + name})
	}
	if r.Hostname != "" {
		inputs = append(inputs, Input{Name: "host name", Value: r.Hostname})
	}
	if r.CgroupParent != "" {
		inputs = append(inputs, Input{Name: "cgroup parent", Value: r.CgroupParent})
	}
	if r.ShmSize > 0 {
		inputs = append(inputs, Input{Name: "shared memory", Value: strconv.FormatInt(r.ShmSize, 10)})
	}
	return inputs
}

// run mounts the chain with a fresh upper directory, runs the command and
// writes what it left in the upper directory.
func (r *Run) run(ctx context.Context, w *Work, out io.Writer) (err error) {
	s := w.solver
	rt, err := s.runtime(ctx)
	if err == nil && rt.Runs != nil && r.Platform.Architecture != "" {
		err = rt.Runs(r.Platform)
	}
	if err != nil {
		return err
	}
	files, err := chainFiles(ctx, s, w.parent().Layers)
	if err != nil {
		return err
	}
	tmp, err := s.opts.Store.TempDir(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(tmp)) }()
	place := places{dir: tmp}
	if place.memory, err = rt.Room.Dirs("root"); err == nil {
		err = r.fill(place)
	}
	if err != nil {
		return fmt.Errorf("prepare the step: %w", err)
	}
	mounted, err := rt.Mounter.Mount(ctx, rootfs.MountOptions{
		Layers: files, Target: place.root(), Upper: place.upper(), Work: place.work(),
		Volatile: true, Stubs: true,
	})
	if err != nil {
		return fmt.Errorf("mount the stage: %w", err)
	}
	code, secrets, err := r.execute(ctx, w, rt, place)
	if cerr := mounted.Close(); cerr != nil {
		err = errors.Join(err, fmt.Errorf("unmount the stage: %w", cerr))
	}
	if err = r.outcome(ctx, code, err); err != nil {
		return err
	}
	look := &finder{w: out, texts: whole(secrets)}
	tw := archive.NewWriter(look, archive.WriterOptions{Clamp: s.opts.Epoch})
	if err := diff(ctx, place.upper(), files, tw); err != nil {
		return fmt.Errorf("read what the step changed: %w", err)
	}
	if err := tw.Close(); err != nil {
		return err
	}
	if look.found {
		return w.secretFound(leaked(place.upper(), look.texts))
	}
	return nil
}

// execute runs the command with its mounts, and returns the values of its secrets.
func (r *Run) execute(ctx context.Context, w *Work, rt *Runtime, place places) (code int, secrets [][]byte, err error) {
	m, err := r.mount(ctx, w, rt, place.dir)
	defer func() { err = errors.Join(err, m.close()) }()
	if err != nil {
		return 0, nil, err
	}
	spec := r.spec(rt.Spec, place)
	spec.Mounts = slices.Concat(spec.Mounts, m.mounts)
	spec.Env = slices.Concat(spec.Env, m.env)
	if m.room != nil {
		spec.Bundle = filepath.Join(m.room.Dir(), "bundle") // what is secret is on no disk
	}
	code, err = logged(ctx, rt.Executor, spec, w.Log, m.secrets)
	if failure := r.outcome(ctx, code, err); failure != nil {
		r.debug(ctx, w, rt.Executor, spec, failure)
	}
	return code, m.secrets, err
}

// diff writes what a step left in upper. In a namespace of one id every file is the user's: one that was there keeps the owner
// that it has in its layer.
func diff(ctx context.Context, upper string, chain []layer.Files, w *archive.Writer) (err error) {
	if userns.IDs() != 1 {
		return layer.Diff(ctx, upper, w, layer.DiffOptions{})
	}
	layers, err := layer.OpenChain(chain)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, layers.Close()) }()
	return layer.Diff(ctx, upper, w, layer.DiffOptions{Owner: layer.Union(layers).Owner})
}

// places are the directories of a step: on disk what may be large, and in memory, where files cost a tenth, what is not.
type places struct{ dir, memory string }

func (p places) upper() string   { return filepath.Join(p.dir, "upper") }
func (p places) work() string    { return filepath.Join(p.dir, "work") }
func (p places) scripts() string { return filepath.Join(p.dir, "scripts") }
func (p places) root() string    { return filepath.Join(p.memory, "root") }
func (p places) bundle() string  { return filepath.Join(p.memory, "bundle") }

// fill makes what is on disk.
func (r *Run) fill(place places) error {
	dirs := []string{place.upper(), place.work()}
	if len(r.Scripts) > 0 {
		dirs = append(dirs, place.scripts())
	}
	for _, dir := range dirs {
		if err := os.Mkdir(dir, 0o755); err != nil { //nolint:gosec // the upper directory is the container's root
			return err
		}
	}
	for _, f := range r.Scripts {
		if err := os.WriteFile(filepath.Join(place.scripts(), filepath.Base(f.Name)), f.Data, 0o755); err != nil {
			return err
		}
	}
	return nil
}

func (r *Run) spec(spec executor.Spec, place places) executor.Spec {
	spec.Bundle, spec.Rootfs = place.bundle(), place.root()
	spec.Args, spec.Cwd, spec.User = r.Args, r.Cwd, r.User
	spec.Env = slices.Concat(r.Hidden, r.Env)
	spec.Network, spec.AsStep = r.Network, true
	spec.Devices = r.Devices
	spec.Insecure, spec.Limits, spec.CgroupParent = r.Insecure, r.Limits, r.CgroupParent
	spec.Isolation.Resources = r.Resources
	spec.Hostname = cmp.Or(r.Hostname, defaultHostname)
	spec.ExtraHosts = slices.Concat(spec.ExtraHosts, r.ExtraHosts)
	if len(r.Scripts) > 0 {
		spec.Mounts = append(slices.Clone(spec.Mounts), executor.Mount{
			Type: "bind", Source: place.scripts(), Target: ScriptDir, Options: []string{"bind", "ro"},
		})
	}
	if r.ShmSize > 0 {
		spec.Mounts = append(slices.Clone(spec.Mounts), executor.Mount{
			Type: "tmpfs", Source: "shm", Target: "/dev/shm",
			Options: []string{"nosuid", "noexec", "nodev", "mode=1777", "size=" + strconv.FormatInt(r.ShmSize, 10)},
		})
	}
	return spec
}

// outcome is the error of a command that failed, or could not be started, as
// BuildKit tells it.
func (r *Run) outcome(ctx context.Context, code int, err error) error {
	if err == nil && code == 0 {
		return nil
	}
	if err == nil {
		return &ExitError{Args: r.Args, Code: code}
	}
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if se := (*executor.StartError)(nil); errors.As(err, &se) {
		return &ExitError{Args: r.Args, Code: se.Code, Err: se}
	}
	if code != 0 && errors.Is(err, syscall.ENOMEM) {
		return &ExitError{Args: r.Args, Code: code, Err: fmt.Errorf("exit code: %d: %w", code, err)}
	}
	return err
}

// ExitError is a command that did not succeed.
type ExitError struct {
	Args []string
	Code int
	Err  error // why it could not be started, or nil
}

func (e *ExitError) Error() string {
	s := "process " + strconv.Quote(strings.Join(e.Args, " ")) + " did not complete successfully: "
	if e.Err != nil {
		return s + e.Err.Error()
	}
	return s + "exit code: " + strconv.Itoa(e.Code)
}

// Unwrap returns the cause.
func (e *ExitError) Unwrap() error { return e.Err }
