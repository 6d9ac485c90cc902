//go:build !linux

package userns

import (
	"context"
	"fmt"
	"io"

	"github.com/containerd/errdefs"
)

// NewPlan returns an empty Plan: user namespaces are Linux's.
func NewPlan() (Plan, error) { return Plan{Missing: "user namespaces need Linux"}, nil }

// Wait does nothing.
func Wait() error { return nil }

// Enter fails.
func (Plan) Enter(context.Context, []string, io.Reader, io.Writer, io.Writer) (int, error) {
	return 0, fmt.Errorf("user namespaces need Linux: %w", errdefs.ErrNotImplemented)
}
