package vuln

import (
	"bytes"
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/containerd/errdefs"
	gocvss20 "github.com/pandatix/go-cvss/20"
	gocvss30 "github.com/pandatix/go-cvss/30"
	gocvss31 "github.com/pandatix/go-cvss/31"
	gocvss40 "github.com/pandatix/go-cvss/40"
)

// rowFormat is part of a record's sum: it changes when rows say something else of the same record.
const rowFormat = "2:"

// Bounds of one record.
const (
	maxSummary  = 300  // bytes that are kept
	maxVersion  = 256  // bytes of a version
	maxAffected = 5000 // packages
	maxID       = 128
	maxObjects  = 300_000 // JSON objects: ranges, events
)

// osvRecord is what is used of a record in OSV's schema.
type osvRecord struct {
	ID        string
	Modified  string
	Published string
	Withdrawn string
	Aliases   []string
	Upstream  []string
	Summary   string
	Details   string
	Severity  []osvSeverity
	Affected  []osvAffected
	Database  osvSpecific `json:"database_specific"`
}

type osvSeverity struct{ Type, Score string }

type osvAffected struct {
	Package   struct{ Ecosystem, Name string }
	Severity  []osvSeverity
	Ranges    []osvRange
	Versions  []string
	Ecosystem osvSpecific `json:"ecosystem_specific"`
	Database  osvSpecific `json:"database_specific"`
}

type osvRange struct {
	Type   string
	Events []osvEvent
}

type osvEvent struct {
	Introduced, Fixed, Limit *string
	LastAffected             *string `json:"last_affected"`
}

// osvSpecific is what databases say in their own words. A value that is no text is none.
type osvSpecific struct{ Severity, Urgency text }

type text string

// UnmarshalJSON is json.Unmarshaler's.
func (t *text) UnmarshalJSON(b []byte) error {
	var s string
	if json.Unmarshal(b, &s) == nil {
		*t = text(s)
	}
	return nil
}

// row is a record as a source's rows have it.
type row struct {
	id, sum, published, modified, summary string
	names                                 names
	affected                              []affected
}

type names struct {
	Aliases  []string `json:"aliases,omitempty"`
	Upstream []string `json:"upstream,omitempty"`
}

type affected struct {
	ecosystem, name string
	versions        versions
	rating
}

// versions say which versions of a package are affected.
type versions struct {
	Ranges   [][]event `json:"ranges,omitempty"`
	Versions []string  `json:"versions,omitempty"`
}

// event is one of a range: its kind and its version.
type event struct {
	Kind    string `json:"k"` // introduced, fixed, last_affected, limit
	Version string `json:"v"`
}

type rating struct {
	severity      Severity
	score, vector string
}

// parseRecord reads a record, and gives its rows by source. A record that was
// withdrawn has none.
func parseRecord(b []byte, sum string) (rows map[string]*row, err error) {
	if n := bytes.Count(b, []byte("{")); n > maxObjects {
		return nil, fmt.Errorf("a record of %d objects: %w", n, errdefs.ErrResourceExhausted)
	}
	var r osvRecord
	if err := json.Unmarshal(b, &r); err != nil {
		return nil, fmt.Errorf("no OSV record: %w: %w", err, errdefs.ErrInvalidArgument)
	}
	if r.ID == "" || len(r.ID) > maxID || strings.ContainsFunc(r.ID, func(c rune) bool { return c <= ' ' || c == utf8.RuneError }) {
		return nil, fmt.Errorf("no OSV record: its ID is %.40q: %w", r.ID, errdefs.ErrInvalidArgument)
	}
	if r.Withdrawn != "" || len(r.Affected) > maxAffected {
		return nil, nil
	}
	rows = map[string]*row{}
	for _, a := range r.Affected {
		source := base(a.Package.Ecosystem)
		if source == "" || a.Package.Name == "" || len(a.Package.Name) > maxVersion || len(a.Package.Ecosystem) > maxVersion {
			continue
		}
		to := rows[source]
		if to == nil {
			to = &row{
				id: r.ID, published: short(r.Published, maxVersion), modified: short(r.Modified, maxVersion), summary: summary(r),
				names: names{Aliases: identifiers(r.Aliases), Upstream: identifiers(r.Upstream)},
			}
			rows[source] = to
		}
		to.affected = append(to.affected, affected{
			ecosystem: a.Package.Ecosystem, name: Key(a.Package.Ecosystem, a.Package.Name), versions: versionsOf(a), rating: rate(r, a),
		})
	}
	for _, row := range rows {
		row.sum = fmt.Sprintf("%s/%d", sum, len(rows))
	}
	return rows, nil
}

// sumOf stands for a record's bytes: it is of what the directory of a zip says of
// them, so that most of a dump need not be unpacked. That of a row is followed by
// the number of the record's sources.
func sumOf(crc uint32, size uint64) string { return fmt.Sprintf("%s%08x-%x", rowFormat, crc, size) }

func identifiers(list []string) []string {
	const most = 200
	return slices.DeleteFunc(list[:min(len(list), most)], func(id string) bool { return id == "" || len(id) > maxID })
}

// summary is one line about a record.
func summary(r osvRecord) string {
	line := r.Summary
	if line == "" {
		line, _, _ = strings.Cut(strings.TrimSpace(r.Details), "\n")
	}
	line = strings.Map(func(c rune) rune {
		if !unicode.IsPrint(c) {
			return ' '
		}
		return c
	}, line)
	return short(strings.TrimSpace(line), maxSummary)
}

// short cuts a text between two characters.
func short(text string, most int) string {
	if len(text) <= most {
		return text
	}
	for most > 0 && !utf8.RuneStart(text[most]) {
		most--
	}
	return text[:most]
}

// versionsOf keeps what versions can be compared with: not the commits of git.
func versionsOf(a osvAffected) (v versions) {
	for _, r := range a.Ranges {
		if r.Type == "GIT" {
			continue
		}
		var events []event
		for _, e := range r.Events {
			for _, one := range []struct {
				kind    string
				version *string
			}{{"introduced", e.Introduced}, {"fixed", e.Fixed}, {"last_affected", e.LastAffected}, {"limit", e.Limit}} {
				if one.version != nil && len(*one.version) <= maxVersion {
					events = append(events, event{one.kind, *one.version})
				}
			}
		}
		v.Ranges = append(v.Ranges, events)
	}
	v.Versions = slices.DeleteFunc(a.Versions, func(version string) bool { return len(version) > maxVersion })
	return v
}

// rate finds out how bad a record is for a package. What a distribution says of
// its own package counts most, then the vector, then the database's word.
func rate(r osvRecord, a osvAffected) rating {
	best := rating{}
	for _, list := range [][]osvSeverity{a.Severity, r.Severity} {
		for _, s := range list {
			if got := rateOne(s); got.vector != "" && (got.severity > best.severity || best.vector == "") {
				best = got
			} else if got.vector == "" && got.severity != Unknown {
				return got // a distribution's word
			}
		}
		if best.vector != "" {
			break
		}
	}
	if string(a.Ecosystem.Urgency) == "unimportant" {
		return rating{severity: Negligible, score: best.score, vector: best.vector}
	}
	if best.severity != Unknown {
		return best
	}
	for _, word := range []text{a.Database.Severity, r.Database.Severity, a.Ecosystem.Severity, a.Ecosystem.Urgency} {
		if s := rateWord(string(word)); s != Unknown {
			best.severity = s
			return best
		}
	}
	return best
}

// rateWord is the severity that a word of a database stands for.
func rateWord(word string) Severity {
	switch strings.TrimRight(strings.ToLower(word), "*") {
	case "critical":
		return Critical
	case "high", "important":
		return High
	case "medium", "moderate":
		return Medium
	case "low":
		return Low
	case "negligible", "unimportant", "none":
		return Negligible
	}
	return Unknown
}

// rateOne is the severity of a score: a vector of CVSS, or a distribution's word.
func rateOne(s osvSeverity) rating {
	if len(s.Score) > maxVersion {
		return rating{}
	}
	score, err := 0.0, error(nil)
	switch {
	case strings.HasPrefix(s.Score, "CVSS:4.0/"):
		var v *gocvss40.CVSS40
		if v, err = gocvss40.ParseVector(s.Score); err == nil {
			score = v.Score()
		}
	case strings.HasPrefix(s.Score, "CVSS:3.1/"):
		var v *gocvss31.CVSS31
		if v, err = gocvss31.ParseVector(s.Score); err == nil {
			score = v.BaseScore()
		}
	case strings.HasPrefix(s.Score, "CVSS:3.0/"):
		var v *gocvss30.CVSS30
		if v, err = gocvss30.ParseVector(s.Score); err == nil {
			score = v.BaseScore()
		}
	case s.Type == "CVSS_V2":
		var v *gocvss20.CVSS20
		if v, err = gocvss20.ParseVector(s.Score); err == nil {
			score = v.BaseScore()
		}
	default:
		return rating{severity: rateWord(s.Score)}
	}
	if err != nil {
		return rating{}
	}
	return rating{severity: rateScore(score), score: strconv.FormatFloat(score, 'f', 1, 64), vector: s.Score}
}

// rateScore is the severity of a score from 0 to 10, by CVSS's own scale.
func rateScore(score float64) Severity {
	switch {
	case score >= 9:
		return Critical
	case score >= 7:
		return High
	case score >= 4:
		return Medium
	case score > 0:
		return Low
	}
	return Negligible
}
