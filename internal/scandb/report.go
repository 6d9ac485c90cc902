package scandb

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"

	"strake/internal/scan"
	"strake/internal/sqldb"
	"strake/internal/vuln"
)

// Report is what is known of an image.
type Report struct {
	Image        digest.Digest // of its manifest
	Scanned      time.Time
	Matched      time.Time // zero: there was no vulnerability data about any of its packages
	Distribution string    // as it calls itself
	Packages     []scan.Package
	Secrets      []scan.Secret
	Findings     []vuln.Finding   // the worst first
	Generations  map[string]int64 // of the sources that it was matched with
	Notes        []string         // what was not looked at
	Layers       []LayerFiles     // what each does to those below; none: they could not be compared
}

// Summary is a Report's first row, for lists.
type Summary struct {
	Image        digest.Digest
	Scanned      time.Time
	Matched      time.Time
	Distribution string
	Packages     int64
	Secrets      int64
	Counts       map[vuln.Severity]int64
	Fixable      int64 // of all of them
}

// Find reads the report of an image, or fails with the kind NotFound.
func Find(ctx context.Context, db *sqldb.DB, image digest.Digest) (r Report, err error) {
	err = db.View(ctx, func(tx *sql.Tx) error {
		r, err = find(ctx, tx, image)
		return err
	})
	if err != nil {
		return Report{}, fmt.Errorf("read the scan of %s: %w", image, err)
	}
	return r, nil
}

func find(ctx context.Context, tx *sql.Tx, image digest.Digest) (Report, error) {
	r := Report{Image: image, Packages: []scan.Package{}, Secrets: []scan.Secret{}, Findings: []vuln.Finding{}}
	var scanned, matched int64
	var generations, notes, layers []byte
	err := tx.QueryRowContext(ctx, "SELECT scanned, matched, distribution, generations, notes, layers FROM scan_images WHERE image = $1", image.String()).
		Scan(&scanned, &matched, &r.Distribution, &generations, &notes, &layers)
	if errors.Is(err, sql.ErrNoRows) {
		return r, fmt.Errorf("it was not scanned: %w", errdefs.ErrNotFound)
	}
	if err = errors.Join(err, json.Unmarshal(generations, &r.Generations), json.Unmarshal(notes, &r.Notes), json.Unmarshal(layers, &r.Layers)); err != nil {
		return r, err
	}
	r.Scanned, r.Matched = unix(scanned), unix(matched)
	byNumber := map[int64]scan.Package{}
	err = sqldb.Each(ctx, tx, `SELECT number, type, name, version, arch, source, source_version, ecosystem, file, layer FROM scan_packages
		WHERE image = $1 ORDER BY number`, []any{image.String()}, func(rows *sql.Rows) error {
		var number int64
		var p scan.Package
		if err := rows.Scan(&number, &p.Type, &p.Name, &p.Version, &p.Arch, &p.Source, &p.SourceVersion, &p.Ecosystem, &p.File, &p.Layer); err != nil {
			return err
		}
		byNumber[number] = p
		r.Packages = append(r.Packages, p)
		return nil
	})
	if err != nil {
		return r, err
	}
	err = sqldb.Each(ctx, tx, `SELECT id, aliases, severity, score, vector, summary, published, fixed, package FROM scan_findings
		WHERE image = $1 ORDER BY number`, []any{image.String()}, func(rows *sql.Rows) error {
		var f vuln.Finding
		var aliases []byte
		var severity, number int64
		if err := rows.Scan(&f.ID, &aliases, &severity, &f.Score, &f.Vector, &f.Summary, &f.Published, &f.Fixed, &number); err != nil {
			return err
		}
		f.Severity, f.Package = vuln.Severity(severity), byNumber[number]
		r.Findings = append(r.Findings, f)
		return json.Unmarshal(aliases, &r.Findings[len(r.Findings)-1].Aliases)
	})
	if err != nil {
		return r, err
	}
	return r, sqldb.Each(ctx, tx, `SELECT rule, what, excerpt, file, place, line, layer, deleted FROM scan_secrets
		WHERE image = $1 ORDER BY number`, []any{image.String()}, func(rows *sql.Rows) error {
		var s scan.Secret
		var deleted int64
		if err := rows.Scan(&s.Rule, &s.What, &s.Excerpt, &s.File, &s.Place, &s.Line, &s.Layer, &deleted); err != nil {
			return err
		}
		s.Deleted = deleted != 0
		r.Secrets = append(r.Secrets, s)
		return nil
	})
}

func unix(seconds int64) time.Time {
	if seconds == 0 {
		return time.Time{}
	}
	return time.Unix(seconds, 0)
}

func seconds(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return t.Unix()
}

// save writes a report in the place of the one that was there.
func (r *Report) save(ctx context.Context, tx *sql.Tx) error {
	if err := Forget(ctx, tx, r.Image); err != nil {
		return err
	}
	notes, err := json.Marshal(append([]string{}, r.Notes...))
	if err != nil {
		return err
	}
	layers, err := json.Marshal(append([]LayerFiles{}, r.Layers...))
	if err != nil {
		return err
	}
	_, err = tx.ExecContext(ctx, "INSERT INTO scan_images (image, scanned, distribution, packages, secrets, notes, layers) VALUES ($1, $2, $3, $4, $5, $6, $7)",
		r.Image.String(), seconds(r.Scanned), clean(r.Distribution), int64(len(r.Packages)), int64(len(r.Secrets)), clean(string(notes)), string(layers))
	if err != nil {
		return err
	}
	packages := sqldb.Inserts{Tx: tx, Into: "scan_packages (image, number, type, name, version, arch, source, source_version, ecosystem, key, file, layer)", Columns: 12}
	for i, p := range r.Packages {
		if err := packages.Add(ctx, r.Image.String(), int64(i), p.Type, clean(p.Name), clean(p.Version), clean(p.Arch),
			clean(p.Source), clean(p.SourceVersion), p.Ecosystem, clean(vuln.NameOf(p)), clean(p.File), int64(p.Layer)); err != nil {
			return err
		}
	}
	if err := packages.Flush(ctx); err != nil {
		return err
	}
	for i, s := range r.Secrets {
		deleted := int64(0)
		if s.Deleted {
			deleted = 1
		}
		if _, err := tx.ExecContext(ctx, `INSERT INTO scan_secrets (image, number, rule, what, excerpt, file, place, line, layer, deleted)
			VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)`, r.Image.String(), int64(i), s.Rule, s.What, clean(s.Excerpt), clean(s.File), clean(s.Place),
			int64(s.Line), int64(s.Layer), deleted); err != nil {
			return err
		}
	}
	return r.saveFindings(ctx, tx, nil)
}

// saveFindings writes the findings of a report whose other rows are there, and
// whose rows of findings are had: most that is matched again has what it had.
func (r *Report) saveFindings(ctx context.Context, tx *sql.Tx, had []vuln.Finding) error {
	if !slices.EqualFunc(had, r.Findings, vuln.Finding.Equal) {
		if err := r.replaceFindings(ctx, tx); err != nil {
			return err
		}
	}
	counts, fixable := map[vuln.Severity]int64{}, int64(0)
	for _, f := range r.Findings {
		counts[f.Severity]++
		if f.Fixed != "" {
			fixable++
		}
	}
	generations, err := json.Marshal(r.Generations)
	if err != nil {
		return err
	}
	_, err = tx.ExecContext(ctx, `UPDATE scan_images SET matched = $2, critical = $3, high = $4, medium = $5, low = $6, negligible = $7, unknown = $8, fixable = $9, generations = $10
		WHERE image = $1`, r.Image.String(), seconds(r.Matched), counts[vuln.Critical], counts[vuln.High], counts[vuln.Medium], counts[vuln.Low], counts[vuln.Negligible],
		counts[vuln.Unknown], fixable, string(generations))
	return err
}

// replaceFindings writes the rows of findings in the place of those that are there.
func (r *Report) replaceFindings(ctx context.Context, tx *sql.Tx) error {
	if _, err := tx.ExecContext(ctx, "DELETE FROM scan_findings WHERE image = $1", r.Image.String()); err != nil {
		return err
	}
	numbers := map[scan.Package]int64{}
	for i, p := range r.Packages {
		numbers[p] = int64(i)
	}
	rows := sqldb.Inserts{Tx: tx, Into: "scan_findings (image, number, id, aliases, severity, score, vector, summary, published, fixed, package)", Columns: 11}
	for i, f := range r.Findings {
		aliases, err := json.Marshal(append([]string{}, f.Aliases...))
		if err != nil {
			return err
		}
		if err := rows.Add(ctx, r.Image.String(), int64(i), f.ID, string(aliases), int64(f.Severity), f.Score, f.Vector,
			f.Summary, f.Published, f.Fixed, numbers[f.Package]); err != nil {
			return err
		}
	}
	return rows.Flush(ctx)
}

// Forget drops the report of an image, in the caller's transaction. It is no error if there is none.
func Forget(ctx context.Context, tx *sql.Tx, image digest.Digest) error {
	if _, err := tx.ExecContext(ctx, "DELETE FROM scan_images WHERE image = $1", image.String()); err != nil {
		return fmt.Errorf("forget the scan of %s: %w", image, err)
	}
	return nil
}

// Summarize reads the first rows of reports; images that were not scanned have none.
func Summarize(ctx context.Context, tx *sql.Tx, images ...digest.Digest) (map[digest.Digest]Summary, error) {
	list := make(map[digest.Digest]Summary, len(images))
	for _, image := range images {
		s := Summary{Image: image}
		var scanned, matched int64
		var n [6]int64
		err := tx.QueryRowContext(ctx, `SELECT scanned, matched, distribution, packages, secrets, critical, high, medium, low, negligible, unknown, fixable FROM scan_images
			WHERE image = $1`, image.String()).Scan(&scanned, &matched, &s.Distribution, &s.Packages, &s.Secrets, &n[0], &n[1], &n[2], &n[3], &n[4], &n[5], &s.Fixable)
		if errors.Is(err, sql.ErrNoRows) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("summarize scans: %w", err)
		}
		s.Scanned, s.Matched, s.Counts = unix(scanned), unix(matched), map[vuln.Severity]int64{}
		for i, severity := range vuln.Severities() {
			s.Counts[severity] = n[i]
		}
		list[image] = s
	}
	return list, nil
}

// clean takes out what PostgreSQL has no place for in a text.
func clean(s string) string { return strings.ToValidUTF8(strings.ReplaceAll(s, "\x00", ""), "?") }

// readAll reads r, of which there may be so much.
func readAll(r io.Reader, most int64) ([]byte, error) {
	b, err := io.ReadAll(io.LimitReader(r, most+1))
	if err == nil && int64(len(b)) > most {
		err = fmt.Errorf("more than %d bytes: %w", most, errdefs.ErrResourceExhausted)
	}
	return b, err
}
