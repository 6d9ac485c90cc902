//go:build !linux

package rootfs

import (
	"context"
	"fmt"

	"github.com/containerd/errdefs"

	"strake/internal/mount"
)

// Variable is the environment variable that forces a Mounter by its name.
const Variable = "STRAKE_ROOTFS"

// PickOptions say where the Mounters work.
type PickOptions struct {
	Dir         string
	UnpackedDir string
	NS          *mount.Namespace
}

// Pick fails: mounts are Linux mounts.
func Pick(context.Context, PickOptions) (Mounter, string, error) {
	return nil, "", fmt.Errorf("mounts need Linux: %w", errdefs.ErrNotImplemented)
}
