package network

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"strake/internal/flock"
	"strake/internal/userns"
)

// An ordinary user may make no devices and rules in the host's network namespace. His store has a room: a network namespace in the
// user namespace that its containers share, where its bridges and rules are as those of root are in the host's. A keeper, a process of
// its own, holds it while a sandbox is open, and runs the program that leads from it to the outside. When the keeper is killed the
// containers that run lose their networks, and the next one gets another room: of the others no row and no name is left (leaveLost).

// KeepCommand is the command of the command line that is Keep.
const KeepCommand = "network-keeper"

// Files of a room, in the store's root. The first holds the keeper's number and its lock, the other is locked by each sandbox, shared.
const (
	keeperFile = "networks.keeper"
	roomFile   = "networks.room"
)

// Descriptors of a keeper.
const (
	keeperRoom  = 3 // the network namespace
	keeperReady = 4 // where it says that it is ready, or why not
)

const keeperSaysReady = "ready"

// ordinary reports whether the bridges of the process's user are in a room.
func ordinary() bool { return !userns.IsRoot() }

// host calls fn in the namespace of the bridges: the host's, or the room. Where there is no room there is nothing in it, and fn is not
// called.
func (h machine) host(fn func() error) error {
	if !ordinary() {
		return fn()
	}
	room, err := h.openRoom()
	if err != nil || room == nil {
		return err
	}
	return errors.Join(inside(room, fn), room.Close())
}

// openRoom opens the room; nil: there is none.
func (h machine) openRoom() (*os.File, error) {
	path := filepath.Join(h.root, keeperFile)
	f, err := flock.TryOpen(path, flock.Shared)
	if !errdefs.IsUnavailable(err) {
		if f != nil {
			err = errors.Join(err, f.Close())
		}
		return nil, err
	}
	pid, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	room, err := os.Open(fmt.Sprintf("/proc/%s/fd/%d", pid, keeperRoom))
	if errors.Is(err, unix.ENOENT) {
		return nil, nil // it ends
	}
	if errors.Is(err, unix.EACCES) || errors.Is(err, unix.EPERM) {
		err = refuse(errdefs.ErrFailedPrecondition, "the containers that run have their networks in another user namespace")
		if joinErr := userns.CanJoin(); joinErr != nil {
			err = fmt.Errorf("%w: %w", err, joinErr)
		}
	}
	return room, err
}

// enterRoom makes sure, under the lock, that there is a room with what a sandbox needs, as long as the sandbox is open.
func (s *Sandbox) enterRoom(ctx context.Context, st *state, list []endpoint) error {
	if !ordinary() {
		return nil
	}
	if _, out := gateway(list, st); out {
		if err := Usable(); err != nil {
			return err
		}
	}
	h := s.networks.machine
	held, err := os.OpenFile(filepath.Join(h.root, roomFile), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return err
	}
	s.serve = append(s.serve, held)
	if err := flock.Wait(ctx, held, flock.Shared); err != nil { // until a keeper that ends has ended
		return err
	}
	room, err := h.openRoom()
	if err != nil {
		return err
	}
	if room != nil {
		return room.Close()
	}
	if err := s.leaveLost(ctx, st); err != nil {
		return err
	}
	return startKeeper(h.root)
}

// leaveLost drops from the rows and from st the containers that run and whose room went with a keeper that was killed: their names
// lead nowhere any more. Under the lock, where there is no room.
func (s *Sandbox) leaveLost(ctx context.Context, st *state) error {
	n := s.networks
	pid, err := os.ReadFile(filepath.Join(n.root, keeperFile))
	if errors.Is(err, fs.ErrNotExist) || err == nil && len(pid) == 0 { // a keeper that ends by itself leaves no number
		return nil
	}
	if err != nil {
		return err
	}
	var ids, names []string
	for _, other := range st.sandboxes {
		if len(st.of(other.id)) > 0 {
			ids, names = append(ids, other.id), append(names, other.name)
		}
	}
	if len(ids) == 0 {
		return nil
	}
	n.opts.Log(fmt.Sprintf("the keeper of the networks was killed, and these containers have none until they are restarted: %s", strings.Join(names, ", ")))
	st.drop(ids)
	return n.forget(ctx, ids)
}

// startKeeper makes a room and starts its keeper, which is ready then.
func startKeeper(root string) (err error) {
	room, err := NewNamespace()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, room.Close()) }()
	ready, says, err := os.Pipe()
	if err != nil {
		return err
	}
	defer func() { _ = ready.Close() }()                               // only read
	cmd := exec.Command("/proc/self/exe", "--root", root, KeepCommand) //nolint:noctx // it outlives us
	cmd.Args[0] = os.Args[0]
	cmd.ExtraFiles = []*os.File{room, says}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := errors.Join(cmd.Start(), says.Close()); err != nil {
		return fmt.Errorf("start the networks' keeper: %w", err)
	}
	said, err := io.ReadAll(io.LimitReader(ready, 4<<10))
	if text := strings.TrimSpace(string(said)); err == nil && text != keeperSaysReady {
		err = errors.New(lastLine(text))
	}
	if err != nil {
		err = fmt.Errorf("networks of an ordinary user: %w", err)
	}
	return errors.Join(err, cmd.Process.Release())
}

// Keep keeps the room of a store, which is this process's descriptor 3, until no sandbox is open any more or the program that leads
// outside has ended. Sandbox starts it, in a process of its own.
func Keep(ctx context.Context, root string) error {
	unix.CloseOnExec(keeperRoom)
	unix.CloseOnExec(keeperReady)
	room, says := os.NewFile(keeperRoom, "room"), os.NewFile(keeperReady, "ready")
	k, err := newKeeper(ctx, root, room)
	if err != nil {
		_, sayErr := io.WriteString(says, err.Error())
		return errors.Join(err, sayErr, says.Close())
	}
	_, err = io.WriteString(says, keeperSaysReady)
	if err = errors.Join(err, says.Close()); err == nil {
		err = k.wait(root)
	}
	if err == nil { // nobody is in the room
		err = k.lock.Truncate(0)
	}
	return errors.Join(err, k.close())
}

// keeper is what Keep holds.
type keeper struct {
	lock *os.File
	way  *program // to the outside; nil: there is none
}

func newKeeper(ctx context.Context, root string, room *os.File) (k *keeper, err error) {
	k = &keeper{}
	if k.lock, err = os.OpenFile(filepath.Join(root, keeperFile), os.O_RDWR|os.O_CREATE, 0o600); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, k.close())
		}
	}()
	if err := flock.Wait(ctx, k.lock, flock.Exclusive); err != nil {
		return nil, err
	}
	if err := k.lock.Truncate(0); err != nil {
		return nil, err
	}
	if _, err := fmt.Fprint(k.lock, os.Getpid()); err != nil {
		return nil, err
	}
	if err := inside(room, raiseLoopback); err != nil {
		return nil, err
	}
	if Usable() == nil {
		k.way, err = leadOut(ctx, room)
	}
	return k, err
}

// wait waits until there is nobody to keep the room for. Who comes after that waits until the process has ended.
func (k *keeper) wait(root string) error {
	held, err := os.OpenFile(filepath.Join(root, roomFile), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return err
	}
	alone := make(chan error, 1)
	go func() { alone <- flockWhenFree(held) }() // which is open until the process ends
	if k.way == nil {
		return <-alone
	}
	select {
	case err := <-alone:
		return err
	case <-k.way.ended:
		return fmt.Errorf("%s: %s", k.way.cmd.Args[0], lastLine(k.way.said.String()))
	}
}

// flockWhenFree locks a file alone; the kernel wakes it.
func flockWhenFree(f *os.File) error {
	for {
		if err := unix.Flock(int(f.Fd()), unix.LOCK_EX); !errors.Is(err, unix.EINTR) {
			return err
		}
	}
}

// close gives the room up: the next sandbox finds no keeper.
func (k *keeper) close() error {
	var err error
	if k.way != nil {
		err = k.way.Close()
	}
	return errors.Join(err, k.lock.Close())
}
