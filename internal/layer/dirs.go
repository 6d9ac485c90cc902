package layer

import (
	"context"
	"errors"
	"fmt"
	"io"

	"strake/internal/archive"
)

// WriteDirs writes an index of directories alone, without data, which lies on top
// of the layers (bottom first) in an overlay. It gives directories that the
// highest of them only implies the look that Union gives them, and makes overlayfs
// merge directories of a single layer that hold whiteouts, which it would list
// otherwise. It returns how many directories there are of both kinds; with none,
// nothing is written and nothing has to lie on top.
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
	top := dir.dirs[0]
	if top.inode.implied() && !n.implied() {
		count++
	}
	if len(dir.dirs) == 1 { // and so is all below
		if !f.layers[top.layer].whiteouts {
			return tree, count, nil
		}
		hides, err := f.layers[top.layer].hides(&top.inode)
		if err != nil {
			return nil, 0, err
		}
		if hides {
			count++
		}
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

// hides tells whether there is a whiteout in a directory.
func (l *Layer) hides(dir *inode) (hides bool, err error) {
	var failed error
	err = l.readDir(dir, func(d dirent) {
		if d.kind == kindChar && failed == nil {
			var n inode
			n, failed = l.inode(d.number)
			hides = hides || n.isWhiteout()
		}
	})
	return hides, errors.Join(err, failed)
}

// Visible leaves out the layers (bottom first) below one whose root directory is
// opaque, which overlayfs would show.
func Visible(layers []*Layer) ([]*Layer, error) {
	for i := len(layers) - 1; i > 0; i-- {
		root, err := layers[i].inode(rootNumber)
		if err != nil {
			return nil, fmt.Errorf("read layer: %w", err)
		}
		_, opaque, err := root.attributes()
		if err != nil {
			return nil, fmt.Errorf("read layer: %w", err)
		}
		if opaque {
			return layers[i:], nil
		}
	}
	return layers, nil
}
