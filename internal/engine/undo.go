package engine

import (
	"context"
	"fmt"
	"time"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
)

// UndoOptions say what to take back.
type UndoOptions struct {
	ID int64 // of the change; 0: the last one
}

// UndoResult says what came back.
type UndoResult struct {
	ID       int64
	What     string          // was taken back
	Names    []string        // familiar
	Images   []digest.Digest // that were gone
	Replaced []string        // names, among Names, that another image had until now
}

// Undo takes back a removal of images, or a change that moved names: the last
// one, or the one of an ID. Doing so can itself be undone where it moves a name.
// It fails with errdefs.ErrNotFound when nothing is left to be taken back.
func Undo(ctx context.Context, env *Env, opts UndoOptions) (UndoResult, error) {
	res, err := env.Store.Undo(ctx, opts.ID)
	switch {
	case errdefs.IsNotFound(err) && opts.ID == 0:
		return UndoResult{}, messageError{"nothing to undo", errdefs.ErrNotFound}
	case errdefs.IsNotFound(err):
		return UndoResult{}, messageError{fmt.Sprintf("No such change: %d (strake undo --list shows what can be undone)", opts.ID), errdefs.ErrNotFound}
	case err != nil:
		return UndoResult{}, err
	}
	return UndoResult{
		ID: res.Entry.ID, What: res.Entry.What, Names: FamiliarNames(res.Names), Images: res.Images, Replaced: FamiliarNames(res.Replaced),
	}, nil
}

// Change is one that can be undone.
type Change struct {
	ID   int64
	At   time.Time
	What string
	Held int64 // bytes on disk that are kept for it, and for no later one
}

// Changes lists the changes that can be undone, the newest first.
func Changes(ctx context.Context, env *Env) ([]Change, error) {
	entries, err := env.Store.Journal(ctx)
	if err != nil {
		return nil, err
	}
	list := make([]Change, len(entries))
	for i, e := range entries {
		list[i] = Change(e)
	}
	return list, nil
}
