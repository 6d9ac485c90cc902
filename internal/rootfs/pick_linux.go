package rootfs

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"

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
