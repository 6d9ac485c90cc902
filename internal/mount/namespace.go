// Package mount makes Linux mounts: overlay, erofs, bind and tmpfs, by the new mount API (fsopen, fsmount, move_mount).
//
// A Namespace is a private mount namespace that lives on one operating system thread: what is mounted in it is seen by that
// thread and by the processes started from it, and nowhere else. It has no name and no file, so when the process dies, in
// whatever way, the kernel takes its mounts away with the last of those processes.
//
// The functions that mount work on the namespace of the calling thread: call them from within Namespace.Do.
package mount

import (
	"fmt"
	"sync"

	"github.com/containerd/errdefs"
)

// Namespace is a private mount namespace on a thread of its own. Its methods may be called from any goroutine.
type Namespace struct {
	mu     sync.RWMutex // held shared while a job is handed over, exclusively to close
	closed bool
	jobs   chan job
	ended  chan struct{} // closed when the thread is about to end
}

// A job is a function for the namespace's thread and the place for its result.
type job struct {
	run  func() error
	done chan error
}

// Do runs fn on the namespace's thread and returns its error. Calls are serial: fn must not call Do, must return (no
// runtime.Goexit) and should be short; of a long-lived child only the start belongs here, the wait does not. Goroutines that
// fn starts run outside of the namespace; processes that fn starts run inside.
func (ns *Namespace) Do(fn func() error) error {
	ns.mu.RLock()
	defer ns.mu.RUnlock()
	if ns.closed {
		return fmt.Errorf("mount namespace is closed: %w", errdefs.ErrFailedPrecondition)
	}
	j := job{run: fn, done: make(chan error, 1)}
	ns.jobs <- j
	return <-j.done
}

// Close ends the namespace's thread after the calls of Do under way. The mounts vanish with the last process that uses them;
// nobody needs to unmount them one by one. Closing twice is harmless.
func (ns *Namespace) Close() error {
	ns.mu.Lock()
	defer ns.mu.Unlock()
	if !ns.closed {
		ns.closed = true
		close(ns.jobs)
		<-ns.ended
	}
	return nil
}

// serve runs the jobs until Close.
func (ns *Namespace) serve() {
	defer close(ns.ended)
	for j := range ns.jobs {
		j.done <- j.run()
	}
}
