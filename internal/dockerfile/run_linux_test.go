package dockerfile

import (
	"archive/tar"
	"context"
	"encoding/json"
	"errors"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	dockerspec "github.com/moby/docker-image-spec/specs-go/v1"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"strake/internal/build"
	"strake/internal/executor"
	"strake/internal/mount"
	"strake/internal/progress"
	"strake/internal/rootfs"
	"strake/internal/store"
	"strake/internal/usertest"
)

// machine is a store with one base image, and what runs commands.
type machine struct {
	t     *testing.T
	store *store.Store
	base  build.Image
	ns    *mount.Namespace
	room  *rootfs.Room
	runc  *executor.Runc

	// Of the last build:
	ran    int // times that the runtime was asked for
	logs   strings.Builder
	onLog  func() // called when a command prints something
	states map[string]progress.State
	why    []build.Explanation
}

// Resolve gives the base image any name.
func (m *machine) Resolve(context.Context, string, ocispec.Platform, bool) (build.Image, error) {
	return m.base, nil
}

// newMachine skips the test where it cannot run.
func newMachine(t *testing.T) *machine {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs a user namespace, and the machine gives none")
	}
	busybox, err := os.ReadFile("/bin/busybox")
	if err != nil {
		t.Skip("no busybox")
	}
	m := &machine{t: t}
	if m.store, err = store.Open(t.Context(), store.Options{Root: filepath.Join(t.TempDir(), "store")}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		err := m.store.Close()
		if m.ns != nil {
			err = errors.Join(err, m.runc.Close(), m.room.Close(), m.ns.Close())
		}
		if err != nil {
			t.Error(err)
		}
	})
	files, err := m.store.WriteLayer(t.Context(), func(w io.Writer) error { return writeBase(w, busybox) })
	if err != nil {
		t.Fatal(err)
	}
	var img dockerspec.DockerOCIImage
	img.Platform = ocispec.Platform{OS: "linux", Architecture: "amd64"}
	img.History = []ocispec.History{{CreatedBy: "base"}}
	if m.base.Config, err = json.Marshal(img); err != nil {
		t.Fatal(err)
	}
	m.base.Layers = []digest.Digest{files.DiffID}
	return m
}

func writeBase(w io.Writer, busybox []byte) error {
	tw := tar.NewWriter(w)
	passwd := "root:x:0:0::/:/bin/sh\napp:x:1001:1002::/:/bin/sh\n"
	entries := []tar.Header{
		{Name: "bin/", Typeflag: tar.TypeDir, Mode: 0o755},
		{Name: "tmp/", Typeflag: tar.TypeDir, Mode: 0o1777},
		{Name: "etc/", Typeflag: tar.TypeDir, Mode: 0o755},
		{Name: "bin/busybox", Typeflag: tar.TypeReg, Mode: 0o755, Size: int64(len(busybox))},
		{Name: "etc/passwd", Typeflag: tar.TypeReg, Mode: 0o644, Size: int64(len(passwd))},
	}
	for tool := range strings.FieldsSeq("sh cat echo id rm sleep") {
		entries = append(entries, tar.Header{Name: "bin/" + tool, Typeflag: tar.TypeSymlink, Linkname: "busybox", Mode: 0o777})
	}
	for _, h := range entries {
		if err := tw.WriteHeader(&h); err != nil {
			return err
		}
		var data []byte
		switch h.Name {
		case "bin/busybox":
			data = busybox
		case "etc/passwd":
			data = []byte(passwd)
		}
		if _, err := tw.Write(data); err != nil {
			return err
		}
	}
	return tw.Close()
}

func (m *machine) runtime(ctx context.Context) (*build.Runtime, error) {
	m.ran++
	if m.ns == nil {
		var err error
		if m.ns, err = mount.New(ctx); err != nil {
			return nil, err
		}
		if m.room, err = rootfs.NewRoom(m.ns, m.t.TempDir()); err != nil {
			return nil, err
		}
		if m.runc, err = executor.NewRunc(executor.RuncOptions{}); err != nil {
			return nil, err
		}
	}
	mounter, _, err := rootfs.Pick(ctx, rootfs.PickOptions{
		Dir: filepath.Join(m.store.Root(), "e"), UnpackedDir: filepath.Join(m.store.Root(), "u"), NS: m.ns,
	})
	return &build.Runtime{Mounter: mounter, Executor: m.runc, Spec: executor.Spec{NS: m.ns}, Room: m.room}, err
}

// build builds a Dockerfile without a context.
func (m *machine) build(ctx context.Context, source string, opts Options) (build.Built, error) {
	m.t.Helper()
	m.logs.Reset()
	m.states, m.why, m.ran = map[string]progress.State{}, nil, 0
	solver := build.NewSolver(build.Options{
		Store: m.store, Runtime: m.runtime, Explain: func(e build.Explanation) { m.why = append(m.why, e) },
		Progress: func(e progress.Event) {
			m.logs.Write(e.Log)
			m.states[e.Name] = e.State
			if e.State == progress.Logged && m.onLog != nil {
				m.onLog()
			}
		},
	})
	defer func() {
		if err := solver.Close(); err != nil {
			m.t.Error(err)
		}
	}()
	f, err := Parse("Dockerfile", []byte(source), "")
	if err != nil {
		return build.Built{}, err
	}
	opts.Images, opts.Solver, opts.Slot = m, solver, "test"
	def, err := Compile(ctx, f, opts)
	if err != nil {
		return build.Built{}, err
	}
	return solver.Build(ctx, def)
}

// added lists the names in the layers above the base.
func (m *machine) added(exp build.Built) [][]string {
	m.t.Helper()
	var out [][]string
	for _, l := range exp.Layers[len(m.base.Layers):] {
		files, err := m.store.Layer(m.t.Context(), l.Digest)
		if err != nil {
			m.t.Fatal(err)
		}
		f, err := os.Open(files.Tar)
		if err != nil {
			m.t.Fatal(err)
		}
		names := []string{}
		for r := tar.NewReader(f); ; {
			h, err := r.Next()
			if err != nil {
				break
			}
			names = append(names, h.Name)
		}
		out = append(out, names)
		if err := f.Close(); err != nil {
			m.t.Fatal(err)
		}
	}
	return out
}

const runSource = `FROM base AS builder
RUN echo hi >/out; cat /etc/resolv.conf /etc/hosts >/dev/null
FROM base
ARG WHO=world
RUN echo hello $WHO
WORKDIR /app
COPY --from=builder /out .
COPY <<inline /app/
$WHO
inline
USER app
RUN cat out inline; id -u; id -g
RUN <<EOF
#!/bin/sh
echo script $0
EOF
USER root
RUN rm /app/out
`

func TestRun(t *testing.T) {
	usertest.NeedIDs(t)
	m := newMachine(t)
	first, err := m.build(t.Context(), runSource, Options{})
	if err != nil {
		t.Fatal(err)
	}
	want := [][]string{{"dev/", "proc/", "sys/"}, {"app/"}, {"app/", "app/out"}, {"app/", "app/inline"}, {}, {}, {"app/", "app/.wh.out"}}
	if diff := cmp.Diff(want, m.added(first)); diff != "" {
		t.Error(diff)
	}
	for _, line := range []string{"hello world\n", "hi\nworld\n1001\n1002\n", "script /dev/pipes/EOF\n"} {
		if !strings.Contains(m.logs.String(), line) {
			t.Errorf("no %q in %q", line, m.logs.String())
		}
	}

	second, err := m.build(t.Context(), runSource, Options{})
	if err != nil {
		t.Fatal(err)
	}
	if second.ID != first.ID || !second.Cached || m.ran != 0 || len(m.why) != 0 {
		t.Errorf("the second build: same image %v, cached %v, %d runtimes, %v", second.ID == first.ID, second.Cached, m.ran, m.why)
	}

	if _, err = m.build(t.Context(), runSource, Options{BuildArgs: map[string]string{"WHO": "you"}}); err != nil {
		t.Fatal(err)
	}
	if m.states["[builder 2/2] RUN echo hi >/out; cat /etc/resolv.conf /etc/hosts >/dev/null"] != progress.Cached {
		t.Errorf("a step that does not see the argument ran again: %v", m.states)
	}
	i := slices.IndexFunc(m.why, func(e build.Explanation) bool { return strings.Contains(e.Step, "hello") })
	if i < 0 || !cmp.Equal(m.why[i].Changes, []build.Change{{Input: "variable WHO", From: "world", To: "you"}}) {
		t.Errorf("explanation: %v", m.why)
	}
}

func TestRunFails(t *testing.T) {
	m := newMachine(t)
	for source, want := range map[string]string{
		"FROM base\nRUN echo before; exit 3":                `process "/bin/sh -c echo before; exit 3" did not complete successfully: exit code: 3`,
		"FROM base\nRUN true\nRUN [\"/no/such\"]":           `process "/no/such" did not complete successfully: `,
		"FROM base\nUSER nobody-there\nRUN true":            `did not complete successfully: `,
		"FROM base\nRUN --network=none no-such-command x:1": `exit code: 127`,
	} {
		_, err := m.build(t.Context(), source, Options{})
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: got %v, want %q", source, err, want)
		}
		if lines := Lines(err); !slices.Equal(lines, []int{strings.Count(source, "\n") + 1}) {
			t.Errorf("%q: lines %v", source, lines)
		}
	}
}

func TestRunCanceled(t *testing.T) {
	m := newMachine(t)
	ctx, cancel := context.WithCancel(t.Context())
	m.onLog = cancel
	_, err := m.build(ctx, "FROM base\nRUN echo kept >/kept\nRUN echo started; sleep 100", Options{})
	if !errors.Is(err, context.Canceled) {
		t.Fatalf("got %v", err)
	}
	m.onLog = nil
	if _, err := m.build(t.Context(), "FROM base\nRUN echo kept >/kept", Options{}); err != nil || len(m.why) != 0 {
		t.Errorf("the finished step was not kept: %v %v", err, m.why)
	}
}
