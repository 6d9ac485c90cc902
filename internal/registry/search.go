package registry

import (
	"context"
	"path"
	"slices"
	"strconv"
	"strings"
)

// Bounds on a search.
const (
	defaultResults = 25
	maxResults     = 100
)

// SearchResult is a repository as docker's v1 search API describes it.
type SearchResult struct {
	StarCount   int    `json:"star_count"`
	IsOfficial  bool   `json:"is_official"`
	Name        string `json:"name"`
	IsAutomated bool   `json:"is_automated"`
	Description string `json:"description"`
}

// ping is what docker asks before it searches.
func ping(c *call) error {
	c.w.Header().Set("X-Docker-Registry-Standalone", "true")
	return c.json("application/json", struct {
		Standalone bool `json:"standalone"`
	}{true})
}

// search answers docker's v1 search API by Options.Search, or with the
// repositories whose names contain the words of q.
func search(c *call) error {
	query := c.r.URL.Query()
	n := defaultResults
	if s := query.Get("n"); s != "" {
		v, err := strconv.Atoi(s)
		if err != nil || v < 1 {
			return &Error{Code: PageInvalid, Message: "invalid number of results requested"}
		}
		n = min(v, maxResults)
	}
	var results []SearchResult
	var err error
	if c.opts.Search != nil {
		results, err = c.opts.Search(c.r.Context(), query.Get("q"), n)
	} else {
		results, err = searchNames(c.r.Context(), c.reg, query.Get("q"), n)
	}
	if err != nil {
		return err
	}
	return c.json("application/json", struct {
		Query      string         `json:"query"`
		NumResults int            `json:"num_results"`
		Results    []SearchResult `json:"results"`
	}{query.Get("q"), len(results), append([]SearchResult{}, results...)})
}

// searchNames finds repositories by their names: first those that are called so,
// then those that begin so, then the others, each in order.
func searchNames(ctx context.Context, reg Lister, text string, n int) ([]SearchResult, error) {
	term := strings.ToLower(strings.TrimSpace(text))
	words := strings.Fields(term)
	var ranks [3][]SearchResult
	for name, err := range reg.Repositories(ctx, "") {
		if err != nil {
			return nil, err
		}
		if rank, ok := match(name, term, words); ok && len(ranks[rank]) < n {
			ranks[rank] = append(ranks[rank], SearchResult{Name: name})
		}
		if len(ranks[0]) == n {
			break
		}
	}
	results := slices.Concat(ranks[0], ranks[1], ranks[2])
	return results[:min(n, len(results))], nil
}

// match reports whether name has all the words, and how well it fits: 0 is best.
func match(name, term string, words []string) (rank int, ok bool) {
	for _, w := range words {
		if !strings.Contains(name, w) {
			return 0, false
		}
	}
	switch base := path.Base(name); {
	case name == term || base == term:
		return 0, true
	case strings.HasPrefix(name, term) || strings.HasPrefix(base, term):
		return 1, true
	}
	return 2, true
}
