// Package rootfs makes a chain of layers a root file system.
//
// A chain is a list of layers, the bottom one first. A Mounter shows the union of a chain in a directory, inside a private mount
// namespace, read-only or under an upper directory that takes what is written. Two do so: EROFS mounts each layer as it lies in
// the store and unpacks nothing; Unpacked extracts each once, for kernels that cannot mount EROFS. What they show is the same.
package rootfs

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"

	"github.com/containerd/errdefs"

	"strake/internal/archive"
	"strake/internal/layer"
	"strake/internal/mount"
	"strake/internal/userns"
)

// Mounter mounts chains of layers. Its methods may be called from any goroutine.
type Mounter interface {
	// Name is "erofs" or "unpacked".
	Name() string
	// Mount shows the union of a chain in a directory. The caller closes what it returns, or the namespace.
	Mount(ctx context.Context, o MountOptions) (*Mounted, error)
}

// MountPoints is what a Mounter's directory holds that is of no use once the Mounter is gone: an empty directory.
const MountPoints = "mnt"

// MountOptions say what to mount, and where.
type MountOptions struct {
	Layers []layer.Files // the chain, bottom first; may be empty
	Target string        // existing directory
	Upper  string        // existing directory for what is written; "" = read-only. A fresh one gets the root directory's attributes
	Work   string        // existing directory for the kernel, empty at first, on the file system of Upper
	// Volatile lets the kernel never sync Upper: for an Upper that nobody uses after a crash.
	Volatile bool
	// Stubs adds, below all layers, empty files to mount on: /etc/hosts and /etc/resolv.conf. Without them they are made in Upper, and
	// /etc with them.
	Stubs bool
}

// maxLayers is how many directories overlayfs unites, less those that are added to a chain.
const maxLayers = 500 - 3

// check refuses impossible options.
func (o *MountOptions) check() error {
	if len(o.Layers) > maxLayers {
		return fmt.Errorf("mount %d layers: more than %d: %w", len(o.Layers), maxLayers, errdefs.ErrOutOfRange)
	}
	if o.Target == "" || (o.Upper == "") != (o.Work == "") {
		return fmt.Errorf("mount layers: target %q, upper %q, work %q: %w", o.Target, o.Upper, o.Work, errdefs.ErrInvalidArgument)
	}
	return nil
}

// chainKey names a chain by the digests of its layers.
func chainKey(layers []layer.Files) string {
	h := sha256.New()
	for _, l := range layers {
		_, _ = io.WriteString(h, l.DiffID.String()+"\n") // a hash takes everything
	}
	return hex.EncodeToString(h.Sum(nil))
}

// highest is a chain without the layers that are in it again further up: all that such a one says the higher one says too.
// Commands that change nothing make equal layers, and overlayfs refuses one directory twice.
func highest(chain []layer.Files) []layer.Files {
	var out []layer.Files
	for i, l := range chain {
		if !slices.ContainsFunc(chain[i+1:], func(above layer.Files) bool { return above.DiffID == l.DiffID }) {
			out = append(out, l)
		}
	}
	return out
}

// Mounted is a mounted chain.
type Mounted struct {
	ns     *mount.Namespace
	target string
	locks  []*os.File // on what is mounted
}

// Close takes the mount away. Processes that use it keep it until they end.
func (m *Mounted) Close() error {
	err := m.ns.Do(func() error { return mount.Unmount(m.target) })
	if err = errors.Join(err, m.unlock()); err != nil {
		return fmt.Errorf("take the root file system away: %w", err)
	}
	return nil
}

func (m *Mounted) unlock() (err error) {
	for _, lock := range m.locks {
		err = errors.Join(err, lock.Close())
	}
	m.locks = nil
	return err
}

// Extract applies one layer to a directory.
func Extract(ctx context.Context, l layer.Files, dir string) error {
	tar, err := os.Open(l.Tar)
	if err != nil {
		return err
	}
	defer func() { _ = tar.Close() }() // only read
	return archive.Extract(ctx, tar, dir, archive.ExtractOptions{IDs: userns.IDs()})
}
