package rootfs

import (
	"context"
	"errors"
	"fmt"
	"os"

	"github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"

	"strake/internal/layer"
	"strake/internal/mount"
)

// EROFS mounts each layer's index and tar as a file system of its own and unites them by overlayfs. A layer is mounted once.
type EROFS struct {
	dir string
	ns  *mount.Namespace
	// The fields below are used inside of the namespace only, one call at a time.
	scratch scratch
	layers  map[digest.Digest]*mountedLayer
	dirs    map[string]string // by chain, where its implied directories are mounted; "" if there are none
}

// A mountedLayer is a layer in its place.
type mountedLayer struct {
	dir  string
	gaps layer.Gaps
}

var _ Mounter = (*EROFS)(nil)

// NewEROFS returns a Mounter that mounts inside of ns. In dir, which other processes may use too, nothing is left.
func NewEROFS(dir string, ns *mount.Namespace) *EROFS {
	return &EROFS{
		dir: dir, ns: ns, scratch: scratch{parent: dir},
		layers: map[digest.Digest]*mountedLayer{}, dirs: map[string]string{},
	}
}

// Name implements Mounter.
func (e *EROFS) Name() string { return "erofs" }

// Mount implements Mounter.
func (e *EROFS) Mount(ctx context.Context, o MountOptions) (*Mounted, error) {
	if err := o.check(); err != nil {
		return nil, err
	}
	err := e.ns.Do(func() error {
		lower, root, err := e.lowers(ctx, o.Layers)
		if err != nil {
			return err
		}
		return e.scratch.unite(lower, root, o)
	})
	if err != nil {
		return nil, fmt.Errorf("mount %d layers by erofs: %w", len(o.Layers), err)
	}
	return &Mounted{ns: e.ns, target: o.Target}, nil
}

// lowers mounts what is not mounted yet of a chain. It returns the directories to unite, the top one first, and the one whose
// attributes the union's root has.
func (e *EROFS) lowers(ctx context.Context, layers []layer.Files) (lower []string, root string, err error) {
	layers = highest(layers)
	lower = make([]string, 0, len(layers)+3)
	above := true // of the highest layer that implies directories
	for i := len(layers) - 1; i >= 0; i-- {
		if err := ctx.Err(); err != nil {
			return nil, "", err
		}
		l, err := e.layer(layers[i])
		if err != nil {
			return nil, "", fmt.Errorf("layer %s: %w", layers[i].DiffID, err)
		}
		if l.gaps.Inside && above && i > 0 {
			above = false
			dirs, err := e.chainDirs(ctx, layers[:i+1])
			if err != nil {
				return nil, "", err
			}
			if dirs != "" {
				lower = append(lower, dirs)
			}
		}
		lower = append(lower, l.dir)
		if root == "" && (!l.gaps.ImpliesRoot || i == 0 || l.gaps.OpaqueRoot) {
			root = l.dir
		}
		if l.gaps.OpaqueRoot { // which overlayfs does not see on a root
			break
		}
	}
	return lower, root, nil
}

// layer returns a layer in its place.
func (e *EROFS) layer(l layer.Files) (*mountedLayer, error) {
	if m, ok := e.layers[l.DiffID]; ok {
		return m, nil
	}
	gaps, err := layer.FindGaps(l.Index)
	if err != nil {
		return nil, err
	}
	devices := []string{l.Tar}
	if l.Side != "" {
		devices = append(devices, l.Side)
	}
	dir, err := e.scratch.newPoint()
	if err != nil {
		return nil, err
	}
	if err := mount.EROFS(l.Index, devices, dir); err != nil {
		return nil, err
	}
	m := &mountedLayer{dir, gaps}
	e.layers[l.DiffID] = m
	return m, nil
}

// chainDirs returns where the directories are mounted that a chain's layers imply, as lower layers name them; "" if there are
// none. Their index is a file without a name, which lives as long as its mount.
func (e *EROFS) chainDirs(ctx context.Context, chain []layer.Files) (dir string, err error) {
	key := chainKey(chain)
	if dir, ok := e.dirs[key]; ok {
		return dir, nil
	}
	fd, err := unix.Open(e.dir, unix.O_TMPFILE|unix.O_RDWR|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return "", fmt.Errorf("make an index of directories in %q: %w", e.dir, err)
	}
	index := os.NewFile(uintptr(fd), fmt.Sprintf("/proc/self/fd/%d", fd))
	defer func() { _ = index.Close() }() // has no name: the mount keeps it
	count, err := writeDirs(ctx, chain, index)
	if err != nil {
		return "", fmt.Errorf("make an index of directories: %w", err)
	}
	if count > 0 {
		if dir, err = e.scratch.newPoint(); err != nil {
			return "", err
		}
		if err := mount.EROFS(index.Name(), nil, dir); err != nil {
			return "", fmt.Errorf("directories of the chain: %w", err)
		}
	}
	e.dirs[key] = dir
	return dir, nil
}

// writeDirs opens a chain for layer.WriteDirs.
func writeDirs(ctx context.Context, chain []layer.Files, index *os.File) (count int, err error) {
	layers, err := layer.OpenChain(chain)
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, layers.Close()) }()
	visible, err := layer.Visible(layers)
	if err != nil {
		return 0, err
	}
	return layer.WriteDirs(ctx, visible, index)
}
