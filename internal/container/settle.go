package container

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/container"

	"strake/internal/flock"
)

// codeLost is the exit code of a container whose monitor died, and which was killed for that.
const codeLost = 137

// patience is how long Acquire waits for who has a container for a moment: a command, or a monitor that starts or ends.
const patience = 10 * time.Second

// settle makes a record say what is true: of a container whose monitor is dead, that it has ended; nil where it is gone by that,
// or has no directory. Alive is what it is as long as somebody holds the lock alone, and those who settle share it: they wait
// for each other by another lock, that of the directory rootfs.
func (t *Table) settle(ctx context.Context, c *Container) (*Container, error) {
	lock, err := flock.TryOpen(t.Path(c.ID), flock.Shared)
	if errdefs.IsUnavailable(err) {
		c.Alive = true
		return c, nil
	}
	if err != nil {
		return nil, fmt.Errorf("container %s: %w", c.ID, err)
	}
	if lock != nil {
		defer func() { _ = lock.Close() }() // nothing was written
		if !c.State.unsettled() {
			return c, nil
		}
		turn, err := flock.Open(ctx, filepath.Join(t.Path(c.ID), "rootfs"), flock.Exclusive)
		if err != nil {
			return nil, fmt.Errorf("container %s: %w", c.ID, err)
		}
		if turn != nil {
			defer func() { _ = turn.Close() }() // nothing was written
		}
	}
	again, err := t.list(ctx, "WHERE id = $1", c.ID)
	if err != nil || len(again) == 0 {
		return nil, err
	}
	c = again[0]
	if lock == nil {
		return nil, t.Remove(ctx, c)
	}
	if !c.State.unsettled() {
		return c, nil
	}
	if err := t.Reap(ctx); err != nil {
		return nil, err
	}
	if c.Spec.HostConfig.AutoRemove || c.State.Status == container.StateRemoving {
		return nil, t.Remove(ctx, c)
	}
	c.State.Status, c.State.Pid, c.State.ExitCode, c.State.Finished = container.StateExited, 0, codeLost, t.lastSign(c)
	c.State.Error, c.State.Health = "", nil
	return c, t.SetState(ctx, c, "die", map[string]string{"exitCode": fmt.Sprint(codeLost)})
}

// unsettled reports whether a state is none that a container has that nobody looks after.
func (s *State) unsettled() bool { return s.Running() || s.Status == container.StateRemoving }

// lastSign is when a container whose monitor is dead was last known to live: when it wrote its log, or started.
func (t *Table) lastSign(c *Container) time.Time {
	now, at := time.Now().UTC(), c.State.Started
	if info, err := os.Stat(t.LogPath(c.ID)); err == nil && info.ModTime().After(at) {
		at = info.ModTime().UTC()
	}
	if at.IsZero() || at.After(now) {
		return now
	}
	return at
}

// Acquire returns the container that ref names, and its lock where nobody looks after it; no lock says that it runs. It waits
// while it is being started or about to end: a monitor that only waits for clients to read gives them up. It fails as Get does,
// and with errdefs.ErrUnavailable where somebody holds the lock too long.
func (t *Table) Acquire(ctx context.Context, ref string) (*Container, *os.File, error) {
	for start := time.Now(); ; {
		c, err := t.Get(ctx, ref)
		if err != nil || c.State.Running() {
			return c, nil, err
		}
		lock, err := flock.TryOpen(t.Path(c.ID), flock.Exclusive)
		if lock != nil {
			now, err := t.Locked(ctx, c.ID)
			if err == nil && !now.State.unsettled() {
				return now, lock, nil
			}
			if err := lock.Close(); err != nil {
				return nil, nil, err
			}
		}
		switch {
		case err != nil && !errdefs.IsUnavailable(err):
			return nil, nil, err
		case time.Since(start) > patience:
			return nil, nil, fmt.Errorf("container %s is looked after: %w", c.ID, errdefs.ErrUnavailable)
		case c.Alive && !c.State.Finished.IsZero():
			_, _ = t.Call(ctx, c.ID, Request{Op: OpDrop}) // it may have ended
		}
		select {
		case <-ctx.Done():
			return nil, nil, context.Cause(ctx)
		case <-time.After(5 * time.Millisecond):
		}
	}
}
