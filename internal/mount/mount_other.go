//go:build !linux

package mount

import (
	"context"
	"fmt"
	"os"

	"github.com/containerd/errdefs"
)

// errLinux is the answer of every function here: mounts are Linux mounts.
var errLinux = fmt.Errorf("mounts need Linux: %w", errdefs.ErrNotImplemented)

// New fails.
func New(context.Context) (*Namespace, error) { return nil, errLinux }

// Bare fails.
func Bare(context.Context, int) (*os.File, error) { return nil, errLinux }

// Into fails.
func Into(string, *os.File, string, bool) error { return errLinux }

// OverlayOptions are the parts of an overlay.
type OverlayOptions struct {
	Lower     []string
	Upper     string
	Work      string
	UserXattr bool
	Volatile  bool
}

// TmpfsOptions describe a tmpfs.
type TmpfsOptions struct {
	Size int64
	Mode uint32
}

// EROFS fails.
func EROFS(string, []string, string) error { return errLinux }

// Overlay fails.
func Overlay(OverlayOptions, string) error { return errLinux }

// BindOf fails.
func BindOf(int, string, string) error { return errLinux }

// Device fails.
func Device(string, string, string, string) error { return errLinux }

// Bind fails.
func Bind(string, string, bool) error { return errLinux }

// BindIn fails.
func BindIn(string, string, string, bool) error { return errLinux }

// Tmpfs fails.
func Tmpfs(TmpfsOptions, string) error { return errLinux }

// Unmount fails.
func Unmount(string) error { return errLinux }

// ProbeEROFS fails.
func ProbeEROFS() error { return errLinux }

// ProbeOverlay fails.
func ProbeOverlay() error { return errLinux }
