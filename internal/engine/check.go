package engine

import (
	"context"
	"io"
	"slices"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"strake/internal/reference"
	"strake/internal/store"
)

// Finding is one thing that is wrong with a store.
type Finding = store.Finding

// StoreCheck is what was looked at, and what was found.
type StoreCheck = store.CheckResult

// Wrong counts findings: those that say that something is wrong, and those that
// only cost space.
func Wrong(findings []Finding) (wrong, leftovers int) {
	for _, f := range findings {
		if f.Kind == store.KindLeftover {
			leftovers++
		} else {
			wrong++
		}
	}
	return wrong, leftovers
}

// CheckStoreOptions say how closely to look, and what to do about what is found.
type CheckStoreOptions struct {
	Quick  bool // compare sizes and rows, read no layer
	Repair bool // put right what is wrong

	// Found, when not nil, is told what was found before anything is repaired.
	Found func(StoreCheck)
	// Did, when not nil, is told each repair, in one line.
	Did func(line string)
	// Progress, when not nil, is told of the bytes that were read, from one
	// goroutine at a time.
	Progress func(done, total int64)
}

// CheckStoreResult says what was found, and of that what is left.
type CheckStoreResult struct {
	StoreCheck
	Left []Finding // without Repair, all
}

// repairRounds bounds how often a repair goes on with what it brought to light:
// an index leads to a manifest, that to a config, and that to layers.
const repairRounds = 5

// CheckStore checks the store, beside whatever else works on it, and repairs it
// where that was asked for: with what is here first, then with what the
// repositories have that the damaged images came from or went to.
func CheckStore(ctx context.Context, env *Env, opts CheckStoreOptions) (CheckStoreResult, error) {
	found, err := env.Store.Check(ctx, store.CheckOptions{Quick: opts.Quick, Progress: opts.Progress})
	if err != nil {
		return CheckStoreResult{}, err
	}
	if opts.Found != nil {
		opts.Found(found)
	}
	result := CheckStoreResult{StoreCheck: found, Left: found.Findings}
	if !opts.Repair {
		return result, nil
	}
	repair := store.RepairOptions{Did: opts.Did, Fetch: fetchFrom(env)}
	for range repairRounds {
		if len(result.Left) == 0 {
			break
		}
		if err := env.Store.Repair(ctx, result.Left, repair); err != nil {
			return result, err
		}
		// Whatever took a damaged blob's place was verified as it came.
		again, err := env.Store.Check(ctx, store.CheckOptions{Quick: true})
		if err != nil {
			return result, err
		}
		same := slices.EqualFunc(again.Findings, result.Left, func(a, b Finding) bool { return a.Kind == b.Kind && a.What == b.What })
		if result.Left = again.Findings; same {
			break
		}
	}
	return result, nil
}

// fetchFrom reads blobs of repositories.
func fetchFrom(env *Env) func(context.Context, string, ocispec.Descriptor, int64) (io.ReadCloser, error) {
	return func(ctx context.Context, repository string, desc ocispec.Descriptor, offset int64) (io.ReadCloser, error) {
		named, err := reference.Parse(repository)
		if err != nil {
			return nil, err
		}
		repo, err := env.Remote.Repository(named)
		if err != nil {
			return nil, err
		}
		return repo.Fetch(ctx, desc, offset)
	}
}
