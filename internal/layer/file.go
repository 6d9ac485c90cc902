package layer

import (
	"errors"
	"io"
	"io/fs"
	"time"

	"strake/internal/archive"
)

// fileInfo is a fs.FileInfo; its Sys is a *Stat.
type fileInfo struct {
	name  string
	size  int64
	mtime time.Time
	stat  Stat
}

func (i *fileInfo) Name() string       { return i.name }
func (i *fileInfo) Size() int64        { return i.size }
func (i *fileInfo) Mode() fs.FileMode  { return archive.FileMode(i.stat.Mode) }
func (i *fileInfo) ModTime() time.Time { return i.mtime }
func (i *fileInfo) IsDir() bool        { return i.Mode().IsDir() }
func (i *fileInfo) Sys() any           { return &i.stat }

func (f *FS) info(e *entry) (*fileInfo, error) {
	n := &e.look.inode
	attrs, opaque, err := n.attributes()
	if err != nil {
		return nil, err
	}
	i := &fileInfo{name: e.name, size: n.size, mtime: n.mtime, stat: Stat{
		Mode: n.mode, UID: n.uid, GID: n.gid, Nlink: n.nlink,
		Ino: n.number | uint64(e.look.layer)<<40, Xattrs: attrs,
		Implied: n.implied(), Opaque: opaque && f.raw,
	}}
	switch n.mode & archive.TypeMask {
	case archive.TypeChar, archive.TypeBlock:
		i.stat.Major, i.stat.Minor = n.data>>8&0xfff, n.data&0xff|n.data>>12&^0xff
	}
	return i, nil
}

// dirEntry is one name of a listing.
type dirEntry struct {
	fs   *FS
	dir  *entry
	name string
	kind byte
}

func (d *dirEntry) Name() string { return d.name }
func (d *dirEntry) IsDir() bool  { return d.kind == kindDir }

func (d *dirEntry) Type() fs.FileMode {
	kinds := [...]uint32{
		kindRegular: archive.TypeRegular, kindDir: archive.TypeDir, kindChar: archive.TypeChar, kindBlock: archive.TypeBlock,
		kindFifo: archive.TypeFifo, kindSymlink: archive.TypeSymlink,
	}
	if int(d.kind) >= len(kinds) {
		return fs.ModeIrregular
	}
	return archive.FileMode(kinds[d.kind]).Type()
}

// Info describes the name, without following it when it is a symlink.
func (d *dirEntry) Info() (fs.FileInfo, error) {
	e, err := d.fs.child(d.dir, d.name)
	if err != nil {
		return nil, &fs.PathError{Op: "lstat", Path: d.name, Err: err}
	}
	return d.fs.info(&e)
}

// openDir is an open directory.
type openDir struct {
	fs    *FS
	entry entry
	list  []fs.DirEntry
	read  bool
}

func (d *openDir) Stat() (fs.FileInfo, error) { return d.fs.info(&d.entry) }
func (d *openDir) Close() error               { return nil }

func (d *openDir) Read([]byte) (int, error) {
	return 0, &fs.PathError{Op: "read", Path: d.entry.name, Err: errors.New("is a directory")}
}

// ReadDir is fs.ReadDirFile's.
func (d *openDir) ReadDir(n int) ([]fs.DirEntry, error) {
	if !d.read {
		list, err := d.fs.list(&d.entry)
		if err != nil {
			return nil, &fs.PathError{Op: "readdir", Path: d.entry.name, Err: err}
		}
		d.list, d.read = list, true
	}
	if n <= 0 {
		n = len(d.list)
	} else if len(d.list) == 0 {
		return nil, io.EOF
	}
	n = min(n, len(d.list))
	list := d.list[:n:n]
	d.list = d.list[n:]
	return list, nil
}

// openFile is an open file of another type.
type openFile struct {
	fs     *FS
	entry  entry
	offset int64
}

func (o *openFile) Stat() (fs.FileInfo, error) { return o.fs.info(&o.entry) }
func (o *openFile) Close() error               { return nil }

// Read reads on from where the last Read or Seek ended.
func (o *openFile) Read(p []byte) (int, error) {
	n, err := o.ReadAt(p, o.offset)
	o.offset += int64(n)
	if n > 0 && errors.Is(err, io.EOF) {
		err = nil
	}
	return n, err
}

// ReadAt is io.ReaderAt's.
func (o *openFile) ReadAt(p []byte, off int64) (int, error) {
	n := &o.entry.look.inode
	if n.mode&archive.TypeMask != archive.TypeRegular || off < 0 {
		return 0, &fs.PathError{Op: "read", Path: o.entry.name, Err: fs.ErrInvalid}
	}
	if len(p) == 0 {
		return 0, nil
	}
	if off >= n.size {
		return 0, io.EOF
	}
	done, err := o.fs.layers[o.entry.look.layer].readAt(n, p, off)
	if err != nil {
		return done, &fs.PathError{Op: "read", Path: o.entry.name, Err: err}
	}
	if done < len(p) {
		return done, io.EOF
	}
	return done, nil
}

// Seek is io.Seeker's.
func (o *openFile) Seek(offset int64, whence int) (int64, error) {
	switch whence {
	case io.SeekCurrent:
		offset += o.offset
	case io.SeekEnd:
		offset += o.entry.look.inode.size
	}
	if offset < 0 {
		return 0, &fs.PathError{Op: "seek", Path: o.entry.name, Err: fs.ErrInvalid}
	}
	o.offset = offset
	return offset, nil
}
