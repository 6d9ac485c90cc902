package engine

import (
	"context"
	"errors"
	"strings"

	"github.com/containerd/errdefs"

	"strake/internal/container"
)

// RenameContainer gives a container another name. It fails with errdefs.ErrConflict where that is taken.
func RenameContainer(ctx context.Context, env *Env, ref, name string) error {
	table := containers(env)
	c, err := table.Get(ctx, ref)
	if err != nil {
		return err
	}
	name = strings.TrimPrefix(name, "/")
	switch name {
	case "":
		return messageError{"Neither old nor new names may be empty", errdefs.ErrInvalidArgument}
	case c.Name:
		return messageError{"Renaming a container with the same name as its current name", errdefs.ErrInvalidArgument}
	}
	if err := container.CheckName(name); err != nil {
		return messageError{"Error when allocating new name: " + err.Error(), errdefs.ErrInvalidArgument}
	}
	if err := table.Rename(ctx, c, name); err != nil {
		if taken, ok := errors.AsType[*container.NameError](err); ok {
			return messageError{"Error when allocating new name: " + taken.Error(), errdefs.ErrConflict}
		}
		return err
	}
	if err := networks(env).Rename(ctx, c.ID, name); err != nil {
		return err
	}
	return reload(ctx, table, c)
}

// reload tells the monitor of a container that its record was changed.
func reload(ctx context.Context, table *container.Table, c *Container) error {
	_, err := table.Call(ctx, c.ID, container.Request{Op: container.OpReload})
	if errdefs.IsUnavailable(err) {
		return nil // it does not run
	}
	return err
}
