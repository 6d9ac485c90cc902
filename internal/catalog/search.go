package catalog

import (
	"cmp"
	"context"
	"database/sql"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/opencontainers/go-digest"

	"strake/internal/auth"
	"strake/internal/registry"
	"strake/internal/sqldb"
)

// Kinds of repositories.
const (
	Official  = "official"
	Verified  = "verified"
	Community = "community"
)

// Bounds on a search.
const (
	maxQuery     = 200  // bytes of text
	maxWords     = 6    // that count
	minWord      = 3    // characters, for the index
	candidates   = 1000 // that are ranked and counted: the most popular that match
	lookedAt     = 4000 // matches of the text that the filters are tried on
	maxPage      = 100  // results at once
	defaultPage  = 25   //
	minHexPrefix = 6    // digits of a digest
	maxFacets    = 20   // values of one facet
)

// Query says what to search for. The zero Query finds everything.
type Query struct {
	// Text is words, of which each must be in a repository's name, description or
	// labels, or the beginning of a digest. Upper case does not matter.
	Text string
	// Facets; "" is any.
	Kind         string
	OS           string
	Architecture string
	Namespace    string
	Starred      bool // by the caller

	Sort   string // "", by how well it fits; "stars", "pulls", "updated", "name"
	Limit  int    // 0 is 25; 100 at most
	Offset int
}

// Found is a repository of a Result.
type Found struct {
	Name        string    `json:"name"`
	Namespace   string    `json:"namespace"`
	Description string    `json:"description"`
	Kind        string    `json:"kind"`
	Public      bool      `json:"public"`
	Stars       int64     `json:"stars"`
	Pulls       int64     `json:"pulls"`
	Updated     time.Time `json:"updated"`   // zero: nothing was pushed
	Platforms   []string  `json:"platforms"` // linux/amd64

	id         int64
	popularity int64
	fit        int // how well it fits: less is better
}

// Facet is a value that some of the repositories found have.
type Facet struct {
	Value string `json:"value"`
	Count int    `json:"count"`
}

// Result is what was found. The facets count what all that was found has,
// the values asked for included.
type Result struct {
	Repositories  []Found `json:"repositories"`
	Total         int     `json:"total"`
	More          bool    `json:"more"` // there are more than Total, and the counts are of the most popular ones
	Kinds         []Facet `json:"kinds"`
	Systems       []Facet `json:"os"`
	Architectures []Facet `json:"architectures"`
	Namespaces    []Facet `json:"namespaces"`
}

// Search finds repositories that the caller may read. What fits by its name comes
// first, then what is popular.
func (c *Catalog) Search(ctx context.Context, q Query) (Result, error) {
	words := wordsOf(q.Text)
	var found []Found
	more := false
	err := c.db.View(ctx, func(tx *sql.Tx) error {
		s := &search{tx: tx, dialect: c.db.Dialect(), id: auth.From(ctx), query: q, words: words, found: map[int64]Found{}}
		if err := s.run(ctx); err != nil {
			return err
		}
		found, more = slices.Collect(maps.Values(s.found)), s.more
		return nil
	})
	if err != nil {
		return Result{}, fmt.Errorf("search: %w", err)
	}
	return q.result(found, more), nil
}

// wordsOf are the words of a text, as many as count.
func wordsOf(text string) []string {
	if len(text) > maxQuery {
		text = text[:maxQuery]
	}
	text = strings.Map(func(r rune) rune {
		if r < ' ' || r == utf8.RuneError || r == '%' || r == '\\' {
			return ' '
		}
		return r
	}, strings.ToLower(text))
	words := strings.Fields(text)
	return words[:min(len(words), maxWords)]
}

// search is a Search in its transaction.
type search struct {
	tx      *sql.Tx
	dialect sqldb.Dialect
	id      auth.Identity
	query   Query
	words   []string
	found   map[int64]Found
	more    bool // than were looked at
}

// where is a condition in the making. The caller's account is $1.
type where struct {
	conditions []string
	args       []any
}

// add adds a condition; each ? is the next argument.
func (w *where) add(condition string, args ...any) {
	for _, a := range args {
		w.args = append(w.args, a)
		condition = strings.Replace(condition, "?", fmt.Sprintf("$%d", len(w.args)), 1)
	}
	w.conditions = append(w.conditions, condition)
}

func (w *where) String() string { return strings.Join(w.conditions, " AND ") }

// mine is a condition on a repository r: what the account $1 may read although it
// is not public. It is one list of few rows, from which a plan begins; conditions
// with OR between them would be tried on every repository.
const mine = `r.id IN (SELECT i.id FROM accounts a JOIN repositories i ON i.namespace = a.name WHERE a.id = $1
	UNION ALL SELECT i.id FROM members m JOIN accounts o ON o.id = m.organization JOIN repositories i ON i.namespace = o.name WHERE m.account = $1 AND m.owner = 1
	UNION ALL SELECT g.repository FROM grants g WHERE g.account = $1
	UNION ALL SELECT g.repository FROM team_members tm JOIN grants g ON g.team = tm.team WHERE tm.account = $1)`

// Each query names the index that it means: a column with a + before it is not
// looked up in one, lest the planner reads all public repositories for a few.

// where begins a condition.
func (s *search) where() *where { return &where{args: []any{s.id.Account}} }

// filters begins a condition: the facets that were asked for, and what the
// caller's token allows.
func (s *search) filters() *where { return s.filter(s.where()) }

// filter adds the filters to a condition.
func (s *search) filter(w *where) *where {
	q := s.query
	if q.Kind != "" {
		w.add("r.kind = ?", q.Kind)
	}
	if q.Namespace != "" {
		w.add("r.namespace = ?", q.Namespace)
	}
	if q.OS != "" || q.Architecture != "" {
		w.add("r.platforms LIKE ?", "% "+cmp.Or(wildless(q.OS), "%")+"/"+cmp.Or(wildless(q.Architecture), "%")+" %")
	}
	if q.Starred {
		w.add("r.id IN (SELECT repository FROM stars WHERE account = $1)")
	}
	if s.id.Scopes != nil {
		var allowed []string
		for _, scope := range s.id.Scopes {
			if scope.Role < auth.Read {
				continue
			}
			prefix, many := strings.CutSuffix(scope.Repository, "*")
			w.args = append(w.args, prefix)
			of := "r.name = $%[1]d"
			if many {
				of = "substr(r.name, 1, length($%[1]d)) = $%[1]d"
			}
			allowed = append(allowed, fmt.Sprintf(of, len(w.args)))
		}
		w.add("(" + strings.Join(append(allowed, "1 = 0"), " OR ") + ")")
	}
	return w
}

// wildless takes out what LIKE would take for anything else than itself, but _.
func wildless(s string) string { return strings.NewReplacer("%", "", `\\`, "").Replace(s) }

// all tells whether the caller may read every repository.
func (s *search) all() bool { return s.id.System || s.id.Admin }

// run collects the candidates.
func (s *search) run(ctx context.Context) error {
	long := slices.DeleteFunc(slices.Clone(s.words), func(w string) bool { return utf8.RuneCountInString(w) < minWord })
	if len(s.words) == 0 {
		return s.browse(ctx)
	}
	if err := s.byName(ctx); err != nil {
		return err
	}
	if len(s.words) == 1 && len(long) == 0 {
		return s.byInitials(ctx, s.words[0])
	}
	if prefix := digestPrefix(s.words); prefix != "" {
		if err := s.byDigest(ctx, prefix); err != nil {
			return err
		}
	}
	if len(long) == 0 {
		return nil
	}
	return s.byText(ctx, long)
}

// browse finds the most popular repositories.
func (s *search) browse(ctx context.Context) error {
	w := s.filters()
	order := "ORDER BY r.popularity DESC, r.id"
	if s.query.Namespace != "" || s.query.Starred { // of few repositories
		order = "ORDER BY +r.popularity DESC"
	}
	switch {
	case s.all():
		return s.collect(ctx, w, order, nil)
	case s.id.Account != 0:
		own := s.filters()
		own.add("+r.public = 0 AND " + mine)
		if err := s.collect(ctx, own, "ORDER BY +r.popularity DESC", nil); err != nil {
			return err
		}
	}
	if strings.Contains(order, "+") {
		w.add("+r.public = 1")
	} else {
		w.add("r.public = 1")
	}
	return s.collect(ctx, w, order, nil)
}

// byInitials finds repositories whose name, with or without their namespace, begins
// with one or two characters. There is an index for each of both.
func (s *search) byInitials(ctx context.Context, initials string) error {
	for _, column := range []string{"base", "name"} {
		begins := fmt.Sprintf("substr(r.%s, 1, %d) = ?", column, utf8.RuneCountInString(initials))
		if !s.all() && s.id.Account != 0 {
			own := s.filters()
			own.add("+r.public = 0 AND " + mine)
			own.add(begins, initials)
			if err := s.collect(ctx, own, "ORDER BY +r.popularity DESC", nil); err != nil {
				return err
			}
		}
		for _, public := range s.publics() {
			w := s.filters()
			w.add("r.public = ?", public)
			w.add(begins, initials)
			if err := s.collect(ctx, w, "ORDER BY r.popularity DESC, r.id", nil); err != nil {
				return err
			}
		}
	}
	return nil
}

// publics are the values of public that everything which the caller sees has, but for what is theirs.
func (s *search) publics() []int {
	if s.all() {
		return []int{1, 0}
	}
	return []int{1}
}

// byName finds repositories that are called as the query says, with and without
// their namespace.
func (s *search) byName(ctx context.Context) error {
	term := strings.Join(s.words, " ")
	w := s.filters()
	w.add("(r.base = ? OR r.name = ?)", term, term)
	s.visible(w)
	return s.collect(ctx, w, "ORDER BY +r.popularity DESC", nil)
}

// visible adds what the caller may read.
func (s *search) visible(w *where) {
	switch {
	case s.all():
	case s.id.Account == 0:
		w.add("+r.public = 1")
	default:
		w.add("(+r.public = 1 OR " + mine + ")")
	}
}

// digestPrefix is the beginning of a digest that the query is, or "".
func digestPrefix(words []string) string {
	if len(words) != 1 {
		return ""
	}
	algorithm, hex, ok := strings.Cut(words[0], ":")
	if !ok {
		algorithm, hex = string(digest.SHA256), words[0]
	}
	if len(hex) < minHexPrefix || strings.Trim(hex, "0123456789abcdef") != "" {
		return ""
	}
	return algorithm + ":" + hex
}

// byDigest finds repositories with a manifest whose digest begins so and which is
// not held for a review.
func (s *search) byDigest(ctx context.Context, prefix string) error {
	first := func(f *Found) bool { f.fit = -1; return true }
	if !s.all() && s.id.Account != 0 {
		w := s.filters()
		w.add("+r.public = 0 AND " + mine)
		w.add("EXISTS (SELECT 1 FROM manifests m WHERE m.repository = r.id AND m.held = 0 AND m.digest >= ? AND m.digest < ?)", prefix, prefix+"g")
		if err := s.collect(ctx, w, "ORDER BY +r.popularity DESC", first); err != nil {
			return err
		}
	}
	hits := s.where()
	hits.add("held = 0 AND digest >= ? AND digest < ?", prefix, prefix+"g")
	return s.amongHits(ctx, "SELECT repository AS hit FROM manifests", hits, "", "r.id = h.hit", "ORDER BY +r.popularity DESC", first)
}

// byText finds repositories in whose text the words are, public ones by the
// index, the most popular first.
func (s *search) byText(ctx context.Context, words []string) error {
	if !s.all() && s.id.Account != 0 {
		w := s.filters()
		w.add("+r.public = 0 AND " + mine)
		for _, word := range words { // an index would find everybody's
			w.add("EXISTS (SELECT 1 FROM repository_texts t WHERE t.rowid = r.text_row AND t.text || '' LIKE ?)", "%"+word+"%")
		}
		if err := s.collect(ctx, w, "ORDER BY +r.popularity DESC", s.short); err != nil {
			return err
		}
	}
	if s.dialect == sqldb.PostgreSQL {
		return s.byTextPostgreSQL(ctx, words)
	}
	hits := s.where()
	// FTS5's own operator: LIKE would read each text again.
	hits.add("text MATCH ?", `"`+strings.Join(doubled(words), `" AND "`)+`"`)
	return s.amongTexts(ctx, hits)
}

// amongTexts collects repositories by their texts, in the order of those.
func (s *search) amongTexts(ctx context.Context, hits *where) error {
	if !s.all() {
		hits.add("rowid < ?", int64(privateRows))
	}
	return s.amongHits(ctx, "SELECT rowid AS hit FROM repository_texts", hits, "ORDER BY rowid", "r.id = h.hit & 1099511627775", "ORDER BY h.hit", s.short)
}

// doubled are words as FTS5 has them between quotes.
func doubled(words []string) []string {
	list := make([]string, len(words))
	for i, w := range words {
		list[i] = strings.ReplaceAll(w, `"`, `""`)
	}
	return list
}

// looked is how many hits are looked at.
func (s *search) looked() int {
	if len(s.filters().conditions) > 0 {
		return lookedAt
	}
	return candidates + 1
}

// amongHits collects repositories r among the first hits of another table, those
// that the filters let through and that are public, or all for who sees all.
func (s *search) amongHits(ctx context.Context, from string, hits *where, first, on, order string, keep func(*Found) bool) error {
	w := s.filter(&where{args: slices.Clone(hits.args)})
	looked := s.looked()
	if !s.all() {
		w.add("+r.public = 1")
	}
	table := fmt.Sprintf("(%s WHERE %s AND CAST($1 AS BIGINT) >= 0 %s LIMIT %d) AS h", from, hits, first, looked)
	if err := s.collectFrom(ctx, table+" JOIN repositories r ON "+on, w, order, keep); err != nil || s.more || looked < lookedAt {
		return err
	}
	n := 0
	err := s.tx.QueryRowContext(ctx, "SELECT count(*) FROM "+table, hits.args...).Scan(&n)
	s.more = n == looked
	return err
}

// short tells whether the words that are too short for the index are in a
// repository's name or description.
func (s *search) short(f *Found) bool {
	for _, w := range s.words {
		if utf8.RuneCountInString(w) < minWord && !strings.Contains(f.Name, w) && !strings.Contains(strings.ToLower(f.Description), w) {
			return false
		}
	}
	return true
}

// collect adds the repositories that fulfil w to what was found.
func (s *search) collect(ctx context.Context, w *where, order string, keep func(*Found) bool) error {
	return s.collectFrom(ctx, "repositories r", w, order, keep)
}

func (s *search) collectFrom(ctx context.Context, from string, w *where, order string, keep func(*Found) bool) error {
	w.add("CAST($1 AS BIGINT) >= 0") // it is not in every condition
	query := "SELECT r.id, r.name, r.namespace, r.description, r.kind, r.public, r.stars, r.pulls, r.pushed, r.platforms, r.popularity FROM " +
		from + " WHERE " + w.String() + " " + order + fmt.Sprintf(" LIMIT %d", candidates+1)
	n := 0
	return scanAll(ctx, s.tx, query, w.args, func(rows *sql.Rows) error {
		var f Found
		var public int
		var pushed int64
		var platforms string
		if err := rows.Scan(&f.id, &f.Name, &f.Namespace, &f.Description, &f.Kind, &public, &f.Stars, &f.Pulls, &pushed, &platforms, &f.popularity); err != nil {
			return err
		}
		if n++; n > candidates {
			s.more = true
			return nil
		}
		f.Public, f.Updated, f.Platforms = public == 1, unix(pushed), strings.Fields(platforms)
		f.fit = fit(&f, s.words)
		if keep == nil || keep(&f) {
			if _, ok := s.found[f.id]; !ok {
				s.found[f.id] = f
			}
		}
		return nil
	})
}

// DockerSearch is Search for docker's v1 search API.
func (c *Catalog) DockerSearch(ctx context.Context, text string, limit int) ([]registry.SearchResult, error) {
	found, err := c.Search(ctx, Query{Text: text, Limit: limit})
	if err != nil {
		return nil, err
	}
	results := make([]registry.SearchResult, 0, len(found.Repositories))
	for _, f := range found.Repositories {
		results = append(results, registry.SearchResult{StarCount: int(f.Stars), IsOfficial: f.Kind == Official, Name: f.Name, Description: f.Description})
	}
	return results, nil
}
