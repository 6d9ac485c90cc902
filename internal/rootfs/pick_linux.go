package rootfs

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"sync"

	"github.com/containerd/errdefs"

	"strake/internal/layer"
	"strake/internal/mount"
)

// Variable is the environment variable that forces a Mounter by its name.
const Variable = "STRAKE_ROOTFS"

// PickOptions say where the Mounters work.
type PickOptions struct {
	Dir         string           // for EROFS, and for the trial
	UnpackedDir string           // for Unpacked
	NS          *mount.Namespace // where to mount
}

// Pick returns the Mounter to use and why: EROFS if the machine mounts an empty layer by it, Unpacked otherwise, or the one that
// STRAKE_ROOTFS names.
func Pick(ctx context.Context, o PickOptions) (m Mounter, reason string, err error) {
	switch name := os.Getenv(Variable); name {
	case "":
	case "erofs":
		return NewEROFS(o.Dir, o.NS), Variable + " says so", nil
	case "unpacked":
		return NewUnpacked(o.UnpackedDir, o.NS), Variable + " says so", nil
	default:
		return nil, "", fmt.Errorf("%s=%q: neither erofs nor unpacked: %w", Variable, name, errdefs.ErrInvalidArgument)
	}
	e := NewEROFS(o.Dir, o.NS)
	if err := e.try(ctx); err != nil {
		return NewUnpacked(o.UnpackedDir, o.NS), "erofs does not work here: " + err.Error(), nil //nolint:nilerr // the reason
	}
	return e, "the kernel mounts erofs images", nil
}

// Choose is Pick for who does not ask which and why: there is no trial before EROFS fails to mount something.
func Choose(ctx context.Context, o PickOptions) (Mounter, error) {
	if os.Getenv(Variable) != "" {
		m, _, err := Pick(ctx, o)
		return m, err
	}
	return &chosen{options: o, erofs: NewEROFS(o.Dir, o.NS)}, nil
}

// chosen is EROFS, unless that fails before it has mounted anything, and the trial does too: then it is Unpacked.
type chosen struct {
	options PickOptions
	mu      sync.Mutex
	erofs   *EROFS
	made    Mounter // nil: not chosen yet
}

// Name implements Mounter.
func (c *chosen) Name() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.made != nil {
		return c.made.Name()
	}
	return c.erofs.Name()
}

// Mount implements Mounter.
func (c *chosen) Mount(ctx context.Context, o MountOptions) (*Mounted, error) {
	c.mu.Lock()
	if c.made != nil || len(o.Layers) == 0 {
		m := c.made
		c.mu.Unlock()
		if m == nil {
			m = c.erofs
		}
		return m.Mount(ctx, o)
	}
	defer c.mu.Unlock()
	if c.options.NS.Do(mount.ProbeEROFS) == nil {
		m, err := c.erofs.Mount(ctx, o)
		if err == nil {
			c.made = c.erofs
			return m, nil
		}
		if ctx.Err() != nil || c.erofs.try(ctx) == nil {
			return nil, err
		}
	}
	c.made = NewUnpacked(c.options.UnpackedDir, c.options.NS)
	return c.made.Mount(ctx, o)
}

// try mounts an empty layer.
func (e *EROFS) try(ctx context.Context) error {
	if err := e.ns.Do(mount.ProbeEROFS); err != nil {
		return err
	}
	if err := os.MkdirAll(e.dir, 0o700); err != nil {
		return err
	}
	dir, err := os.MkdirTemp(e.dir, "try-")
	if err != nil {
		return err
	}
	defer func() { _ = os.RemoveAll(dir) }() // two small files
	var index bytes.Buffer
	empty := make([]byte, 1024) // the end of a tar
	if _, err := layer.WriteIndex(ctx, bytes.NewReader(empty), &index, nil); err != nil {
		return err
	}
	l := layer.Files{Tar: filepath.Join(dir, "tar"), Index: filepath.Join(dir, "index")}
	for path, data := range map[string][]byte{l.Tar: empty, l.Index: index.Bytes()} {
		if err := os.WriteFile(path, data, 0o600); err != nil {
			return err
		}
	}
	target := filepath.Join(dir, "target")
	if err := os.Mkdir(target, 0o700); err != nil {
		return err
	}
	return e.ns.Do(func() error {
		if err := mount.EROFS(l.Index, []string{l.Tar}, target); err != nil {
			return err
		}
		return mount.Unmount(target)
	})
}
