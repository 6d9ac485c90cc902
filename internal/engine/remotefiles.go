package engine

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path"
	"strings"

	"github.com/opencontainers/go-digest"

	"strake/internal/bake"
	"strake/internal/build"
	"strake/internal/dockerfile"
	"strake/internal/progress"
)

// RemoteFilesOptions say what to read of an address.
type RemoteFilesOptions struct {
	Address string   // of a repository, of an archive, or of one file
	Names   []string // of files of a repository or an archive
	Some    bool     // those that are not there are left out
	Limit   int64    // of a file, bytes
	Secrets []Secret // for the server, as of a build
	Agent   string   // socket of the ssh-agent; "" is that of SSH_AUTH_SOCK

	Progress func(progress.Event) // called by one goroutine at a time
}

// RemoteFile is one that was read.
type RemoteFile struct {
	Name string // one of RemoteFilesOptions.Names, or the address
	Data []byte
}

// GitRef is what a ref of a repository was when somebody looked.
type GitRef = build.GitRef

// RemoteFiles are files of an address.
type RemoteFiles struct {
	List []RemoteFile // in the order of the names
	Tree bool         // the address is of a repository or an archive: BuildOptions.Origin may be it
	At   *GitRef      // the commit of a repository: BuildOptions.At may be it
}

// ReadRemoteFiles reads files of a repository or of an archive, or the one file that the address is of. What is fetched is a step of
// the build cache. A file that is not there is fs.ErrNotExist.
func ReadRemoteFiles(ctx context.Context, env *Env, opts RemoteFilesOptions) (files RemoteFiles, err error) {
	secrets, err := newSecretValues(opts.Secrets)
	if err != nil {
		return files, err
	}
	solver := build.NewSolver(build.Options{
		Store: env.Store, Progress: opts.Progress, Connect: connectGit, Secrets: secrets, Fetched: func(f build.Fetched) { files.At = f.Ref },
	})
	defer closing(&err, solver.Close)
	r := remoteReader{solver: solver, limit: opts.Limit}
	source, err := originVertex(opts.Address)
	if err != nil {
		return files, err
	}
	if git, ok := source.Op.(*build.Git); ok {
		if opts.Agent != "" {
			git.Agent = opts.Agent
		}
	} else {
		file := source.Inputs[1]
		archive, err := r.isArchive(ctx, file)
		if err != nil {
			return files, err
		}
		if !archive {
			data, err := r.read(ctx, "context")
			return RemoteFiles{List: []RemoteFile{{opts.Address, data}}}, err
		}
	}
	if err := r.solve(ctx, source); err != nil {
		return files, err
	}
	files.Tree = true
	for _, name := range opts.Names {
		data, err := r.read(ctx, name)
		if opts.Some && errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return files, err
		}
		files.List = append(files.List, RemoteFile{name, data})
	}
	return files, nil
}

// remoteReader reads files of what was solved last.
type remoteReader struct {
	solver *build.Solver
	limit  int64
	layers []digest.Digest
}

func (r *remoteReader) solve(ctx context.Context, v *build.Vertex) error {
	res, err := r.solver.Solve(ctx, v)
	r.layers = res.Layers
	return err
}

func (r *remoteReader) isArchive(ctx context.Context, file *build.Vertex) (is bool, err error) {
	if err := r.solve(ctx, file); err != nil {
		return false, err
	}
	f, err := r.solver.Open(ctx, r.layers, "context")
	if err != nil {
		return false, err
	}
	defer closing(&err, f.Close)
	head, err := io.ReadAll(io.LimitReader(f, archiveHead))
	return isArchive(head), err
}

func (r *remoteReader) read(ctx context.Context, name string) (data []byte, err error) {
	f, err := r.solver.Open(ctx, r.layers, name)
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", name, err)
	}
	defer closing(&err, f.Close)
	data, err = io.ReadAll(io.LimitReader(f, r.limit+1))
	if err == nil && int64(len(data)) > r.limit {
		err = fmt.Errorf("%s is larger than %d bytes", name, r.limit)
	}
	return data, err
}

// originVertex is what is in a repository or in an archive. An archive's last input is its file.
func originVertex(address string) (*build.Vertex, error) {
	git, is, err := dockerfile.ParseGit(address)
	switch {
	case err != nil:
		return nil, err
	case is:
		return gitVertex(git, "[internal] load git source "+build.Redact(address)), nil
	case isHTTP(address):
		file := remoteFile(address, "[internal] load remote build context")
		return unpack(build.Source{Stage: 1, Path: "context", Unpack: true}, file), nil
	}
	return nil, invalid("%q is the address of nothing that can be fetched", address)
}

// originDir is the directory that the value of a context names, without a leading slash. Nothing leads above the root, which is "".
func originDir(value string) string {
	return strings.TrimPrefix(path.Join("/", strings.TrimPrefix(value, bake.OriginScheme)), "/")
}

// originContext is the directory of BuildOptions.Origin that the value of a context names, as a stage.
func (b *buildInput) originContext(value, label string) (*build.Vertex, error) {
	all, err := originVertex(b.opts.Origin)
	if err != nil {
		return nil, err
	}
	dir := originDir(value)
	if dir == "" {
		return all, nil
	}
	plain := strings.NewReplacer(`\`, `\\`, `*`, `\*`, `?`, `\?`, `[`, `\[`).Replace(dir)
	return &build.Vertex{
		Op:     &build.Copy{Sources: []build.Source{{Stage: 1, Path: plain}}, Dest: "/", Instruction: "COPY / /"},
		Inputs: []*build.Vertex{{Op: &build.Base{}}, all}, Name: label + "set context to " + dir, Context: true,
	}, nil
}

// isOrigin reports whether a context is a directory of BuildOptions.Origin.
func (b *buildInput) isOrigin(value string) bool {
	return b.opts.Origin != "" && strings.HasPrefix(value, bake.OriginScheme)
}

// openOrigin uses a directory of BuildOptions.Origin as the context.
func (b *buildInput) openOrigin(ctx context.Context) (err error) {
	b.remote = build.Redact(b.opts.Origin)
	if git, is, err := dockerfile.ParseGit(b.opts.Origin); is && err == nil {
		b.remote, b.subdir = git.URI(), strings.TrimPrefix(path.Join("/", git.Subdir, originDir(b.opts.Context)), "/")
	}
	if b.files, err = b.originContext(b.opts.Context, "[internal] "); err != nil {
		return err
	}
	return solving(b.readRemote(ctx))
}

// contextName is the context as people read it: a directory of Origin is told with its address.
func (o *BuildOptions) contextName() string {
	if o.Origin == "" || !strings.HasPrefix(o.Context, bake.OriginScheme) {
		return build.Redact(o.Context)
	}
	name, dir := build.Redact(o.Origin), originDir(o.Context)
	if git, is, err := dockerfile.ParseGit(o.Origin); is && err == nil {
		name, dir = git.URI(), strings.TrimPrefix(path.Join("/", git.Subdir, dir), "/")
	}
	switch {
	case dir == "":
		return name
	case !strings.Contains(name, "#"):
		name += "#"
	}
	return name + ":" + dir
}
