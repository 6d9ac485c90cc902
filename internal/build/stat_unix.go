//go:build unix

package build

import (
	"fmt"
	"io/fs"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"strake/internal/archive"
)

// statAt describes name in the open directory dir, symlinks not followed. full
// is its path in the context. The owner is root: who built does not matter.
func statAt(dir *os.File, name, full string) (node, fileStat, error) {
	var st unix.Stat_t
	fd := int(dir.Fd())
	if err := unix.Fstatat(fd, name, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return node{}, fileStat{}, &fs.PathError{Op: "lstat", Path: full, Err: err}
	}
	n := node{
		path:  full,
		mode:  archive.FileMode(uint32(st.Mode)),
		mtime: time.Unix(st.Mtim.Unix()),
	}
	fst := fileStat{
		mtime: st.Mtim.Nano(),
		ctime: st.Ctim.Nano(),
		inode: st.Ino,
	}
	switch n.mode.Type() {
	case 0:
		n.size = st.Size
		if st.Nlink > 1 {
			n.ino = st.Ino
		}
	case fs.ModeSymlink:
		buf := make([]byte, unix.PathMax)
		l, err := unix.Readlinkat(fd, name, buf)
		if err != nil {
			return node{}, fileStat{}, &fs.PathError{Op: "readlink", Path: full, Err: err}
		}
		n.link = string(buf[:l])
	case fs.ModeDevice, fs.ModeDevice | fs.ModeCharDevice:
		return node{}, fileStat{}, fmt.Errorf("%s is a device: a build context cannot hold one", full)
	}
	return n, fst, nil
}
