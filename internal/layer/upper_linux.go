package layer

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"strake/internal/archive"
)

// UpperChanges tells what the upper directory of an overlay does to lower, in the order of the paths' parts, as docker diff does: a
// directory is changed where it looks otherwise, or something in it was added or deleted. Empty files and directories that
// stub names, and directories that hold nothing else and are not in lower, are left out. As of Diff, who writes to upper
// meanwhile never makes it look elsewhere. Of Changes, Path, Kind and Mode are set.
func UpperChanges(ctx context.Context, upper string, lower *FS, stub func(name string) bool) (list []Change, err error) {
	fd, err := unix.Open(upper, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("changes in %q: %w", upper, err)
	}
	top := handle{fd: fd}
	defer func() { err = errors.Join(err, top.close()) }()
	u := &upperChanges{lower: lower, stub: stub}
	if _, err := u.dir(ctx, &top, "", true); err != nil {
		return nil, fmt.Errorf("changes in %q: %w", upper, err)
	}
	slices.SortStableFunc(u.list, func(a, b Change) int { return comparePaths(a.Path, b.Path) })
	return u.list, nil
}

type upperChanges struct {
	lower *FS
	stub  func(name string) bool
	list  []Change
}

// below is what lower has under a name, nil for nothing.
func (u *upperChanges) below(name string) (*fileInfo, error) {
	info, err := u.lower.Lstat(name)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ENOTDIR) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	i, ok := info.(*fileInfo)
	if !ok {
		return nil, fmt.Errorf("stat %q: %w", name, fs.ErrInvalid)
	}
	return i, nil
}

// dir lists what is below a directory. Of one that is in lower, merged, members were perhaps added or deleted; what lower has
// below another is not its own. It reports whether something was left out.
func (u *upperChanges) dir(ctx context.Context, n *handle, name string, merged bool) (left bool, err error) {
	if err := ctx.Err(); err != nil {
		return false, err
	}
	names, err := n.names()
	if err != nil {
		return false, err
	}
	for _, base := range names {
		out, err := u.child(ctx, n, base, path.Join(name, base), merged)
		if err != nil && !errors.Is(err, unix.ENOENT) { // which is gone by now
			return false, err
		}
		left = left || out
	}
	return left, nil
}

func (u *upperChanges) child(ctx context.Context, dir *handle, base, name string, merged bool) (left bool, err error) {
	n, err := openHandle(dir.fd, base)
	if err != nil {
		return false, err
	}
	defer func() { err = errors.Join(err, n.close()) }()
	attrs, err := n.xattrs()
	if err != nil {
		return false, fmt.Errorf("attributes of %q: %w", name, err)
	}
	var old *fileInfo
	if merged {
		if old, err = u.below(name); err != nil {
			return false, err
		}
	}
	if n.whiteout(attrs) {
		if old != nil {
			u.list = append(u.list, Change{Path: name, Kind: Deleted, Mode: old.stat.Mode})
		}
		return false, nil
	}
	if old == nil && u.stub(name) {
		if empty, err := n.empty(); empty || err != nil {
			return empty, err
		}
	}
	change := Change{Path: name, Kind: Changed, Mode: n.stat.Mode}
	if old == nil {
		change.Kind = Added
	}
	if n.kind() != unix.S_IFDIR {
		u.list = append(u.list, change)
		return false, nil
	}
	return u.subdir(ctx, &n, attrs, change, old)
}

// subdir lists a directory and what is below it.
func (u *upperChanges) subdir(ctx context.Context, n *handle, attrs []archive.Xattr, change Change, old *fileInfo) (left bool, err error) {
	begin := len(u.list)
	name, opaque := change.Path, n.opaque(attrs)
	merged := old != nil && old.IsDir()
	if left, err = u.dir(ctx, n, name, merged); err != nil {
		return false, err
	}
	if merged && opaque {
		if err := u.hidden(n, name); err != nil {
			return false, err
		}
	}
	below := u.list[begin:]
	switch {
	case old == nil && left && len(below) == 0:
		return true, nil
	case old == nil || !merged || !u.same(n, old):
	case !slices.ContainsFunc(below, func(c Change) bool { return c.Kind != Changed && path.Dir(c.Path) == name }):
		return false, nil
	}
	u.list = append(u.list, change)
	return false, nil
}

// hidden lists what lower has in an opaque directory, and the directory has not.
func (u *upperChanges) hidden(n *handle, name string) error {
	entries, err := u.lower.ReadDir(name)
	if err != nil {
		return err
	}
	for _, e := range entries {
		own, err := openHandle(n.fd, e.Name())
		if err == nil {
			if err := own.close(); err != nil {
				return err
			}
			continue
		}
		info, err := e.Info()
		if err != nil {
			return err
		}
		if st, ok := info.Sys().(*Stat); ok {
			u.list = append(u.list, Change{Path: path.Join(name, e.Name()), Kind: Deleted, Mode: st.Mode})
		}
	}
	return nil
}

// same reports whether a directory looks as the one below it.
func (u *upperChanges) same(n *handle, old *fileInfo) bool {
	st := &n.stat
	return st.Mode == old.stat.Mode && st.Uid == old.stat.UID && st.Gid == old.stat.GID && time.Unix(st.Mtim.Unix()).Equal(old.mtime)
}
