package engine

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/containerd/platforms"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"strake/internal/archive"
	"strake/internal/build"
	"strake/internal/layer"
)

// local writes the files of the result to a directory, whose files they replace:
// ours, whoever owns them in the image.
func (x *exporter) local(ctx context.Context, out Output) error {
	step := x.solver.Begin("exporting to client directory")
	return step.End(ctx, x.writeDir(ctx, step, out))
}

func (x *exporter) writeDir(ctx context.Context, step *build.Reporter, out Output) (err error) {
	mode := strings.ToLower(strings.TrimSpace(out.Attrs["mode"]))
	if mode != "" && mode != "copy" && mode != "delete" {
		return invalid("invalid local exporter mode %q", out.Attrs["mode"])
	}
	tree, err := x.open(ctx, out)
	if err != nil {
		return err
	}
	defer closing(&err, tree.close)
	var names map[string]bool
	if mode == "delete" || !tree.split && len(tree.parts) > 1 {
		if names, err = tree.names(); err != nil {
			return err
		}
	}
	if err := os.MkdirAll(out.Dest, 0o755); err != nil { //nolint:gosec // made to be handed on
		return err
	}
	if mode == "delete" {
		if err := clean(out.Dest, names); err != nil {
			return err
		}
	}
	tree.drop = setID // it would be ours, not the owner's that the image means
	pr, pw := io.Pipe()
	written := make(chan struct{})
	go func() {
		defer close(written)
		pw.CloseWithError(tree.write(ctx, pw))
	}()
	err = archive.Extract(ctx, pr, out.Dest, archive.ExtractOptions{Squash: true, Merge: true})
	pr.CloseWithError(errors.New("extraction ended")) // frees the writer when that failed
	<-written
	if err != nil {
		return err
	}
	item(step, "copying files "+tree.size.String())
	if tree.devices > 0 {
		step.Warn("%d devices were left out\n", tree.devices)
	}
	return nil
}

// tarball writes a tar of the files of the result, as they are in the image.
func (x *exporter) tarball(ctx context.Context, out Output) error {
	step := x.solver.Begin("exporting to client tarball")
	return step.End(ctx, x.writeTar(ctx, step, out))
}

func (x *exporter) writeTar(ctx context.Context, step *build.Reporter, out Output) (err error) {
	tree, err := x.open(ctx, out)
	if err != nil {
		return err
	}
	defer closing(&err, tree.close)
	if err := x.write(out.Dest, func(w io.Writer) error { return tree.write(ctx, w) }); err != nil {
		return err
	}
	item(step, "sending tarball")
	return nil
}

// resultTree is the files of a result: of one platform, or of several beside
// each other.
type resultTree struct {
	tarTree
	parts []resultPart
	split bool // each in a directory of its own
	size  byteCount
}

type resultPart struct {
	platform ocispec.Platform
	layers   layer.Chain
	files    *layer.FS
	said     []statementFile
}

// dir is the directory of the part.
func (p resultPart) dir() string {
	return strings.ReplaceAll(platforms.FormatAll(p.platform), "/", "_")
}

// byteCount is bytes, told as BuildKit does.
type byteCount int64

func (n byteCount) String() string { return strconv.FormatInt(int64(n), 10) + "B" }

// open opens the layers of the result; the caller closes them.
func (x *exporter) open(ctx context.Context, out Output) (t *resultTree, err error) {
	t = &resultTree{split: x.multi}
	t.at = x.epoch
	if err := out.parseBool("platform-split", &t.split); err != nil {
		return nil, err
	}
	for _, b := range x.built {
		part, err := x.part(ctx, b)
		if err == nil {
			t.parts = append(t.parts, part)
			t.parts[len(t.parts)-1].said, err = statements{x}.files(ctx, b, part, out.Attrs["attestation-prefix"], !t.split)
		}
		if err != nil {
			return nil, errors.Join(err, t.close())
		}
	}
	return t, nil
}

// part opens the layers for one platform; the caller closes them.
func (x *exporter) part(ctx context.Context, b build.Built) (resultPart, error) {
	layers, err := openChain(ctx, x.env, layersOf(b))
	return resultPart{platform: b.Platform, layers: layers, files: layer.Union(layers)}, err
}

func (p resultPart) close() error { return p.layers.Close() }

func (t *resultTree) close() error {
	var errs []error
	for _, p := range t.parts {
		errs = append(errs, p.close())
	}
	return errors.Join(errs...)
}

// names lists all paths, and which are directories. Without a split no two
// platforms may have the same file.
func (t *resultTree) names() (map[string]bool, error) {
	all, from := map[string]bool{}, map[string]string{}
	for _, p := range t.parts {
		if len(p.layers) == 0 {
			continue
		}
		prefix := "."
		if t.split {
			prefix = p.dir()
			all[prefix] = true
		}
		for _, f := range p.said {
			all[path.Join(prefix, f.name)] = false
		}
		err := fs.WalkDir(p.files, ".", func(name string, d fs.DirEntry, err error) error {
			if err != nil || name == "." {
				return err
			}
			name = path.Join(prefix, name)
			if other, ok := from[name]; ok {
				return fmt.Errorf("cannot overwrite %s from %s with %s when split option is disabled", name, other, platforms.FormatAll(p.platform))
			}
			if all[name] = d.IsDir(); !d.IsDir() {
				from[name] = platforms.FormatAll(p.platform)
			}
			return nil
		})
		if err != nil {
			return nil, err
		}
	}
	return all, nil
}

// write writes the tar.
func (t *resultTree) write(ctx context.Context, w io.Writer) error {
	var size int64
	t.ended = ctx.Err
	t.tar = archive.NewWriter(counter{w, &size}, archive.WriterOptions{})
	for _, p := range t.parts {
		if len(p.layers) == 0 {
			continue
		}
		t.files, t.first = p.files, map[uint64]string{}
		prefix := "."
		if t.split {
			prefix = p.dir()
			e := &archive.Entry{Name: prefix, Mode: archive.TypeDir | 0o755}
			if t.at != nil {
				e.ModTime = *t.at
			}
			if err := t.tar.Write(e, nil); err != nil {
				return err
			}
		}
		if err := t.addBelow(".", prefix); err != nil {
			return err
		}
		if err := t.addStatements(prefix, p.said); err != nil {
			return err
		}
	}
	err := t.tar.Close()
	t.size = byteCount(size)
	return err
}

// clean removes from a directory what is not among names, or is a directory where
// that is a file, or the reverse. It follows no symlink.
func clean(dir string, names map[string]bool) (err error) {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return err
	}
	defer closing(&err, root.Close)
	return cleanBelow(root, ".", names)
}

func cleanBelow(root *os.Root, dir string, names map[string]bool) error {
	entries, err := fs.ReadDir(root.FS(), dir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		name := path.Join(dir, e.Name())
		isDir, keep := names[name]
		if !keep || isDir != e.IsDir() {
			if err := root.RemoveAll(name); err != nil {
				return err
			}
			continue
		}
		if isDir {
			if err := cleanBelow(root, name, names); err != nil {
				return err
			}
		}
	}
	return nil
}

// CheckDelete fails for an output that would delete files of a directory that is
// not below the working directory, unless that is allowed.
func (o Output) CheckDelete(allowed bool) error {
	if o.Type != OutputLocal || strings.ToLower(strings.TrimSpace(o.Attrs["mode"])) != "delete" || allowed {
		return nil
	}
	wd, err := os.Getwd()
	if err == nil {
		wd, err = filepath.EvalSymlinks(wd)
	}
	if err != nil {
		return fmt.Errorf("failed to get current working directory: %w", err)
	}
	dest, err := resolveExisting(o.Dest)
	if err != nil {
		return fmt.Errorf("failed to evaluate local output destination %q: %w", o.Dest, err)
	}
	if rel, err := filepath.Rel(wd, dest); err == nil && rel != "." && filepath.IsLocal(rel) {
		return nil
	}
	return invalid("local output mode=delete for destination %q requires --allow=buildx.local.delete", o.Dest)
}

// resolveExisting is the path with the symlinks of that part of it resolved that
// exists.
func resolveExisting(name string) (string, error) {
	abs, err := filepath.Abs(name)
	if err != nil {
		return "", err
	}
	resolved, err := filepath.EvalSymlinks(abs)
	if !errors.Is(err, fs.ErrNotExist) || filepath.Dir(abs) == abs {
		return resolved, err
	}
	parent, err := resolveExisting(filepath.Dir(abs))
	return filepath.Join(parent, filepath.Base(abs)), err
}
