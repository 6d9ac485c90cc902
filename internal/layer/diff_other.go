//go:build !linux

package layer

import (
	"context"
	"fmt"
	"os"

	"github.com/containerd/errdefs"

	"strake/internal/archive"
)

var errOverlay = fmt.Errorf("diff of an overlay on this system: %w", errdefs.ErrNotImplemented)

// Diff is for Linux only.
func Diff(context.Context, string, *archive.Writer, DiffOptions) error { return errOverlay }

// WriteTree is for Linux only.
func WriteTree(context.Context, *os.File, *archive.Writer, TreeOptions) error { return errOverlay }

// UpperChanges is for Linux only.
func UpperChanges(context.Context, string, *FS, func(string) bool) ([]Change, error) {
	return nil, errOverlay
}
