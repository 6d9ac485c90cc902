package build

import "syscall"

// gitProcess has git end when this process does, whose scratch it writes to: when the
// thread that starts it ends. Its helpers are in its process group.
func gitProcess() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
}
