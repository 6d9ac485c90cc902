//go:build !linux

package executor

import (
	"context"
	"os"
	"syscall"

	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// OpenTerminal fails.
func OpenTerminal() (user, program *os.File, err error) { return nil, nil, errLinux }

// CheckStream fails.
func CheckStream(*os.File, bool) error { return errLinux }

// SetSize fails.
func SetSize(*os.File, Size) error { return errLinux }

// Protect does nothing.
func Protect() {}

// KeepFiles does nothing.
func KeepFiles() error { return nil }

// Process is that of a container, of which there are none here.
type Process struct{}

// Start fails.
func (*Runc) Start(context.Context, Spec) (*Process, error) { return nil, errLinux }

// Pid is 0.
func (*Process) Pid() int { return 0 }

// Console is nil.
func (*Process) Console() *os.File { return nil }

// Wait fails.
func (*Process) Wait(context.Context) (Exit, error) { return Exit{}, errLinux }

// Signal fails.
func (*Process) Signal(syscall.Signal) error { return errLinux }

// Resize fails.
func (*Process) Resize(Size) error { return errLinux }

// Pause fails.
func (*Process) Pause(context.Context) error { return errLinux }

// Resume fails.
func (*Process) Resume(context.Context) error { return errLinux }

// Update fails.
func (*Process) Update(*specs.LinuxResources) error { return errLinux }

// Exec fails.
func (*Process) Exec(context.Context, ExecSpec, func(func(Size))) (int, error) { return 0, errLinux }
