//go:build !linux

package layer

import (
	"context"
	"fmt"

	"github.com/containerd/errdefs"

	"strake/internal/archive"
)

// Diff is for Linux only.
func Diff(context.Context, string, *archive.Writer, DiffOptions) error {
	return fmt.Errorf("diff of an overlay on this system: %w", errdefs.ErrNotImplemented)
}
