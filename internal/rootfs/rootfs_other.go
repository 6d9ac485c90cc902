//go:build !linux

package rootfs

import (
	"context"
	"fmt"
	"io/fs"
	"net"

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

// errLinux is the answer of every function here.
var errLinux = fmt.Errorf("mounts need Linux: %w", errdefs.ErrNotImplemented)

// Pick fails: mounts are Linux mounts.
func Pick(context.Context, PickOptions) (Mounter, string, error) {
	return nil, "", errLinux
}

// Choose fails.
func Choose(context.Context, PickOptions) (Mounter, error) { return nil, errLinux }

// Room cannot be made here.
type Room struct{}

// Attributes are the owner and the permissions of something in a Room.
type Attributes struct {
	UID, GID int
	Mode     fs.FileMode
}

// NewRoom fails.
func NewRoom(*mount.Namespace, string) (*Room, error) { return nil, errLinux }

// Dir is "".
func (*Room) Dir() string { return "" }

// File fails.
func (*Room) File([]byte, Attributes) (string, error) { return "", errLinux }

// Dirs fails.
func (*Room) Dirs(...string) (string, error) { return "", errLinux }

// Listen fails.
func (*Room) Listen(context.Context, Attributes) (net.Listener, string, error) {
	return nil, "", errLinux
}

// Show fails.
func (*Room) Show(string, string, bool) (string, error) { return "", errLinux }

// Tmpfs fails.
func (*Room) Tmpfs(string, string, int64) (string, error) { return "", errLinux }

// Close does nothing.
func (*Room) Close() error { return nil }
