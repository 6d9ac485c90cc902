package volume

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"strake/internal/archive"
	"strake/internal/flock"
	"strake/internal/layer"
	"strake/internal/userns"
)

// A Filler copies what an image has at a place into a volume.
type Filler struct {
	name     string
	from, to *os.File // nil: there is nothing to copy
	dir      *os.File // the volume's directory
}

// Filler returns what fills the volume from path, below the root file system rootfs; both, and what is mounted on the volume, as the
// calling thread sees them. Symbolic links in path are resolved inside of rootfs.
func (t *Table) Filler(name, rootfs, path string) (_ *Filler, err error) {
	f := &Filler{name: name}
	defer func() {
		if err != nil {
			err = errors.Join(fmt.Errorf("fill volume %s from the image's %s: %w", name, path, err), f.Close())
		}
	}()
	root, err := unix.Open(rootfs, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	defer func() { _ = unix.Close(root) }() // a path only
	f.from, err = openDir(root, path, unix.RESOLVE_IN_ROOT)
	if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENOTDIR) || errors.Is(err, unix.ELOOP) {
		return f, nil
	}
	if err != nil {
		return nil, err
	}
	if f.dir, err = os.Open(filepath.Dir(t.Path(name))); err != nil {
		return nil, err
	}
	f.to, err = openDir(int(f.dir.Fd()), data, unix.RESOLVE_BENEATH|unix.RESOLVE_NO_SYMLINKS)
	return f, err
}

// Close ends the use of a Filler.
func (f *Filler) Close() error {
	var err error
	for _, file := range []*os.File{f.from, f.to, f.dir} {
		if file != nil {
			err = errors.Join(err, file.Close())
		}
	}
	return err
}

// Fill copies the files, with the attributes of their directory, into a volume that is empty; it does nothing where the image has no
// directory, or the volume files. Nothing else may change the root file system meanwhile. Of those that fill a volume at
// once one does; a copy that a crash interrupted is made again.
func (f *Filler) Fill(ctx context.Context) error {
	if f.from == nil {
		return nil
	}
	err := flock.Wait(ctx, f.dir, flock.Exclusive)
	if err == nil {
		err = f.fill(ctx)
	}
	if err != nil {
		return fmt.Errorf("fill volume %s: %w", f.name, err)
	}
	return nil
}

// fill copies beside the volume, and moves what was copied into it when all is there. Into another file system that is mounted on
// the volume it copies right away.
func (f *Filler) fill(ctx context.Context) error {
	dir := int(f.dir.Fd())
	ready, err := openDir(dir, filled, unix.RESOLVE_BENEATH)
	if errors.Is(err, unix.ENOENT) {
		ready, err = f.prepare(ctx)
	}
	if err != nil || ready == nil {
		return err
	}
	defer func() { _ = ready.Close() }() // only read
	names, err := ready.Readdirnames(-1)
	if err != nil {
		return err
	}
	for _, name := range names {
		err := unix.Renameat2(int(ready.Fd()), name, int(f.to.Fd()), name, unix.RENAME_NOREPLACE)
		if err != nil && !errors.Is(err, unix.EEXIST) { // a process of another container made it meanwhile
			return fmt.Errorf("%s: %w", name, err)
		}
	}
	if err := f.describe(f.to); err != nil {
		return err
	}
	return os.RemoveAll(inside(f.dir, filled))
}

// prepare returns the directory of a finished copy, or nil where there is nothing more to do.
func (f *Filler) prepare(ctx context.Context) (*os.File, error) {
	if names, err := f.to.Readdirnames(1); len(names) > 0 || !errors.Is(err, io.EOF) {
		return nil, err
	}
	var beside, volume unix.Stat_t
	if err := errors.Join(unix.Fstat(int(f.dir.Fd()), &beside), unix.Fstat(int(f.to.Fd()), &volume)); err != nil {
		return nil, err
	}
	if beside.Dev != volume.Dev {
		return nil, errors.Join(f.copy(ctx, inside(f.to, ".")), f.describe(f.to))
	}
	dir := int(f.dir.Fd())
	if err := os.RemoveAll(inside(f.dir, filling)); err != nil {
		return nil, err
	}
	if err := unix.Mkdirat(dir, filling, 0o700); err != nil {
		return nil, err
	}
	if err := f.copy(ctx, inside(f.dir, filling)); err != nil {
		return nil, err
	}
	if err := unix.Renameat(dir, filling, dir, filled); err != nil {
		return nil, err
	}
	return openDir(dir, filled, unix.RESOLVE_BENEATH)
}

// inside is a path by which any thread finds name in an open directory, whatever is mounted for it.
func inside(dir *os.File, name string) string {
	return fmt.Sprintf("/proc/self/fd/%d/%s", dir.Fd(), name)
}

// copy copies what is in the image's directory.
func (f *Filler) copy(ctx context.Context, to string) error {
	r, w := io.Pipe()
	written := make(chan error, 1)
	go func() {
		tar := archive.NewWriter(w, archive.WriterOptions{})
		err := layer.Diff(ctx, inside(f.from, "."), tar, layer.DiffOptions{})
		if err == nil {
			err = tar.Close()
		}
		written <- errors.Join(err, w.CloseWithError(err))
	}()
	err := archive.Extract(ctx, r, to, archive.ExtractOptions{IDs: userns.IDs()})
	_ = r.Close() // the writer fails if it is not at its end
	return errors.Join(err, <-written)
}

// describe gives a directory the owner, mode and time of the image's.
func (f *Filler) describe(dir *os.File) error {
	var st unix.Stat_t
	if err := unix.Fstat(int(f.from.Fd()), &st); err != nil {
		return err
	}
	fd := int(dir.Fd())
	if ids := userns.IDs(); ids > 0 && (int(st.Uid) >= ids || int(st.Gid) >= ids) {
		st.Uid, st.Gid = 0, 0
	}
	return errors.Join(
		unix.Fchown(fd, int(st.Uid), int(st.Gid)), unix.Fchmod(fd, st.Mode&0o7777),
		unix.UtimesNanoAt(fd, "", []unix.Timespec{st.Atim, st.Mtim}, unix.AT_EMPTY_PATH),
	)
}

// openDir opens a directory below another one.
func openDir(dir int, name string, resolve uint64) (*os.File, error) {
	fd, err := unix.Openat2(dir, filepath.Join(".", name), &unix.OpenHow{
		Flags: unix.O_RDONLY | unix.O_DIRECTORY | unix.O_CLOEXEC, Resolve: resolve | unix.RESOLVE_NO_MAGICLINKS,
	})
	if err != nil {
		return nil, err
	}
	return os.NewFile(uintptr(fd), name), nil
}
