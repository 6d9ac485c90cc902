// Package vuln knows which vulnerabilities packages have.
//
// What is known comes from OSV (the schema of https://ossf.github.io/osv-schema/), in
// dumps that are imported into a database. A source is an ecosystem without its
// release ("Debian", "npm"); its records come and go together. A generation is one
// state of a source: an import writes the rows of the next one in small
// transactions, and one more makes it the one that is seen. Rows that did not
// change stay, so that an import that changes little writes little.
//
// Match compares packages with that, and reads rows alone: no image.
package vuln

import (
	"context"
	"database/sql"
	"embed"
	"fmt"
	"io/fs"
	"strings"
	"time"

	"strake/internal/sqldb"
)

//go:embed migrations/*.sql
var migrations embed.FS

// Migrations make the tables of vulnerabilities: in a database of their own, or included by another's.
func Migrations() fs.FS { return sqldb.Steps(migrations, nil) }

// Severity is how bad a vulnerability is.
type Severity int

// Severities. Unknown is below all others: nobody has said.
const (
	Unknown Severity = iota
	Negligible
	Low
	Medium
	High
	Critical
)

var severityNames = [...]string{"unknown", "negligible", "low", "medium", "high", "critical"}

// Severities are all of them, the worst first.
func Severities() []Severity { return []Severity{Critical, High, Medium, Low, Negligible, Unknown} }

func (s Severity) String() string {
	if s < 0 || int(s) >= len(severityNames) {
		return severityNames[Unknown]
	}
	return severityNames[s]
}

// MarshalText is encoding.TextMarshaler's.
func (s Severity) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// UnmarshalText is encoding.TextUnmarshaler's: it knows the names that String gives.
func (s *Severity) UnmarshalText(text []byte) error {
	for i, name := range severityNames {
		if strings.EqualFold(name, string(text)) {
			*s = Severity(i)
			return nil
		}
	}
	return fmt.Errorf("unknown severity %q: it is one of critical, high, medium, low, negligible, unknown", text)
}

// Source is what is known of an ecosystem.
type Source struct {
	Name       string
	Generation int64     // grows with every import that changes something
	Imported   time.Time // when it was last compared with its origin
	Modified   time.Time // of the record that changed last; zero: unknown
	Records    int64
	Origin     string // the file or URL that it is from
	tag        string
}

// Sources lists the sources that have been imported, by name.
func Sources(ctx context.Context, db *sqldb.DB) ([]Source, error) {
	var list []Source
	err := db.View(ctx, func(tx *sql.Tx) (err error) {
		list, err = sources(ctx, tx)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("list vulnerability data: %w", err)
	}
	return list, nil
}

func sources(ctx context.Context, tx *sql.Tx) (list []Source, err error) {
	rows, err := tx.QueryContext(ctx, "SELECT name, generation, imported, modified, records, origin, tag FROM vuln_sources WHERE imported > 0 ORDER BY name")
	if err != nil {
		return nil, err
	}
	err = sqldb.ScanAll(rows, func() error {
		var s Source
		var imported int64
		var modified string
		if err := rows.Scan(&s.Name, &s.Generation, &imported, &modified, &s.Records, &s.Origin, &s.tag); err != nil {
			return err
		}
		s.Imported = time.Unix(imported, 0)
		s.Modified, _ = time.Parse(time.RFC3339, modified)
		list = append(list, s)
		return nil
	})
	return list, err
}

// base is an ecosystem without its release.
func base(ecosystem string) string {
	name, _, _ := strings.Cut(ecosystem, ":")
	return name
}

// Key is the name under which an ecosystem's records speak of a package: that of
// PyPI, Packagist and NuGet is written in several ways.
func Key(ecosystem, name string) string {
	switch base(ecosystem) {
	case "PyPI":
		name = strings.ToLower(name)
		var b strings.Builder
		for i := 0; i < len(name); i++ {
			if c := name[i]; c != '-' && c != '_' && c != '.' {
				b.WriteByte(c)
			} else if b.Len() == 0 || b.String()[b.Len()-1] != '-' {
				b.WriteByte('-')
			}
		}
		return b.String()
	case "Packagist", "NuGet":
		return strings.ToLower(name)
	}
	return name
}
