package engine

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/containerd/platforms"
	"github.com/opencontainers/go-digest"

	"strake/internal/store"
)

// RemoveOptions say what to remove.
type RemoveOptions struct {
	Ref     string
	Force   bool // by ID: all names too
	NoPrune bool // has no effect: an image here has no untagged parents
	Now     bool // keep nothing for Undo

	Platforms []string // only these images of an index, under all names; needs Force
}

// RemoveResult says what was removed.
type RemoveResult struct {
	Untagged []string // familiar names
	Deleted  []digest.Digest
	Freed    int64 // bytes
}

// Remove removes a name, and with its last name the image. What the image takes
// on disk stays for Undo, until its time is over. It fails with
// errdefs.ErrConflict where Force would be needed, and removes nothing then.
func Remove(ctx context.Context, env *Env, opts RemoveOptions) (RemoveResult, error) {
	wanted, err := parsePlatforms(opts.Platforms)
	if err != nil {
		return RemoveResult{}, err
	}
	if len(wanted) > 0 && !opts.Force {
		return RemoveResult{}, messageError{"Content will be removed from all images referencing this variant. Use —-force to force delete.", errdefs.ErrInvalidArgument}
	}
	remove := store.RemoveOptions{Ref: opts.Ref, Force: opts.Force, Now: opts.Now, Platforms: wanted}
	res, err := env.Store.Remove(ctx, remove)
	if errdefs.IsConflict(err) { // a container has it, perhaps one that ended with its monitor: listing them finds out
		if _, listErr := containers(env).List(ctx); listErr != nil {
			return RemoveResult{}, listErr
		}
		res, err = env.Store.Remove(ctx, remove)
	}
	if missing, ok := errors.AsType[*store.PlatformError](err); ok {
		return RemoveResult{}, messageError{fmt.Sprintf("failed to delete platform %s for image %s: %v",
			platforms.Format(missing.Platform), missing.ID, lacksPlatform(opts.Ref, missing.Platform)), errdefs.ErrNotFound}
	}
	if errdefs.IsConflict(err) {
		text := strings.TrimSuffix(err.Error(), ": "+errdefs.ErrConflict.Error())
		if at := strings.Index(text, "unable to "); at > 0 {
			text = text[at:]
		}
		return RemoveResult{}, messageError{"conflict: " + text, errdefs.ErrConflict}
	}
	if err != nil {
		return RemoveResult{}, imageError(opts.Ref, err)
	}
	return RemoveResult{Untagged: FamiliarNames(res.Untagged), Deleted: res.Deleted, Freed: res.Freed}, settle(ctx, env)
}
