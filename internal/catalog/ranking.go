package catalog

import (
	"cmp"
	"path"
	"slices"
	"strings"
)

// fit says how well a repository fits words: 0, it is called so; 1, the name
// begins so; 2, parts of the name begin with all the words; 3, it is found by something else.
func fit(f *Found, words []string) int {
	if len(words) == 0 {
		return 0
	}
	term, base := strings.Join(words, " "), path.Base(f.Name)
	switch {
	case f.Name == term || base == term:
		return 0
	case strings.HasPrefix(f.Name, term) || strings.HasPrefix(base, term):
		return 1
	}
	for _, w := range words {
		if !begins(f.Name, w) {
			return 3
		}
	}
	return 2
}

// begins tells whether w begins a part of the name.
func begins(name, w string) bool {
	for _, part := range strings.FieldsFunc(name, func(r rune) bool { return strings.ContainsRune("/-_.", r) }) {
		if strings.HasPrefix(part, w) {
			return true
		}
	}
	return false
}

// less orders repositories as the query asks.
func (q Query) less(a, b *Found) int {
	var by int
	switch q.Sort {
	case "stars":
		by = cmp.Compare(b.Stars, a.Stars)
	case "pulls":
		by = cmp.Compare(b.Pulls, a.Pulls)
	case "updated":
		by = b.Updated.Compare(a.Updated)
	case "name":
	default:
		by = cmp.Or(cmp.Compare(a.fit, b.fit), cmp.Compare(b.popularity, a.popularity))
	}
	return cmp.Or(by, cmp.Compare(a.Name, b.Name))
}

// result ranks what was found, counts the facets and cuts out the page.
func (q Query) result(found []Found, more bool) Result {
	slices.SortFunc(found, func(a, b Found) int { return q.less(&a, &b) })
	r := Result{Total: len(found), More: more}
	kinds, systems, architectures, namespaces := map[string]int{}, map[string]int{}, map[string]int{}, map[string]int{}
	for i := range found {
		f := &found[i]
		kinds[f.Kind]++
		if f.Namespace != "" {
			namespaces[f.Namespace]++
		}
		os, arch := map[string]bool{}, map[string]bool{}
		for _, p := range f.Platforms {
			before, after, _ := strings.Cut(p, "/")
			os[before], arch[after] = true, true
		}
		count(systems, os)
		count(architectures, arch)
	}
	r.Kinds, r.Systems, r.Architectures, r.Namespaces = facets(kinds), facets(systems), facets(architectures), facets(namespaces)
	limit := q.Limit
	if limit <= 0 {
		limit = defaultPage
	}
	from := min(max(q.Offset, 0), len(found))
	r.Repositories = found[from:min(from+min(limit, maxPage), len(found))]
	return r
}

func count(counts map[string]int, values map[string]bool) {
	for v := range values {
		counts[v]++
	}
}

// facets are the values that most have, those first.
func facets(counts map[string]int) []Facet {
	list := make([]Facet, 0, len(counts))
	for v, n := range counts {
		list = append(list, Facet{v, n})
	}
	slices.SortFunc(list, func(a, b Facet) int { return cmp.Or(cmp.Compare(b.Count, a.Count), cmp.Compare(a.Value, b.Value)) })
	return list[:min(len(list), maxFacets)]
}
