//go:build !linux

package archive

import (
	"context"
	"fmt"
	"io"

	"github.com/containerd/errdefs"
)

// Extract is for Linux only.
func Extract(context.Context, io.Reader, string, ExtractOptions) error {
	return fmt.Errorf("extract a layer on this system: %w", errdefs.ErrNotImplemented)
}
