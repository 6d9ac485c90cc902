package engine

import (
	"context"

	"strake/internal/store"
)

// Usage is what the store takes on disk.
type Usage = store.Usage

// ImageUsage is what one image takes on disk.
type ImageUsage = store.ImageUsage

// DiskUsage measures the store: every byte under its root is counted once.
func DiskUsage(ctx context.Context, env *Env) (Usage, error) { return env.Store.Usage(ctx) }
