package engine

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/containerd/errdefs"
	registrytypes "github.com/moby/moby/api/types/registry"
)

// SearchOptions say what is searched for, and where.
type SearchOptions struct {
	Term    string              // may begin with a registry's host: registry.example/term
	Limit   int                 // 0 is 25
	Filters map[string][]string // stars, is-official, is-automated
}

// FoundRepository is a repository that a registry has found.
type FoundRepository = registrytypes.SearchResult

// Search asks a registry, Docker Hub where the term names none, for
// repositories.
func Search(ctx context.Context, env *Env, opts SearchOptions) ([]FoundRepository, error) {
	keep, err := searchFilter(opts.Filters)
	if err != nil {
		return nil, err
	}
	if strings.Contains(opts.Term, "://") {
		return nil, messageError{fmt.Sprintf("invalid repository name: repository name (%s) should not have a scheme", opts.Term), errdefs.ErrInvalidArgument}
	}
	limit := opts.Limit
	if limit == 0 {
		limit = 25
	}
	if limit < 1 || limit > 100 {
		return nil, messageError{fmt.Sprintf("limit %d is outside the range of [1, 100]", limit), errdefs.ErrInvalidArgument}
	}
	host, term := "docker.io", opts.Term
	if first, rest, ok := strings.Cut(opts.Term, "/"); ok && (strings.ContainsAny(first, ".:") || first == "localhost") {
		host, term = first, rest
	}
	if host == "docker.io" {
		term = strings.TrimPrefix(term, "library/")
	}
	reg, err := env.Remote.Registry(host)
	if err != nil {
		return nil, err
	}
	found, err := reg.Search(ctx, term, limit)
	if err != nil {
		return nil, err
	}
	return slices.DeleteFunc(found, func(r FoundRepository) bool { return !keep(r) }), nil
}

// searchFilter tells what the filters leave.
func searchFilter(filters map[string][]string) (func(FoundRepository) bool, error) {
	for name := range filters {
		if !slices.Contains([]string{"stars", "is-official", "is-automated"}, name) {
			return nil, messageError{fmt.Sprintf("invalid filter '%s'", name), errdefs.ErrInvalidArgument}
		}
	}
	automated, _, err := boolFilter(filters, "is-automated")
	if err != nil {
		return nil, err
	}
	official, byOfficial, err := boolFilter(filters, "is-official")
	if err != nil {
		return nil, err
	}
	stars := 0
	for _, s := range filters["stars"] {
		n, err := strconv.Atoi(s)
		if err != nil {
			return nil, messageError{fmt.Sprintf("invalid filter 'stars=%s': %v", s, err), errdefs.ErrInvalidArgument}
		}
		stars = max(stars, n)
	}
	return func(r FoundRepository) bool {
		return !automated && (!byOfficial || r.IsOfficial == official) && r.StarCount >= stars
	}, nil
}

// boolFilter reads a filter that is true or false.
func boolFilter(filters map[string][]string, name string) (value, given bool, err error) {
	values, given := filters[name]
	if !given {
		return false, false, nil
	}
	yes := slices.Contains(values, "true") || slices.Contains(values, "1")
	no := slices.Contains(values, "false") || slices.Contains(values, "0")
	if yes == no {
		return false, true, messageError{fmt.Sprintf("invalid filter '%s=%s'", name, values), errdefs.ErrInvalidArgument}
	}
	return yes, true, nil
}
