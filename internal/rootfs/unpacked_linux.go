package rootfs

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"

	"strake/internal/flock"
	"strake/internal/layer"
	"strake/internal/mount"
	"strake/internal/userns"
)

// Unpacked extracts layers into directories, once for all processes, and unites them by overlayfs. What a layer's directory holds
// depends on the layers below it: it is that of a chain's top layer, and chains share what they begin with.
type Unpacked struct {
	dir     string
	ns      *mount.Namespace
	scratch scratch // used inside of the namespace only, one call at a time
}

var _ Mounter = (*Unpacked)(nil)

// NewUnpacked returns a Mounter that keeps the extracted layers in dir, which other processes may use too and other users may not
// enter, and mounts inside of ns. An entry of dir that is named by 64 hexadecimal digits is whole, and may be removed by who holds
// a lock on it, which those share that mount it; any other is not.
func NewUnpacked(dir string, ns *mount.Namespace) *Unpacked {
	return &Unpacked{dir: dir, ns: ns, scratch: scratch{parent: dir}}
}

// Name implements Mounter.
func (u *Unpacked) Name() string { return "unpacked" }

// Mount implements Mounter.
func (u *Unpacked) Mount(ctx context.Context, o MountOptions) (*Mounted, error) {
	if err := o.check(); err != nil {
		return nil, err
	}
	m := &Mounted{ns: u.ns, target: o.Target}
	lower, err := u.lowers(ctx, m, highest(o.Layers))
	if err != nil {
		return nil, errors.Join(fmt.Errorf("unpack %d layers: %w", len(o.Layers), err), m.unlock())
	}
	err = u.ns.Do(func() error {
		if o.Upper == "" && !o.Stubs && len(lower) == 1 {
			return mount.Bind(lower[0], o.Target, true)
		}
		return u.scratch.unite(lower, "", o)
	})
	if err != nil {
		return nil, errors.Join(fmt.Errorf("mount %d unpacked layers: %w", len(o.Layers), err), m.unlock())
	}
	return m, nil
}

// lowers returns the directories of a chain, the top one first, and gives m the locks that keep them there.
func (u *Unpacked) lowers(ctx context.Context, m *Mounted, chain []layer.Files) (lower []string, err error) {
	names := slices.Clone(chain) // what is in the layers, which needs no open files
	for i := range names {
		names[i].Tar, names[i].Side = "", ""
	}
	layers, err := layer.OpenChain(names)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, layers.Close()) }()
	first := 0 // the lowest layer that is seen
	for i, l := range layers {
		root, err := statOf(l, ".")
		if err != nil {
			return nil, err
		}
		if root.Opaque {
			first, lower = i, nil
		}
		dir, lock, err := u.use(ctx, chain[:i+1], layers[first:i+1])
		if err != nil {
			return nil, fmt.Errorf("layer %s: %w", l.Files().DiffID, err)
		}
		lower, m.locks = append([]string{dir}, lower...), append(m.locks, lock)
	}
	return lower, nil
}

// statOf returns what a layer or a union of layers says of a name.
func statOf(fsys fs.ReadLinkFS, name string) (*layer.Stat, error) {
	info, err := fsys.Lstat(name)
	if err != nil {
		return nil, err
	}
	st, ok := info.Sys().(*layer.Stat)
	if !ok {
		return nil, fmt.Errorf("stat %q: %T: %w", name, info.Sys(), errdefs.ErrInternal)
	}
	return st, nil
}

// use returns the directory of a chain's top layer and a lock that keeps it there. Of the layers, open for their names, the last is the top one.
func (u *Unpacked) use(ctx context.Context, chain []layer.Files, layers []*layer.Layer) (string, *os.File, error) {
	for {
		tree, err := u.unpack(ctx, chain, layers)
		if err != nil {
			return "", nil, err
		}
		lock, err := flock.Open(ctx, tree, flock.Shared)
		if err != nil {
			return "", nil, err
		}
		if lock == nil {
			continue
		}
		// The change time of the directory says when it was last used: what is
		// given up to save space is what was not used for longest.
		if err := unix.UtimesNanoAt(unix.AT_FDCWD, tree, []unix.Timespec{{Nsec: unix.UTIME_NOW}, {Nsec: unix.UTIME_OMIT}}, 0); err != nil {
			return "", nil, errors.Join(fmt.Errorf("note use of %q: %w", tree, err), lock.Close())
		}
		return tree, lock, nil
	}
}

// unpack returns the directory of a chain's top layer, extracted now if it is not there. Who extracts holds a lock on the directory under its
// temporary name: others wait for it, and find either the final name or what a crash left to be done again.
func (u *Unpacked) unpack(ctx context.Context, chain []layer.Files, layers []*layer.Layer) (string, error) {
	key := chainKey(chain)
	if ids := userns.IDs(); ids > 0 {
		key = digest.FromString(fmt.Sprintf("%s as %d ids show it", key, ids)).Encoded()
	}
	final := filepath.Join(u.dir, key)
	partial := final + ".partial"
	if err := os.MkdirAll(u.dir, 0o700); err != nil {
		return "", err
	}
	for {
		if _, err := os.Lstat(final); err == nil || !errors.Is(err, fs.ErrNotExist) {
			return final, err
		}
		if err := os.Mkdir(partial, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
			return "", err
		}
		lock, err := flock.Open(ctx, partial, flock.Exclusive)
		if err != nil {
			return "", err
		}
		if lock == nil {
			continue // finished or given up by another process
		}
		if err := u.extract(ctx, chain[len(chain)-1], layers, lock, partial, final); err != nil {
			return "", errors.Join(err, os.RemoveAll(partial), lock.Close())
		}
		return final, lock.Close()
	}
}

// extract fills the directory partial, which lock locks, with the top layer and gives it its final name when it is whole and on disk.
func (u *Unpacked) extract(ctx context.Context, top layer.Files, layers []*layer.Layer, lock *os.File, partial, final string) error {
	left, err := os.ReadDir(partial)
	if err != nil {
		return err
	}
	for _, e := range left {
		if err := os.RemoveAll(filepath.Join(partial, e.Name())); err != nil {
			return fmt.Errorf("remove what a crash left: %w", err)
		}
	}
	if err := os.Chmod(partial, 0o755); err != nil { //nolint:gosec // the root of an image, in a directory that is closed
		return err
	}
	if err := Extract(ctx, top, partial); err != nil {
		return err
	}
	if err := overlayMarks(ctx, layers, partial); err != nil {
		return err
	}
	if err := unix.Syncfs(int(lock.Fd())); err != nil {
		return fmt.Errorf("sync: %w", err)
	}
	if err := os.Rename(partial, final); err != nil {
		return err
	}
	return syncDir(u.dir)
}

// syncDir makes the names in a directory durable.
func syncDir(dir string) error {
	f, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}
