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
	"strings"
	"time"

	"github.com/containerd/errdefs"

	"strake/internal/archive"
	"strake/internal/layer"
)

// CopyFilesOptions say what to copy out of an image, and where to.
type CopyFilesOptions struct {
	LookOptions
	Path    string // in the image; "DIR/." is what is in DIR
	Dest    string // on this machine
	Follow  bool   // follow Path where it is a symlink
	Archive bool   // keep owners, special mode bits, attributes and devices, as far as the system lets us
}

// CopyFilesResult says what was copied.
type CopyFilesResult struct {
	Size    int64 // bytes of the tar
	Devices int   // that were left out
}

// CopyFiles copies a file or a directory out of an image, to names as docker cp
// has them. Symlinks in the image are followed within the image, those in it are
// copied as they are, and those below Dest are never followed: nothing outside
// Dest is touched. Directories that are there keep their look.
func CopyFiles(ctx context.Context, env *Env, opts CopyFilesOptions) (result CopyFilesResult, err error) {
	v, err := look(ctx, env, opts.LookOptions)
	if err != nil {
		return result, err
	}
	defer closing(&err, v.close)
	src, err := findSource(v.files, opts)
	if err != nil {
		return result, err
	}
	dir, name, err := destination(opts.Dest, src)
	if err != nil {
		return result, err
	}
	t := tarTree{ended: ctx.Err, files: v.files, plain: !opts.Archive}
	squash := !opts.Archive || os.Geteuid() != 0
	if squash {
		t.drop = setID // it would be the user's, not the owner's that the image means
	}
	pr, pw := io.Pipe()
	written := make(chan struct{})
	go func() {
		defer close(written)
		pw.CloseWithError(t.write(pw, src, name))
	}()
	err = archive.Extract(ctx, pr, dir, archive.ExtractOptions{Squash: squash, Merge: true})
	pr.CloseWithError(errors.New("extraction ended")) // frees the writer when that failed
	<-written
	if err != nil {
		return result, err
	}
	result.Size = t.size
	if squash {
		result.Devices = t.devices
	}
	return result, nil
}

// TarFiles writes a tar of a file or a directory of an image, under its own name,
// and what it is in the image: owners, modes, attributes. Dest and Archive do not
// count.
func TarFiles(ctx context.Context, env *Env, opts CopyFilesOptions, w io.Writer) (err error) {
	v, err := look(ctx, env, opts.LookOptions)
	if err != nil {
		return err
	}
	defer closing(&err, v.close)
	src, err := findSource(v.files, opts)
	if err != nil {
		return err
	}
	name := src.base
	if src.contents {
		name = "."
	}
	t := tarTree{ended: ctx.Err, files: v.files}
	return t.write(w, src, name)
}

// source is what is copied.
type source struct {
	name     string // in the image, as package io/fs has it
	base     string // what it is called
	info     fs.FileInfo
	contents bool // what is in it, not the directory itself
}

// findSource finds what the options name, as docker cp does: a path that ends in
// a slash or in "/." is a directory, and a symlink to one is followed.
func findSource(files *layer.FS, opts CopyFilesOptions) (source, error) {
	s := source{name: inside(opts.Path)}
	s.base = path.Base(s.name)
	s.contents = s.name == "." || opts.Path == "." || strings.HasSuffix(opts.Path, "/.")
	asDir := s.contents || strings.HasSuffix(opts.Path, "/")
	stat := files.Lstat
	if opts.Follow || asDir {
		stat = files.Stat
	}
	var err error
	if s.info, err = stat(s.name); err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			return s, messageError{fmt.Sprintf("Could not find the file %s in image %s", opts.Path, opts.Ref), errdefs.ErrNotFound}
		}
		return s, pathError(opts.Path, err)
	}
	if asDir && !s.info.IsDir() {
		return s, messageError{opts.Path + ": not a directory", errdefs.ErrInvalidArgument}
	}
	return s, nil
}

// destination says in which directory to put the source, and under which name,
// after docker cp's rules. The name "." is for what is in a directory alone.
func destination(dest string, src source) (dir, name string, err error) {
	fail := func(text string) (string, string, error) {
		return "", "", messageError{text, errdefs.ErrInvalidArgument}
	}
	asDir := strings.HasSuffix(dest, "/") || strings.HasSuffix(dest, "/.")
	info, err := os.Stat(dest)
	switch {
	case err == nil && info.IsDir() && src.contents:
		return dest, ".", nil
	case err == nil && info.IsDir():
		return dest, src.base, checkName(src.base)
	case err == nil && src.info.IsDir():
		return fail("cannot copy directory")
	case err == nil && asDir:
		return fail("not a directory")
	case err == nil:
		if dest, err = filepath.EvalSymlinks(dest); err != nil {
			return "", "", err
		}
		return filepath.Dir(dest), filepath.Base(dest), checkName(filepath.Base(dest))
	case !errors.Is(err, fs.ErrNotExist):
		return "", "", err
	case !src.info.IsDir() && asDir:
		return fail("no such directory")
	}
	dest = filepath.Clean(dest)
	if _, err := os.Lstat(dest); err == nil {
		return fail(fmt.Sprintf("not writing through dangling symlink %q", dest))
	}
	if parent, err := os.Stat(filepath.Dir(dest)); err != nil || !parent.IsDir() {
		return fail(fmt.Sprintf("invalid output path: directory %q does not exist", filepath.Dir(dest)))
	}
	return filepath.Dir(dest), filepath.Base(dest), checkName(filepath.Base(dest))
}

// checkName refuses a name that means something else in a layer.
func checkName(name string) error {
	if strings.HasPrefix(name, ".wh.") {
		return messageError{fmt.Sprintf("invalid output path: %q is the name of a whiteout", name), errdefs.ErrInvalidArgument}
	}
	return nil
}

// setID are the mode bits that lend a program its owner's rights.
const setID = 0o6000

// tarTree writes files of an image to a tar.
type tarTree struct {
	files *layer.FS
	plain bool         // attributes stay behind
	drop  uint32       // mode bits that stay behind
	at    *time.Time   // of all; nil: each keeps its own
	ended func() error // says why to stop

	tar     *archive.Writer
	first   map[uint64]string // the first name of a file with several
	size    int64             // bytes written
	devices int
}

func (t *tarTree) write(w io.Writer, src source, name string) error {
	t.tar, t.first = archive.NewWriter(counter{w, &t.size}, archive.WriterOptions{}), map[uint64]string{}
	if err := t.add(src.name, name, src.info); err != nil {
		return err
	}
	return t.tar.Close()
}

// counter counts what is written.
type counter struct {
	w io.Writer
	n *int64
}

func (c counter) Write(p []byte) (int, error) {
	n, err := c.w.Write(p)
	*c.n += int64(n)
	return n, err
}

// add writes the file from, and what is below it, under the name to.
func (t *tarTree) add(from, to string, info fs.FileInfo) error {
	if err := t.ended(); err != nil {
		return err
	}
	st, ok := info.Sys().(*layer.Stat)
	if !ok {
		return fmt.Errorf("%s: %w", from, fs.ErrInvalid)
	}
	e := &archive.Entry{
		Name: to, Mode: st.Mode, UID: st.UID, GID: st.GID, Major: st.Major, Minor: st.Minor, ModTime: info.ModTime(), Xattrs: st.Xattrs,
	}
	if to == "." {
		e.Name = ""
	}
	e.Mode &^= t.drop
	if t.at != nil {
		e.ModTime = *t.at
	}
	if t.plain {
		e.Xattrs = nil
	}
	switch st.Mode & archive.TypeMask {
	case archive.TypeDir:
		if to != "." || !t.plain {
			if err := t.tar.Write(e, nil); err != nil {
				return err
			}
		}
		return t.addBelow(from, to)
	case archive.TypeSymlink:
		target, err := t.files.ReadLink(from)
		if err != nil {
			return err
		}
		e.Linkname = target
	case archive.TypeRegular:
		e.Size = info.Size()
	case archive.TypeChar, archive.TypeBlock:
		t.devices++
	}
	if st.Nlink > 1 {
		if first, ok := t.first[st.Ino]; ok {
			return t.tar.Write(&archive.Entry{Name: to, Linkname: first, HardLink: true}, nil)
		}
		t.first[st.Ino] = to
	}
	if e.Size == 0 {
		return t.tar.Write(e, nil)
	}
	f, err := t.files.Open(from)
	if err != nil {
		return err
	}
	return errors.Join(t.tar.Write(e, f), f.Close())
}

func (t *tarTree) addBelow(from, to string) error {
	entries, err := t.files.ReadDir(from)
	if err != nil {
		return err
	}
	for _, d := range entries {
		info, err := d.Info()
		if err != nil {
			return err
		}
		if err := t.add(path.Join(from, d.Name()), path.Join(to, d.Name()), info); err != nil {
			return err
		}
	}
	return nil
}
