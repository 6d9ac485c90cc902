package layer

import (
	"context"
	"fmt"
	"io"

	"strake/internal/archive"
)

// WriteDirs writes an index of directories alone, which lies on top of the
// layers (bottom first) in an overlay and gives directories that the highest of
// them only implies the look that Union gives them. It returns how many there
// are; with none, nothing is written and nothing has to lie on top.
func WriteDirs(ctx context.Context, layers []*Layer, w io.Writer) (int, error) {
	f := Union(layers)
	root, err := f.root()
	if err != nil {
		return 0, fmt.Errorf("read layers: %w", err)
	}
	tree, count, err := f.impliedDirs(ctx, &root)
	if err != nil {
		return 0, fmt.Errorf("read layers: %w", err)
	}
	if count == 0 {
		return 0, nil
	}
	if _, err := new(image).write(w, tree); err != nil {
		return 0, fmt.Errorf("write directory index: %w", err)
	}
	return count, nil
}

// impliedDirs makes a tree of the directories in and below dir that need another
// look than their highest layer gives them, and of those on the way to them.
func (f *FS) impliedDirs(ctx context.Context, dir *entry) (*archive.Inode, int, error) {
	if err := ctx.Err(); err != nil {
		return nil, 0, err
	}
	n := &dir.look.inode
	attrs, _, err := n.attributes()
	if err != nil {
		return nil, 0, err
	}
	tree := &archive.Inode{
		Mode: n.mode, UID: n.uid, GID: n.gid, ModTime: n.mtime, Xattrs: attrs, Nlink: 2,
		Children: map[string]*archive.Inode{}, Implied: n.implied(),
	}
	count := 0
	if dir.dirs[0].inode.implied() && !n.implied() {
		count++
	}
	if len(dir.dirs) == 1 {
		return tree, count, nil // all below is one layer's
	}
	list, err := f.list(dir)
	if err != nil {
		return nil, 0, err
	}
	for _, d := range list {
		if !d.IsDir() {
			continue
		}
		child, err := f.child(dir, d.Name())
		if err != nil {
			return nil, 0, err
		}
		sub, below, err := f.impliedDirs(ctx, &child)
		if err != nil {
			return nil, 0, err
		}
		if below > 0 {
			tree.Children[d.Name()] = sub
			tree.Nlink++
			count += below
		}
	}
	return tree, count, nil
}
