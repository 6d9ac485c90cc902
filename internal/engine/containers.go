package engine

import (
	"context"
	"database/sql"
	"errors"

	"github.com/containerd/errdefs"

	"strake/internal/container"
	"strake/internal/executor"
	"strake/internal/store"
)

// Container is the record of one container.
type Container = container.Container

// containers are those of the store.
func containers(env *Env) *container.Table {
	return &container.Table{
		DB: env.Store.DB(), Root: env.Store.Root(), Gate: env.Store.Gate,
		Event: func(ctx context.Context, tx *sql.Tx, action, id string, attributes map[string]string) error {
			return store.WriteEvent(ctx, tx, store.Event{Type: "container", Action: action, Actor: id, Attributes: attributes})
		},
		Reap:    reapContainers,
		Created: func(ctx context.Context, tx *sql.Tx, c *Container) error { return recordMounts(ctx, env, tx, c) },
		Removed: func(ctx context.Context, tx *sql.Tx, c *Container) error {
			return errors.Join(volumes(env).Forget(ctx, tx, c.ID), store.UnmountImages(ctx, tx, c.ID))
		},
		Gone: func(ctx context.Context, c *Container) error { return removeAnonymous(ctx, env, c) },
	}
}

// reapContainers ends what is left of the containers of dead monitors. Where there is no runtime there are none.
func reapContainers(ctx context.Context) (err error) {
	runc, err := executor.NewRunc(executor.RuncOptions{})
	if errdefs.IsNotFound(err) {
		return nil
	}
	if err != nil {
		return err
	}
	defer closing(&err, runc.Close)
	return runc.Reap(ctx)
}

// NoSuchContainer is docker's error for a container that is not there.
func NoSuchContainer(ref string) error {
	return messageError{"No such container: " + ref, errdefs.ErrNotFound}
}

// FindContainer returns the container that ref names: an ID, the beginning of one, or a name.
func FindContainer(ctx context.Context, env *Env, ref string) (*Container, error) {
	return containers(env).Get(ctx, ref)
}

// notRunning is docker's error for a container that has no process.
func notRunning(c *Container) error {
	return messageError{"container " + c.ID + " is not running", errdefs.ErrConflict}
}
