package engine

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"

	"github.com/opencontainers/go-digest"

	"strake/internal/archive"
	"strake/internal/attest"
	"strake/internal/build"
	"strake/internal/dockerfile"
	"strake/internal/progress"
	"strake/internal/reference"
)

// buildInput is what a build reads: its Dockerfile and its contexts. One of dir
// and files is the context.
type buildInput struct {
	name   string // of the Dockerfile, as errors call it
	source []byte
	dir    *build.LazyContext
	files  *build.Vertex // a repository or an archive, as a stage
	named  map[string]dockerfile.Context
	// What the provenance says of the contexts.
	remote, subdir string            // URI of the context, and the directory of it; "" where it is none
	locals         map[string]string // directories of this machine, by name; "" is that of what was no file

	needs build.Needs // of what was compiled

	env    *Env
	solver *build.Solver
	opts   *BuildOptions
	closes []func() error
}

// close closes the contexts that were read.
func (b *buildInput) close() error {
	var errs []error
	for _, c := range b.closes {
		errs = append(errs, c())
	}
	return errors.Join(errs...)
}

// openInput finds the contexts and reads the Dockerfile.
func openInput(ctx context.Context, env *Env, solver *build.Solver, opts *BuildOptions) (*buildInput, error) {
	b := &buildInput{env: env, solver: solver, opts: opts, named: map[string]dockerfile.Context{}, locals: map[string]string{}}
	err := b.open(ctx)
	if err != nil {
		return nil, errors.Join(err, b.close())
	}
	return b, nil
}

func (b *buildInput) open(ctx context.Context) error {
	for name, value := range b.opts.Contexts {
		short, err := dockerfile.ContextName(name)
		if built := b.opts.linked[value]; err == nil && built != nil {
			b.named[short] = dockerfile.Context{Built: built}
			continue
		}
		if err == nil {
			b.named[short], err = b.namedContext(short, value) //nolint:contextcheck // reading has the reader's
		}
		if err != nil {
			return err
		}
	}
	if b.opts.Context == "-" {
		return b.openStdin(ctx)
	}
	if b.isOrigin(b.opts.Context) {
		return b.openOrigin(ctx)
	}
	if isDir(b.opts.Context) {
		return b.openDir(ctx)
	}
	git, is, err := dockerfile.ParseGit(b.opts.Context)
	switch {
	case err != nil:
		return err
	case is:
		if keep, err := strconv.ParseBool(b.opts.BuildArgs["BUILDKIT_CONTEXT_KEEP_GIT_DIR"]); err == nil && keep {
			git.KeepGitDir = true
		}
		git.CommitTimes = git.CommitTimes || b.opts.BuildArgs["SOURCE_DATE_EPOCH"] != ""
		b.remote, b.subdir = git.URI(), strings.TrimPrefix(path.Join("/", git.Subdir), "/")
		b.files = gitVertex(git, "[internal] load git source "+build.Redact(b.opts.Context))
		return solving(b.readRemote(ctx))
	case isHTTP(b.opts.Context):
		return solving(b.openURL(ctx))
	}
	return fmt.Errorf("unable to prepare context: path %q not found", b.opts.Context)
}

func isDir(name string) bool {
	info, err := os.Stat(name)
	return err == nil && info.IsDir()
}

// gitVertex is a context in a repository that was named to this process: its
// user's ssh-agent may be asked.
func gitVertex(git dockerfile.GitURL, name string) *build.Vertex {
	git.Agent = os.Getenv("SSH_AUTH_SOCK")
	return &build.Vertex{Op: &git.Git, Name: name, Context: true}
}

func isHTTP(s string) bool {
	return strings.HasPrefix(s, "http://") || strings.HasPrefix(s, "https://")
}

// IsRemote reports whether a build context is an address: of a repository or of a file.
func IsRemote(s string) bool {
	_, is, err := dockerfile.ParseGit(s)
	return isHTTP(s) || is && err == nil
}

// remoteFile makes a stage of one file, "context".
func remoteFile(address, name string) *build.Vertex {
	return &build.Vertex{
		Op: &build.Copy{
			Sources: []build.Source{{URL: &build.URL{Address: address, Name: "context"}}}, Dest: "/", Instruction: "ADD /",
		},
		Inputs: []*build.Vertex{{Op: &build.Base{}}}, Name: name, Context: true,
	}
}

// namedContext is what a --build-context names.
func (b *buildInput) namedContext(name, value string) (dockerfile.Context, error) {
	label := "[context " + name + "] "
	if b.isOrigin(value) {
		files, err := b.originContext(value, label)
		return dockerfile.Context{Files: files}, err
	}
	git, is, err := dockerfile.ParseGit(value)
	switch {
	case err != nil:
		return dockerfile.Context{}, err
	case is && !git.Bare:
		return dockerfile.Context{Files: gitVertex(git, label+build.Redact(value))}, nil
	case isHTTP(value):
		return dockerfile.Context{Files: remoteFile(value, label+build.Redact(value))}, nil
	case strings.HasPrefix(value, layoutScheme):
		return dockerfile.Context{Image: value}, nil
	case strings.HasPrefix(value, "docker-image://"):
		image := strings.TrimPrefix(value, "docker-image://")
		if image == "scratch" {
			return dockerfile.Context{Image: image}, nil
		}
		ref, err := reference.Parse(image)
		if err != nil {
			return dockerfile.Context{}, fmt.Errorf("invalid build context %s=%s: %w", name, value, err)
		}
		return dockerfile.Context{Image: ref.OrLatest().String()}, nil
	}
	info, err := os.Stat(value)
	if err == nil && !info.IsDir() {
		err = &fs.PathError{Op: "open", Path: value, Err: syscall.ENOTDIR}
	}
	if err != nil {
		return dockerfile.Context{}, fmt.Errorf("failed to get build context %s: %w", name, err)
	}
	dir := b.solver.LazyContext(build.LazyContextOptions{Dir: value, Index: b.env.Store, Name: name, Label: label})
	b.closes, b.locals[name] = append(b.closes, dir.Close), value
	return dockerfile.Context{Dir: dir}, nil
}

// openDir uses a directory as the context.
func (b *buildInput) openDir(ctx context.Context) error {
	name := b.opts.Dockerfile
	if name == "" {
		name = filepath.Join(b.opts.Context, "Dockerfile")
	}
	b.dir = b.solver.LazyContext(build.LazyContextOptions{Dir: b.opts.Context, Dockerfile: localFile(name), Index: b.env.Store}) //nolint:contextcheck // reading has the reader's
	b.closes, b.locals["context"] = append(b.closes, b.dir.Close), b.opts.Context
	return solving(b.readLocal(ctx, name))
}

// solving says that a build failed of what is read for it, not of how it was asked for.
func solving(err error) error {
	if err == nil {
		return nil
	}
	return &BuildError{Err: err}
}

// localFile is the path of a Dockerfile, or "" where it is no file here.
func localFile(name string) string {
	if name == "-" || isHTTP(name) {
		return ""
	}
	return name
}

// openStdin reads standard input: the context as an archive, or a Dockerfile.
func (b *buildInput) openStdin(ctx context.Context) error {
	if b.opts.Dockerfile == "-" {
		return errors.New("invalid argument: can't use stdin for both build context and dockerfile")
	}
	in := bufio.NewReaderSize(b.opts.Stdin, archiveHead)
	head, err := in.Peek(archiveHead)
	if err != nil && !errors.Is(err, io.EOF) {
		return fmt.Errorf("failed to peek context header from STDIN: %w", err)
	}
	if isArchive(head) {
		if err := b.spool(ctx, in); err != nil {
			return err
		}
		return solving(b.readRemote(ctx))
	}
	if b.opts.Dockerfile != "" {
		return errors.New("ambiguous Dockerfile source: both stdin and flag correspond to Dockerfiles")
	}
	b.files, b.opts.Stdin = &build.Vertex{Op: &build.Base{}}, in
	err = b.askPolicies(ctx, false)
	if err == nil {
		err = b.readLocal(ctx, "-")
	}
	return solving(err)
}

// archiveHead is how many bytes tell an archive from a Dockerfile.
const archiveHead = 1024

// isArchive reports whether a file that begins so is a tar, or compressed.
func isArchive(head []byte) bool {
	return archive.Detect(head) != archive.None || archive.IsTar(head)
}

// spool keeps an archive in a file, and makes a stage of what is in it.
func (b *buildInput) spool(ctx context.Context, in io.Reader) (err error) {
	step := b.solver.Begin("[internal] load remote build context")
	defer func() { err = step.End(ctx, err) }()
	dir, err := b.env.Store.TempDir(ctx)
	if err != nil {
		return err
	}
	free, err := b.env.Store.Free()
	if err != nil {
		return err
	}
	f, err := os.Create(filepath.Join(dir, "context"))
	if err != nil {
		return err
	}
	limit := free/2 + 1 // what it holds is stored once more
	n, err := io.Copy(f, io.LimitReader(in, limit))
	if err == nil && n == limit {
		err = fmt.Errorf("the build context takes more than half of the %d bytes that are free", free)
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return err
	}
	load := sync.OnceValues(func() (*build.Context, error) {
		c, err := build.LoadContext(ctx, build.ContextOptions{Dir: dir})
		if err == nil {
			b.closes = append(b.closes, c.Close)
		}
		return c, err
	})
	source := build.Source{Context: func(context.Context) (*build.Context, error) { return load() }, Path: "context", Unpack: true}
	b.files = unpack(source)
	return nil
}

// unpack makes a stage of what is in an archive.
func unpack(source build.Source, from ...*build.Vertex) *build.Vertex {
	return &build.Vertex{
		Op:     &build.Copy{Sources: []build.Source{source}, Dest: "/", Instruction: "ADD /"},
		Inputs: append([]*build.Vertex{{Op: &build.Base{}}}, from...), Name: "[internal] unpack the build context", Context: true,
	}
}

// openURL downloads the context: an archive, or a Dockerfile.
func (b *buildInput) openURL(ctx context.Context) error {
	b.remote = build.Redact(b.opts.Context)
	file := remoteFile(b.opts.Context, "[internal] load remote build context")
	res, err := b.solver.Solve(ctx, file)
	if err != nil {
		return err
	}
	content, err := b.read(ctx, res.Layers, "context", archiveHead)
	if err != nil {
		return err
	}
	if isArchive(content) {
		b.files = unpack(build.Source{Stage: 1, Path: "context", Unpack: true}, file)
		return b.readRemote(ctx)
	}
	b.files = file
	if b.opts.Dockerfile != "" || b.opts.Source != nil {
		return b.readRemote(ctx)
	}
	b.name = "context"
	b.source, err = b.read(ctx, res.Layers, "context", maxDockerfile+1)
	if err == nil {
		err = b.askPolicies(ctx, false)
	}
	return err
}

// read reads the beginning of a file of a stage.
func (b *buildInput) read(ctx context.Context, layers []digest.Digest, name string, limit int64) (content []byte, err error) {
	f, err := b.solver.Open(ctx, layers, name)
	if err != nil {
		return nil, err
	}
	defer closing(&err, f.Close)
	return io.ReadAll(io.LimitReader(f, limit))
}

// readRemote reads the Dockerfile of a context that is no directory here. One
// that is named by its absolute path, by a URL or by "-" is not in the context.
func (b *buildInput) readRemote(ctx context.Context) error {
	name := b.opts.Dockerfile
	elsewhere := b.opts.Source != nil || name == "-" || isHTTP(name) || filepath.IsAbs(name)
	if err := b.askPolicies(ctx, !elsewhere || len(b.opts.Policies) > 0 || filepath.IsAbs(name)); err != nil {
		return err
	}
	if elsewhere {
		return b.readLocal(ctx, name)
	}
	res, err := b.solver.Solve(ctx, b.files)
	if err != nil {
		return err
	}
	if name == "" {
		name = "Dockerfile"
	}
	b.name = filepath.Base(name)
	step := b.solver.Begin("[internal] load build definition from " + b.name)
	b.source, err = b.read(ctx, res.Layers, filepath.ToSlash(name), maxDockerfile+1)
	if errors.Is(err, fs.ErrNotExist) && name == "Dockerfile" {
		b.source, err = b.read(ctx, res.Layers, "dockerfile", maxDockerfile+1)
	}
	if errors.Is(err, fs.ErrNotExist) {
		err = fmt.Errorf("failed to read dockerfile: open %s: no such file or directory", name)
	}
	return step.End(ctx, err)
}

// askPolicies reads the policies of a context that is no directory here, and asks them about
// what was read of it. They may be, or read, files of it where inContext.
func (b *buildInput) askPolicies(ctx context.Context, inContext bool) error {
	if b.opts.police == nil || !b.opts.police.waits {
		return nil
	}
	files := localFiles("")
	if inContext {
		res, err := b.solver.Solve(ctx, b.files)
		if err != nil {
			return err
		}
		here := files
		files = func(name string) ([]byte, error) {
			if strings.HasPrefix(name, cwdScheme) {
				return here(name)
			}
			data, err := b.read(ctx, res.Layers, strings.TrimPrefix(path.Join("/", filepath.ToSlash(name)), "/"), maxModule+1)
			if err != nil {
				return nil, err
			}
			return readModule(bytes.NewReader(data))
		}
	}
	return b.opts.police.arrived(ctx, b.solver, b.opts, files)
}

// readLocal reads a Dockerfile that is a file here, a URL, or standard input:
// "-".
func (b *buildInput) readLocal(ctx context.Context, name string) error {
	b.name = "Dockerfile"
	if b.opts.Source != nil {
		b.source = b.opts.Source
		return b.opts.policy.AdmitLocal(ctx, "dockerfile")
	}
	if isHTTP(name) {
		res, err := b.solver.Solve(ctx, remoteFile(name, "[internal] load remote Dockerfile"))
		if err == nil {
			b.source, err = b.read(ctx, res.Layers, "context", maxDockerfile+1)
		}
		return err
	}
	b.locals["dockerfile"] = ""
	if name != "-" {
		b.name, b.locals["dockerfile"] = filepath.Base(name), filepath.Dir(name)
	}
	step := b.solver.Begin("[internal] load build definition from " + b.name)
	err := b.opts.policy.AdmitLocal(ctx, "dockerfile")
	if err == nil {
		b.source, err = b.readFile(name)
	}
	if err == nil {
		step.Item(progress.Item{ID: "transferring dockerfile:", Current: int64(len(b.source)), Done: true})
	}
	return step.End(ctx, err)
}

func (b *buildInput) readFile(name string) (source []byte, err error) {
	if name == "-" {
		return io.ReadAll(io.LimitReader(b.opts.Stdin, maxDockerfile+1))
	}
	f, err := os.Open(name)
	if errors.Is(err, fs.ErrNotExist) && filepath.Base(name) == "Dockerfile" {
		if lower, lowerErr := os.Open(filepath.Join(filepath.Dir(name), "dockerfile")); lowerErr == nil {
			f, err = lower, nil
		}
	}
	if err != nil {
		if reason := errors.Unwrap(err); reason != nil {
			err = fmt.Errorf("failed to read dockerfile: open %s: %w", filepath.Base(name), reason)
		}
		return nil, err
	}
	defer closing(&err, f.Close)
	return io.ReadAll(io.LimitReader(f, maxDockerfile+1))
}

// config is the material that the context is, if it is one, and where in it.
func (b *buildInput) config(list []attest.Material) attest.Material {
	i := slices.IndexFunc(list, func(m attest.Material) bool { return m.URI != "" && m.URI == b.remote })
	if i < 0 {
		return attest.Material{}
	}
	m := list[i]
	if b.subdir != "" {
		if !strings.Contains(m.URI, "#") {
			m.URI += "#"
		}
		m.URI += ":" + b.subdir
	}
	return m
}

// slot names this build among others: the place of its Dockerfile.
func (b *buildInput) slot() string {
	path := localFile(b.opts.Dockerfile)
	switch {
	case b.files != nil:
		return b.opts.contextName() + "\x00" + b.opts.Dockerfile
	case b.opts.Dockerfile == "":
		path = filepath.Join(b.opts.Context, "Dockerfile")
	case path == "":
		path = b.opts.Context + "/-"
	}
	if abs, err := filepath.Abs(path); err == nil {
		path = abs
	}
	return path
}
