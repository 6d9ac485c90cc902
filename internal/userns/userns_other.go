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
func (Plan) Enter(context.Context, string, []string, io.Reader, io.Writer, io.Writer) (int, error) {
	return 0, fmt.Errorf("user namespaces need Linux: %w", errdefs.ErrNotImplemented)
}

// CanJoin fails.
func CanJoin() error { return fmt.Errorf("user namespaces need Linux: %w", errdefs.ErrNotImplemented) }

// Stay does nothing.
func Stay(context.Context, string) (leave func() error, err error) {
	return func() error { return nil }, nil
}
