package engine

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"strings"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"strake/internal/archive"
	"strake/internal/layer"
	"strake/internal/userns"
)

// CopyContainerOptions say what to copy between a container and this machine, by docker cp's rules of names: a path that ends in a
// slash is a directory, DIR/. is what is in DIR, a target that does not exist is the new name.
type CopyContainerOptions struct {
	Ref     string
	Path    string // in the container
	Local   string // on this machine; "" is Tar
	Follow  bool   // follow the source where it is a symlink
	Archive bool   // out of the container: keep owners, special mode bits and attributes, as far as the system lets us
	Output  io.Writer
	Input   io.Reader // a tar, compressed or not
}

// CopyOut copies a file or directory out of a container, to Local or as a tar to Output, and returns the size of that tar. Links in
// the container lead nowhere but in the container, whatever it does meanwhile; nothing that is in it is run. Nothing outside of
// Local is touched.
func CopyOut(ctx context.Context, env *Env, opts CopyContainerOptions) (size int64, err error) {
	err = withRoot(ctx, env, opts.Ref, func(c *Container, root *os.File) (err error) {
		f, src, err := openWithin(root, opts)
		if err != nil {
			return err
		}
		defer closing(&err, f.Close)
		if err := containers(env).Tell(ctx, "archive-path", c, map[string]string{"path": opts.Path}); err != nil {
			return err
		}
		if opts.Local == "" {
			name := src.base
			if src.contents {
				name = ""
			}
			return writeTree(ctx, f, opts.Output, layer.TreeOptions{Name: name}, &size)
		}
		dir, name, err := destination(opts.Local, src)
		if err != nil {
			return err
		}
		squash := !opts.Archive || userns.IDs() > 0
		return extractTree(ctx, f, dir, layer.TreeOptions{Name: name, Plain: squash}, archive.ExtractOptions{Squash: squash, Merge: true}, &size)
	})
	return size, err
}

// CopyIn copies Local, or what is in the tar Input, into a container, and returns the size of the tar. Names are resolved in the
// container alone, whatever it does meanwhile.
func CopyIn(ctx context.Context, env *Env, opts CopyContainerOptions) (size int64, err error) {
	var f *os.File
	var src source
	if opts.Local != "" {
		if f, src, err = openLocal(opts.Local, opts.Follow); err != nil {
			return 0, err
		}
		defer closing(&err, f.Close)
	}
	err = withRoot(ctx, env, opts.Ref, func(c *Container, root *os.File) (err error) {
		place, name, err := findPlace(root, opts, src, f == nil)
		if err != nil {
			return err
		}
		defer closing(&err, place.Close)
		if err := mayWrite(c, root, place); err != nil {
			return err
		}
		dir, extract := fmt.Sprintf("/proc/self/fd/%d", place.Fd()), archive.ExtractOptions{Merge: true, IDs: userns.IDs()}
		if f != nil {
			err = extractTree(ctx, f, dir, layer.TreeOptions{Name: name}, extract, &size)
		} else {
			err = extractTar(ctx, opts.Input, dir, extract, &size)
		}
		if errors.Is(err, unix.EROFS) {
			return readOnlyRoot
		}
		if err != nil {
			return err
		}
		return containers(env).Tell(ctx, "extract-to-dir", c, map[string]string{"path": opts.Path})
	})
	return size, err
}

// readOnlyRoot is docker's error for a container that is not to be written to.
var readOnlyRoot = messageError{"container rootfs is marked read-only", errdefs.ErrPermissionDenied}

// mayWrite fails where a place is in the root file system of a container that is to be read-only, and is not mounted so because it
// does not run.
func mayWrite(c *Container, root, place *os.File) error {
	var a, b unix.Stat_t
	if err := errors.Join(unix.Fstat(int(root.Fd()), &a), unix.Fstat(int(place.Fd()), &b)); err != nil {
		return err
	}
	if c.Spec.HostConfig.ReadonlyRootfs && a.Dev == b.Dev {
		return readOnlyRoot
	}
	return nil
}

// openInside opens a path of a container, without leaving its root, whatever is done to it meanwhile.
func openInside(root *os.File, name string, flags uint64) (*os.File, error) {
	fd, err := unix.Openat2(int(root.Fd()), path.Join(".", path.Join("/", name)), &unix.OpenHow{
		Flags: unix.O_PATH | unix.O_CLOEXEC | flags, Resolve: unix.RESOLVE_IN_ROOT | unix.RESOLVE_NO_MAGICLINKS,
	})
	if err != nil {
		return nil, &fs.PathError{Op: "open", Path: name, Err: err}
	}
	return os.NewFile(uintptr(fd), name), nil
}

// openWithin finds what is to be copied out of a container.
func openWithin(root *os.File, opts CopyContainerOptions) (*os.File, source, error) {
	src := source{name: inside(opts.Path)}
	src.base = path.Base(src.name)
	src.contents = src.name == "." || strings.HasSuffix(opts.Path, "/.")
	asDir := src.contents || strings.HasSuffix(opts.Path, "/")
	var flags uint64 = unix.O_NOFOLLOW
	if opts.Follow || asDir {
		flags = 0
	}
	f, err := openInside(root, opts.Path, flags)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ELOOP) {
		return nil, src, messageError{fmt.Sprintf("Could not find the file %s in container %s", opts.Path, opts.Ref), errdefs.ErrNotFound}
	}
	if err != nil {
		return nil, src, err
	}
	if src.info, err = f.Stat(); err == nil && asDir && !src.info.IsDir() {
		err = messageError{opts.Path + ": not a directory", errdefs.ErrInvalidArgument}
	}
	if err != nil {
		return nil, src, errors.Join(err, f.Close())
	}
	return f, src, nil
}

// openLocal finds what is to be copied into a container.
func openLocal(name string, follow bool) (*os.File, source, error) {
	src := source{name: name, base: path.Base(path.Clean(name)), contents: name == "." || strings.HasSuffix(name, "/.")}
	asDir := src.contents || strings.HasSuffix(name, "/")
	flags := unix.O_NOFOLLOW
	if follow || asDir {
		flags = 0
	}
	f, err := os.OpenFile(path.Clean(name), unix.O_PATH|flags, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, src, messageError{"lstat " + path.Clean(name) + ": no such file or directory", errdefs.ErrNotFound}
	}
	if err != nil {
		return nil, src, err
	}
	if src.info, err = f.Stat(); err == nil && asDir && !src.info.IsDir() {
		err = messageError{"not a directory", errdefs.ErrInvalidArgument}
	}
	if err != nil {
		return nil, src, errors.Join(err, f.Close())
	}
	return f, src, nil
}

// maxLinks is how many symlinks a target may lead over.
const maxLinks = 40

// findPlace finds the directory of a container that src goes into, and its name there; "." is for what is in src, or in a tar.
func findPlace(root *os.File, opts CopyContainerOptions, src source, tar bool) (place *os.File, name string, err error) {
	fail := func(text string) (*os.File, string, error) {
		return nil, "", messageError{text, errdefs.ErrInvalidArgument}
	}
	dest := opts.Path
	asDir := strings.HasSuffix(dest, "/") || strings.HasSuffix(dest, "/.")
	dir, err := openInside(root, dest, unix.O_DIRECTORY)
	switch {
	case err == nil && (tar || src.contents):
		return dir, ".", nil
	case err == nil:
		if err := checkName(src.base); err != nil {
			return nil, "", errors.Join(err, dir.Close())
		}
		return dir, src.base, nil
	case tar:
		return fail(fmt.Sprintf("destination %q must be a directory", opts.Ref+":"+dest))
	}
	for range maxLinks { // docker writes to where a link leads, be it nowhere
		dest = path.Clean("/" + dest)
		parent, err := openInside(root, path.Dir(dest), unix.O_DIRECTORY)
		if err != nil {
			return nil, "", messageError{fmt.Sprintf("Could not find the file %s in container %s", path.Dir(dest), opts.Ref), errdefs.ErrNotFound}
		}
		var buf [unix.PathMax]byte
		n, err := unix.Readlinkat(int(parent.Fd()), path.Base(dest), buf[:])
		if err == nil {
			if err := parent.Close(); err != nil {
				return nil, "", err
			}
			if target := string(buf[:n]); path.IsAbs(target) {
				dest = target
			} else {
				dest = path.Join(path.Dir(dest), target)
			}
			continue
		}
		if err := cannotPlace(!errors.Is(err, unix.ENOENT), asDir, src, path.Base(dest)); err != nil {
			return nil, "", errors.Join(err, parent.Close())
		}
		return parent, path.Base(dest), nil
	}
	return fail(opts.Path + ": too many levels of symbolic links")
}

// cannotPlace says why src cannot get a name, which a file that is no directory has, or nothing.
func cannotPlace(there, asDir bool, src source, name string) error {
	text := ""
	switch {
	case there && src.info.IsDir():
		text = "cannot copy directory"
	case there && asDir:
		text = "not a directory"
	case !there && asDir && !src.info.IsDir():
		text = "no such directory"
	default:
		return checkName(name)
	}
	return messageError{text, errdefs.ErrInvalidArgument}
}

// writeTree writes a tar of a tree, and counts its bytes.
func writeTree(ctx context.Context, f *os.File, w io.Writer, opts layer.TreeOptions, size *int64) error {
	tar := archive.NewWriter(counter{w, size}, archive.WriterOptions{})
	if err := layer.WriteTree(ctx, f, tar, opts); err != nil {
		return err
	}
	return tar.Close()
}

// extractTree copies a tree to a directory.
func extractTree(ctx context.Context, f *os.File, dir string, tree layer.TreeOptions, opts archive.ExtractOptions, size *int64) error {
	pr, pw := io.Pipe()
	written := make(chan struct{})
	go func() {
		defer close(written)
		pw.CloseWithError(writeTree(ctx, f, pw, tree, size))
	}()
	err := archive.Extract(ctx, pr, dir, opts)
	pr.CloseWithError(errors.New("extraction ended")) // frees the writer when that failed
	<-written
	return err
}

// extractTar copies what is in a tar to a directory.
func extractTar(ctx context.Context, r io.Reader, dir string, opts archive.ExtractOptions, size *int64) (err error) {
	tar, _, err := archive.Decompress(r)
	if err != nil {
		return err
	}
	defer closing(&err, tar.Close)
	return archive.Extract(ctx, io.TeeReader(tar, counter{io.Discard, size}), dir, opts)
}
