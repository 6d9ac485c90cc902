package vuln

import (
	"cmp"
	"context"
	"database/sql"
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"github.com/google/osv-scalibr/semantic"

	"strake/internal/scan"
	"strake/internal/sqldb"
)

// Finding is a vulnerability that a package has.
type Finding struct {
	ID        string       `json:"id"`                // CVE-..., where it has one
	Aliases   []string     `json:"aliases,omitempty"` // its other names
	Severity  Severity     `json:"severity"`
	Score     string       `json:"score,omitempty"` // of CVSS, "9.8"
	Vector    string       `json:"vector,omitempty"`
	Summary   string       `json:"summary,omitempty"`
	Published string       `json:"published,omitempty"` // RFC 3339
	Fixed     string       `json:"fixed,omitempty"`     // the first version without it; "": none is known
	Package   scan.Package `json:"package"`
}

// Equal tells whether two findings say the same.
func (f Finding) Equal(g Finding) bool {
	return f.ID == g.ID && slices.Equal(f.Aliases, g.Aliases) && f.Severity == g.Severity && f.Score == g.Score && f.Vector == g.Vector &&
		f.Summary == g.Summary && f.Published == g.Published && f.Fixed == g.Fixed && f.Package == g.Package
}

// Result is what Match found.
type Result struct {
	Findings []Finding // the worst first, then by package and ID
	Sources  []Source  // that were asked
	// Missing are the ecosystems of packages of which nothing was imported.
	Missing []string
	// Unknown is how many packages are of no ecosystem that has a name, or have a version that is none.
	Unknown int
}

// Counts are the findings by severity.
func (r *Result) Counts() map[Severity]int {
	counts := map[Severity]int{}
	for _, f := range r.Findings {
		counts[f.Severity]++
	}
	return counts
}

// Match finds the vulnerabilities that packages have, by what one state of the
// database says.
func Match(ctx context.Context, db *sqldb.DB, packages []scan.Package) (result Result, err error) {
	err = db.View(ctx, func(tx *sql.Tx) error {
		result, err = MatchIn(ctx, tx, packages)
		return err
	})
	if err != nil {
		return Result{}, fmt.Errorf("match vulnerabilities: %w", err)
	}
	return result, nil
}

// MatchIn is Match in the caller's transaction.
func MatchIn(ctx context.Context, tx *sql.Tx, packages []scan.Package) (Result, error) {
	m := matcher{known: map[string]bool{}, missing: map[string]bool{}, candidates: map[key][]candidate{}}
	all, err := sources(ctx, tx)
	if err != nil {
		return Result{}, err
	}
	for _, s := range all {
		m.known[s.Name] = true
	}
	if err := m.read(ctx, tx, packages); err != nil {
		return Result{}, err
	}
	used := map[string]bool{}
	for _, p := range packages {
		used[base(p.Ecosystem)] = true
		m.match(p)
	}
	for _, s := range all {
		if used[s.Name] {
			m.result.Sources = append(m.result.Sources, s)
		}
	}
	for name := range m.missing {
		m.result.Missing = append(m.result.Missing, name)
	}
	slices.Sort(m.result.Missing)
	slices.SortFunc(m.result.Findings, func(a, b Finding) int {
		return cmp.Or(cmp.Compare(b.Severity, a.Severity), cmp.Compare(a.Package.Name, b.Package.Name), cmp.Compare(a.Package.Version, b.Package.Version), cmp.Compare(a.ID, b.ID))
	})
	return m.result, nil
}

// together is how many names one query asks for.
const together = 50

// candidateQuery reads what is said of so many names.
func candidateQuery(n int) string {
	return `SELECT a.ecosystem, a.name, v.id, v.summary, v.published, v.names, a.versions, a.severity, a.score, a.vector
	FROM vuln_affected a
	JOIN vulns v ON v.source = a.source AND v.id = a.id AND v.since = a.since
	JOIN vuln_sources s ON s.name = a.source
	WHERE (a.ecosystem, a.name) IN (VALUES ` + sqldb.Tuples(1, n, 2) + `) AND v.since <= s.generation AND (v.until = 0 OR v.until > s.generation)
	ORDER BY v.id, a.number`
}

// key is a name of which records speak.
type key struct{ ecosystem, name string }

// keys are what records call a package: one of an ecosystem counts for all of its
// releases where it names none.
func keys(p scan.Package) []key {
	list := []key{{p.Ecosystem, NameOf(p)}}
	if of := base(p.Ecosystem); of != p.Ecosystem {
		list = append(list, key{of, NameOf(p)})
	}
	return list
}

// candidate is what a record says of a package.
type candidate struct {
	id, summary, published string
	names                  names
	versions               versions
	rating
}

type matcher struct {
	known      map[string]bool // sources
	missing    map[string]bool
	candidates map[key][]candidate // in the order of their IDs
	result     Result
}

// NameOf is the name under which records speak of a package: of a distribution's, that of its source.
func NameOf(p scan.Package) string {
	if p.Distribution() {
		return cmp.Or(p.Source, p.Name)
	}
	return Key(p.Ecosystem, p.Name)
}

// match finds the vulnerabilities of one package.
func (m *matcher) match(p scan.Package) {
	if p.Ecosystem == "" {
		m.result.Unknown++
		return
	}
	if !m.known[base(p.Ecosystem)] {
		m.missing[base(p.Ecosystem)] = true
		return
	}
	version := p.Version
	if p.Distribution() {
		version = cmp.Or(p.SourceVersion, version)
	}
	list := m.look(p)
	if len(list) == 0 {
		return
	}
	have, err := parseVersion(p.Ecosystem, version)
	if err != nil {
		m.result.Unknown++
	}
	single := map[string]bool{} // vulnerabilities that have a record of their own
	var hits []hit
	for _, c := range list {
		if len(c.names.Upstream) < 2 {
			for _, name := range c.synonyms() {
				single[name] = true
			}
		}
		if is, fixed := c.versions.affect(p.Ecosystem, have, version); is {
			hits = append(hits, hit{c, fixed})
		}
	}
	for _, f := range merge(hits, single) {
		f.Package = p
		m.result.Findings = append(m.result.Findings, f)
	}
}

// read reads what is said of packages, of many by one query.
func (m *matcher) read(ctx context.Context, tx *sql.Tx, packages []scan.Package) error {
	var names []any
	for _, p := range packages {
		if !m.known[base(p.Ecosystem)] {
			continue
		}
		for _, k := range keys(p) {
			if _, ok := m.candidates[k]; !ok {
				m.candidates[k] = nil
				names = append(names, k.ecosystem, k.name)
			}
		}
	}
	for some := range slices.Chunk(names, 2*together) {
		if err := sqldb.Each(ctx, tx, candidateQuery(len(some)/2), some, m.add); err != nil {
			return err
		}
	}
	return nil
}

// add takes in a row of candidateQuery.
func (m *matcher) add(rows *sql.Rows) error {
	var k key
	var c candidate
	var names, versions []byte
	var severity int64
	if err := rows.Scan(&k.ecosystem, &k.name, &c.id, &c.summary, &c.published, &names, &versions, &severity, &c.score, &c.vector); err != nil {
		return err
	}
	c.severity = Severity(severity)
	if err := json.Unmarshal(names, &c.names); err != nil {
		return fmt.Errorf("%s: %w", c.id, err)
	}
	if err := json.Unmarshal(versions, &c.versions); err != nil {
		return fmt.Errorf("%s: %w", c.id, err)
	}
	m.candidates[k] = append(m.candidates[k], c)
	return nil
}

// look finds the candidates of a package, in the order of their IDs.
func (m *matcher) look(p scan.Package) []candidate {
	var list []candidate
	for _, k := range keys(p) {
		list = append(list, m.candidates[k]...)
	}
	slices.SortStableFunc(list, func(a, b candidate) int { return cmp.Compare(a.id, b.id) })
	return list
}

func parseVersion(ecosystem, version string) (semantic.Version, error) {
	if len(version) > maxVersion {
		return nil, fmt.Errorf("version of %d bytes", len(version))
	}
	return semantic.Parse(version, base(ecosystem))
}

// affect tells whether a version is affected, and the first that is no more. The
// version is nil where it cannot be compared: only lists of versions count then.
func (v *versions) affect(ecosystem string, have semantic.Version, version string) (is bool, fixed string) {
	for _, events := range v.Ranges {
		if have == nil {
			break
		}
		if in, end := inRange(ecosystem, have, events); in {
			return true, end
		}
	}
	return slices.Contains(v.Versions, version), ""
}

// inRange is the evaluation of the schema: the last event at or before a version says what it is.
func inRange(ecosystem string, have semantic.Version, events []event) (is bool, fixed string) {
	limited, within := false, false
	kind, at := "", "" // the last event so far
	for _, e := range events {
		order, err := have.CompareStr(e.Version)
		if e.Version == "0" && e.Kind == "introduced" {
			order, err = 1, nil // before all versions
		}
		switch {
		case e.Kind == "limit":
			limited = true
			within = within || e.Version == "*" || err == nil && order < 0
		case err != nil || order < 0 || e.Kind == "last_affected" && order == 0:
		case kind == "" || at == "0" && kind == "introduced" || later(ecosystem, e.Version, at):
			kind, at = e.Kind, e.Version
		}
	}
	if kind != "introduced" || limited && !within {
		return false, ""
	}
	for _, e := range events {
		if e.Kind != "fixed" {
			continue
		}
		order, err := have.CompareStr(e.Version)
		if err == nil && order < 0 && (fixed == "" || later(ecosystem, fixed, e.Version)) {
			fixed = e.Version
		}
	}
	return true, fixed
}

// later tells whether a is a later version than b.
func later(ecosystem, a, b string) bool {
	v, err := parseVersion(ecosystem, a)
	if err != nil {
		return false
	}
	order, err := v.CompareStr(b)
	return err == nil && order > 0
}

// hit is a record that is true of a package.
type hit struct {
	candidate
	fixed string
}

// synonyms are the names under which a record may be known elsewhere. An advisory
// about several vulnerabilities is a synonym of none of them.
func (c *candidate) synonyms() []string {
	list := append([]string{c.id}, c.names.Aliases...)
	if len(c.names.Upstream) == 1 {
		list = append(list, c.names.Upstream...)
	}
	return list
}

// merge makes one finding of the records that are about the same, and leaves out
// advisories about several vulnerabilities each of which has its own record: that
// one says which versions have it.
func merge(hits []hit, single map[string]bool) (findings []Finding) {
	group := map[string]int{} // of a name: its finding
	var members [][]string
	for i := range hits {
		h := &hits[i]
		if up := h.names.Upstream; len(up) > 1 && !slices.ContainsFunc(up, func(id string) bool { return !single[id] }) {
			continue
		}
		to := -1
		for _, name := range h.synonyms() {
			if g, ok := group[name]; ok && to >= 0 && g != to {
				findings[to] = united(findings[to], findings[g])
				members[to] = append(members[to], members[g]...)
				for _, other := range members[g] {
					group[other] = to
				}
				findings[g], members[g] = Finding{}, nil
			} else if ok {
				to = g
			}
		}
		f := Finding{ID: h.id, Severity: h.severity, Score: h.score, Vector: h.vector, Summary: h.summary, Published: h.published, Fixed: h.fixed}
		if to < 0 {
			to = len(findings)
			findings, members = append(findings, f), append(members, nil)
		} else {
			findings[to] = united(findings[to], f)
		}
		for _, name := range h.synonyms() {
			group[name] = to
		}
		members[to] = append(members[to], h.synonyms()...)
	}
	out := findings[:0]
	for i, f := range findings {
		if f.ID != "" {
			out = append(out, named(f, members[i]))
		}
	}
	return out
}

// united is one finding of two.
func united(a, b Finding) Finding {
	if b.Severity > a.Severity || a.Score == "" && b.Severity == a.Severity {
		a.Severity, a.Score, a.Vector = b.Severity, cmp.Or(b.Score, a.Score), cmp.Or(b.Vector, a.Vector)
	}
	a.Summary, a.Fixed = cmp.Or(a.Summary, b.Summary), cmp.Or(a.Fixed, b.Fixed)
	if a.Published == "" || b.Published != "" && b.Published < a.Published {
		a.Published = b.Published
	}
	return a
}

// named calls a finding by the best known of its names.
func named(f Finding, all []string) Finding {
	slices.Sort(all)
	all = slices.Compact(all)
	if i := slices.IndexFunc(all, func(id string) bool { return strings.HasPrefix(id, "CVE-") }); i >= 0 {
		f.ID = all[i]
	}
	f.Aliases = slices.DeleteFunc(all, func(id string) bool { return id == f.ID })
	return f
}
