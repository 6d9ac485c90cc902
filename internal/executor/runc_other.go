//go:build !linux

package executor

import (
	"context"
	"fmt"

	"github.com/containerd/errdefs"
)

// errLinux is the answer of every function here: containers are Linux processes.
var errLinux = fmt.Errorf("containers need Linux: %w", errdefs.ErrNotImplemented)

// RuncOptions are the settings of a Runc.
type RuncOptions struct {
	Path     string
	StateDir string
}

// Runc is an Executor that cannot be made here.
type Runc struct{}

var _ Executor = (*Runc)(nil)

// UnifiedControllers returns none.
func UnifiedControllers() []string { return nil }

// ControllersOf returns none.
func ControllersOf(int) (controllers []string, ok bool) { return nil, false }

// NewRunc fails.
func NewRunc(RuncOptions) (*Runc, error) { return nil, errLinux }

// Run fails.
func (*Runc) Run(context.Context, Spec) (int, error) { return 0, errLinux }

// Reap fails.
func (*Runc) Reap(context.Context) error { return errLinux }

// Close does nothing.
func (*Runc) Close() error { return nil }

// MayDelegate reports false.
func MayDelegate() bool { return false }

// Delegate fails.
func (*Runc) Delegate(context.Context) error { return errLinux }

// DelegateWhereKept fails.
func (*Runc) DelegateWhereKept(context.Context) error { return errLinux }
