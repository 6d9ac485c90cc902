package engine

import (
	"context"
	"fmt"
	"maps"
	"math"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"

	"strake/internal/store"
)

// PruneOptions say what to remove. The zero value removes what a crash left.
type PruneOptions struct {
	What   string       // how Undo calls it
	Images *PruneImages // nil: none
	Cache  *PruneCache  // nil: none

	Containers *PruneContainersOptions // nil: none
	Networks   *PruneNetworksOptions   // nil: none
	Volumes    *PruneVolumesOptions    // nil: none

	Undo   bool // all that is kept for Undo goes too
	Now    bool // nothing is kept for Undo
	DryRun bool // tell what would go, and remove nothing
}

// PruneImages say which images to remove.
type PruneImages struct {
	All     bool // not only those without a tag
	Filters map[string][]string
}

// PruneCache say which part of the build cache to remove.
type PruneCache struct {
	All     bool                // also what images share, and extracted chains; with no other condition, the history of builds
	Filters map[string][]string // BuildKit's: one value each; until is unused-for; a key may end in ! or ~

	MaxUsed  int64 // bytes that may stay; 0: see the others
	MinFree  int64 // bytes that are to be free on the file system
	Reserved int64 // bytes that stay in any case
}

// CacheRecord is one thing that builds can make again.
type CacheRecord = store.CacheRecord

// PruneResult says what went, in order, or would go.
type PruneResult struct {
	Images     []RemoveResult
	Containers []string // IDs
	Networks   []string
	Volumes    []string
	Cache      []CacheRecord
	Leftovers  []digest.Digest // blobs that no image, cache or process needed
	Freed      int64           // bytes on disk
	Held       int64           // bytes on disk that stay until Undo's time is over
	Until      time.Duration   // from now on, how long that is
}

// Prune removes images and build cache that nobody uses, in one transaction, with
// all that nothing needs then. Pinned images stay. A dry run tells exactly what
// the same call would remove at that moment, and how many bytes on disk.
func Prune(ctx context.Context, env *Env, opts PruneOptions) (PruneResult, error) {
	todo := store.PruneOptions{What: opts.What, Undo: opts.Undo, Now: opts.Now, DryRun: opts.DryRun}
	if opts.Images != nil {
		filters := maps.Clone(opts.Images.Filters)
		if filters == nil {
			filters = map[string][]string{}
		}
		if len(filters["until"]) > 1 {
			return PruneResult{}, messageError{"more than one until filter specified", errdefs.ErrInvalidArgument}
		}
		if !opts.Images.All {
			filters["dangling"] = append(slices.Clone(filters["dangling"]), "true")
		}
		var err error
		if todo.Images, err = imageFilter(ctx, env, ImagesOptions{All: true, Filters: filters}); err != nil {
			return PruneResult{}, err
		}
	}
	if opts.Cache != nil {
		keep, err := cacheFilter(opts.Cache.Filters)
		if err != nil {
			return PruneResult{}, err
		}
		free, err := env.Store.Free()
		if err != nil {
			return PruneResult{}, err
		}
		todo.Builds = opts.Cache.everything()
		todo.Cache = func(list []CacheRecord) []CacheRecord { return opts.Cache.choose(list, keep, free) }
	}
	var containers PruneContainersResult
	if opts.Containers != nil {
		opts.Containers.DryRun = opts.DryRun
		var err error
		if containers, err = PruneContainers(ctx, env, *opts.Containers); err != nil {
			return PruneResult{}, err
		}
	}
	var networks []string
	if opts.Networks != nil {
		opts.Networks.DryRun = opts.DryRun
		var err error
		if networks, err = PruneNetworks(ctx, env, *opts.Networks); err != nil {
			return PruneResult{}, err
		}
	}
	var volumes PruneVolumesResult
	if opts.Volumes != nil {
		opts.Volumes.DryRun = opts.DryRun
		var err error
		if volumes, err = PruneVolumes(ctx, env, *opts.Volumes); err != nil {
			return PruneResult{}, err
		}
	}
	res, err := env.Store.Prune(ctx, todo)
	if err != nil {
		return PruneResult{}, err
	}
	out := PruneResult{
		Containers: containers.Containers, Networks: networks, Volumes: volumes.Volumes, Cache: res.Cache, Leftovers: res.Leftovers,
		Freed: res.Freed + volumes.Freed + containers.Freed, Held: res.Held, Until: env.Settings.UndoWindow,
	}
	for _, img := range res.Images {
		out.Images = append(out.Images, RemoveResult{Untagged: FamiliarNames(img.Untagged), Deleted: img.Deleted})
	}
	if opts.DryRun {
		return out, nil
	}
	freed, err := env.Store.Settle(ctx)
	if freed >= out.Held { // the disk is nearly full: nothing is held on it
		out.Freed, out.Held = out.Freed+out.Held, 0
	}
	return out, err
}

// settle ends a verb that added to the store or removed from it: what undo has
// kept for long enough goes, and what is more than the budget.
func settle(ctx context.Context, env *Env) error {
	_, err := env.Store.Settle(ctx)
	return err
}

// everything reports whether no condition leaves anything over.
func (o *PruneCache) everything() bool {
	for _, values := range o.Filters {
		if len(values) > 0 {
			return false
		}
	}
	return o.All && o.MaxUsed == 0 && o.MinFree == 0 && o.Reserved == 0
}

// choose applies the filters, and then BuildKit's rules of how much may stay.
func (o *PruneCache) choose(list []CacheRecord, keep func(*CacheRecord) bool, free int64) []CacheRecord {
	var chosen []CacheRecord
	var total int64
	for i := range list {
		r := &list[i]
		if !r.Shared {
			total += r.Size
		}
		if r.InUse || !o.All && (r.Shared || r.Kind == store.KindUnpacked) || !keep(r) {
			continue
		}
		chosen = append(chosen, *r)
	}
	stays := o.MaxUsed
	if excess := o.MinFree - free; excess > 0 {
		if stays == 0 {
			stays = math.MaxInt64
		}
		stays = max(min(stays, total-excess), 0)
	}
	stays = max(stays, o.Reserved)
	if o.MaxUsed == 0 && o.MinFree == 0 && o.Reserved == 0 {
		return chosen
	}
	for i := range chosen {
		if total <= stays {
			return chosen[:i]
		}
		if !chosen[i].Shared {
			total -= chosen[i].Size
		}
	}
	return chosen
}

// cacheFilter makes one test of BuildKit's filters, all of which must hold.
func cacheFilter(filters map[string][]string) (func(*CacheRecord) bool, error) {
	if len(filters["until"]) > 0 && len(filters["unused-for"]) > 0 {
		return nil, messageError{`conflicting filters "until" and "unused-for"`, errdefs.ErrInvalidArgument}
	}
	var tests []func(*CacheRecord) bool
	for _, name := range slices.Sorted(maps.Keys(filters)) {
		if len(filters[name]) > 1 {
			return nil, messageError{fmt.Sprintf("%q filter expects only one value", name), errdefs.ErrInvalidArgument}
		}
		for _, value := range filters[name] {
			test, err := cacheTest(name, value)
			if err != nil {
				return nil, err
			}
			tests = append(tests, test)
		}
	}
	return func(r *CacheRecord) bool {
		return !slices.ContainsFunc(tests, func(test func(*CacheRecord) bool) bool { return !test(r) })
	}, nil
}

func cacheTest(name, value string) (func(*CacheRecord) bool, error) {
	if name == "id" { // a part of it, as buildx has it
		name = "id~"
	}
	key := strings.TrimRight(name, "!~")
	if key == "until" || key == "unused-for" {
		age, err := parseAge(value)
		if err != nil {
			return nil, err
		}
		at := time.Now().Add(-age)
		return func(r *CacheRecord) bool { return r.Used.Before(at) }, nil
	}
	fields := map[string]func(*CacheRecord) string{
		"id": func(r *CacheRecord) string { return r.ID }, "type": func(r *CacheRecord) string { return r.Kind },
		"description": func(r *CacheRecord) string { return r.Step },
		"inuse":       func(r *CacheRecord) string { return fmt.Sprint(r.InUse) },
		"shared":      func(r *CacheRecord) string { return fmt.Sprint(r.Shared) },
		"private":     func(r *CacheRecord) string { return fmt.Sprint(!r.Shared) },
		"mutable":     func(r *CacheRecord) string { return fmt.Sprint(r.Mutable()) },
		"immutable":   func(r *CacheRecord) string { return fmt.Sprint(!r.Mutable()) },
	}
	field, ok := fields[key]
	if !ok {
		return nil, messageError{fmt.Sprintf("invalid filter '%s'", key), errdefs.ErrInvalidArgument}
	}
	if value == "" && slices.Contains([]string{"inuse", "shared", "private", "mutable", "immutable"}, key) {
		value = "true"
	}
	switch strings.TrimPrefix(name, key) {
	case "":
		return func(r *CacheRecord) bool { return field(r) == value }, nil
	case "!":
		return func(r *CacheRecord) bool { return field(r) != value }, nil
	case "~":
		pattern, err := regexp.Compile(value)
		if err != nil {
			return nil, messageError{fmt.Sprintf("invalid filter '%s=%s': %v", name, value, err), errdefs.ErrInvalidArgument}
		}
		return func(r *CacheRecord) bool { return pattern.MatchString(field(r)) }, nil
	}
	return nil, messageError{fmt.Sprintf("invalid filter '%s'", name), errdefs.ErrInvalidArgument}
}
