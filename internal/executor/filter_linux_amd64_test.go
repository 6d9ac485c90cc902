package executor_test

import "golang.org/x/sys/unix"

// slowCalls are those of this architecture alone that TestProbe must not make.
func slowCalls() []uintptr {
	return []uintptr{
		unix.SYS_FORK, unix.SYS_VFORK, unix.SYS_PAUSE, unix.SYS_ALARM, unix.SYS_POLL, unix.SYS_SELECT, unix.SYS_DUP2,
		unix.SYS_ARCH_PRCTL, 335, 336, // uretprobe and uprobe are traps, not calls
	}
}
