package mount

import (
	"errors"
	"fmt"

	"golang.org/x/sys/unix"
)

// ProbeEROFS returns nil if the kernel has EROFS and lets the calling thread mount it, and why not otherwise.
func ProbeEROFS() error { return probe("erofs") }

// ProbeOverlay returns nil if the kernel has overlayfs and lets the calling thread mount it, and why not otherwise.
func ProbeOverlay() error { return probe("overlay") }

// probe asks for a context of a file system, which loads its module and mounts nothing.
func probe(fstype string) error {
	fs, err := unix.Fsopen(fstype, unix.FSOPEN_CLOEXEC)
	if err != nil {
		return failed(fmt.Sprintf("use the %s file system", fstype), err)
	}
	if err := unix.Close(fs); err != nil && !errors.Is(err, unix.EINTR) {
		return failed(fmt.Sprintf("use the %s file system", fstype), err)
	}
	return nil
}
