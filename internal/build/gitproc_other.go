//go:build !linux

package build

import "syscall"

// gitProcess has the helpers of git in its process group.
func gitProcess() *syscall.SysProcAttr { return &syscall.SysProcAttr{Setpgid: true} }
