package executor

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"
)

// A memoryWatch finds out whether the kernel killed a process of a step for want of memory, though the runtime removes the step's
// cgroup when it ends. A cgroup of version 2 is made inside another one, which counts what happens in it and stays. Version 1 counts in
// the cgroup alone: an eventfd is told each time that memory runs out in it, and once more when it goes.
type memoryWatch struct {
	outer string   // of version 2, below cgroupRoot; "" = version 1
	dir   string   // of version 1
	event *os.File // likewise
	ended chan struct{}
	out   bool // memory ran out; to be read when ended is closed
}

// lastWord is how long an eventfd is waited for whose last count may not be there yet, though the cgroup has gone.
const lastWord = 100 * time.Millisecond

// limitsMemory reports whether the container has less memory than there is.
func (s *Spec) limitsMemory() bool {
	r := s.Isolation.Resources
	return r != nil && r.Memory != nil && r.Memory.Limit != nil && *r.Memory.Limit > 0
}

// watchMemory begins to watch a step that has a limit; without one, or where the kernel cannot tell, it returns nil.
func watchMemory(x *run) *memoryWatch {
	if !x.spec.AsStep || !x.spec.limitsMemory() {
		return nil
	}
	cgroup := path.Join(x.runc.place.inner(x.spec.CgroupParent), cgroupName(x.owner.dir, x.spec.ID))
	switch x.runc.cgroups {
	case cgroupNone:
		return nil
	case cgroupUnified:
		return &memoryWatch{outer: cgroup}
	}
	w := &memoryWatch{dir: filepath.Join(cgroupRoot, "memory", cgroup), ended: make(chan struct{})}
	if err := w.listen(); err != nil {
		return nil // the step runs all the same
	}
	go w.read()
	return w
}

// listen makes the cgroup, which the runtime finds, and its eventfd.
func (w *memoryWatch) listen() (err error) {
	if err := os.MkdirAll(w.dir, 0o755); err != nil { //nolint:gosec // as the runtime makes them
		return err
	}
	fd, err := unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK)
	if err != nil {
		return err
	}
	w.event = os.NewFile(uintptr(fd), "eventfd")
	defer func() {
		if err != nil {
			err = errors.Join(err, w.event.Close())
		}
	}()
	control, err := os.Open(w.control())
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, control.Close()) }()
	return os.WriteFile(filepath.Join(w.dir, "cgroup.event_control"), fmt.Appendf(nil, "%d %d", fd, control.Fd()), 0) // it is there
}

func (w *memoryWatch) control() string { return filepath.Join(w.dir, "memory.oom_control") }

// read counts until memory ran out or the eventfd has nothing more to say.
func (w *memoryWatch) read() {
	defer close(w.ended)
	count := make([]byte, 8)
	told := uint64(0)
	for {
		if _, err := w.event.Read(count); err != nil {
			return
		}
		told += binary.NativeEndian.Uint64(count)
		if told > 1 || exists(w.control()) { // else it says that the cgroup goes
			w.out = true
			return
		}
	}
}

// verdict ends the watch of a step that has ended, and reports whether memory ran out. Failed says that the step failed.
func (w *memoryWatch) verdict(failed bool) bool {
	if w.outer != "" {
		return failed && countsKill(filepath.Join(cgroupRoot, w.outer, "memory.events"))
	}
	wait := time.Duration(0)
	if failed {
		wait = lastWord
	}
	_ = w.event.SetReadDeadline(time.Now().Add(wait)) // an eventfd has deadlines
	<-w.ended
	return w.out && failed
}

// close removes what the watch made and the runtime did not remove.
func (w *memoryWatch) close(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), destroyTimeout)
	defer cancel()
	if w.outer != "" {
		return removeCgroup(ctx, filepath.Join(cgroupRoot, w.outer))
	}
	return errors.Join(w.event.Close(), removeCgroup(ctx, w.dir))
}
