package mount

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// loopTries bounds how often a free loop device is asked for: another process may take it first.
const loopTries = 64

// erofsOnLoops mounts an EROFS image by loop devices that vanish with the mount.
func erofsOnLoops(index string, devices []string, target string) (err error) {
	loops := make([]string, 0, len(devices)+1)
	for _, file := range append([]string{index}, devices...) {
		loop, err := attachLoop(file)
		if err != nil {
			return err
		}
		defer func() { _ = loop.Close() }() // the mount holds the device; without one it is released here
		loops = append(loops, loop.Name())
	}
	return erofs(loops[0], loops[1:], target)
}

// attachLoop makes a read-only loop device of file that is detached when its last user closes it.
func attachLoop(file string) (*os.File, error) {
	what := fmt.Sprintf("attach a loop device to %q", file)
	backing, err := os.Open(file)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", what, err)
	}
	defer func() { _ = backing.Close() }() // the device holds the file
	control, err := os.OpenFile("/dev/loop-control", os.O_RDWR, 0)
	if err != nil {
		return nil, failed(what, err)
	}
	defer func() { _ = control.Close() }() // nothing was written
	config := &unix.LoopConfig{Fd: uint32(backing.Fd())}
	config.Info.Flags = unix.LO_FLAGS_READ_ONLY | unix.LO_FLAGS_AUTOCLEAR
	for range loopTries {
		n, err := unix.IoctlRetInt(int(control.Fd()), unix.LOOP_CTL_GET_FREE)
		if err != nil {
			return nil, failed(what, err)
		}
		loop, err := os.OpenFile(fmt.Sprintf("/dev/loop%d", n), os.O_RDONLY, 0)
		if err != nil {
			return nil, failed(what, err)
		}
		err = unix.IoctlLoopConfigure(int(loop.Fd()), config)
		if err == nil {
			return loop, nil
		}
		_ = loop.Close() // not ours
		if !errors.Is(err, unix.EBUSY) {
			return nil, failed(what, err)
		}
	}
	return nil, failed(what, unix.EBUSY)
}
