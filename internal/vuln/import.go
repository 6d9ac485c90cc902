package vuln

import (
	"cmp"
	"context"
	"crypto/rand"
	"database/sql"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"io/fs"
	"maps"
	"os"
	"path"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/containerd/errdefs"

	"strake/internal/sqldb"
)

// Bounds of an import.
const (
	maxRecord  = 16 << 20 // bytes of a record
	maxRecords = 5_000_000
	maxDump    = 8 << 30  // bytes of a dump
	maxContent = 64 << 30 // bytes that come out of dumps
	maxListing = 96 << 20 // bytes of a dump's directory
	batch      = 2000     // records of a transaction
	batchBytes = 8 << 20  // of them
	importFor  = 10 * time.Minute
)

// ImportOptions say what to import.
type ImportOptions struct {
	// From is a dump of OSV's (all.zip), a record (.json), a directory of such, at any
	// depth, or the http or https URL of a dump or of a tree like OSV's own, which
	// has ECOSYSTEM/all.zip. "" is OSV's own.
	From string
	// Ecosystems are those that count; none are all that are in From, and of a tree DefaultEcosystems.
	Ecosystems []string
	// Progress, when not nil, is told what is read, and how many records were.
	Progress func(what string, records int)
}

// Imported is what an import changed.
type Imported struct {
	Sources  []string // that were imported, by name
	Records  int      // that were read
	Changed  int      // records that are new, differ or are gone
	Unusable int      // records that could not be read
	Same     []string // sources that their origin says are as they were
}

// Import brings the database up to date with a dump. All that it changes is seen
// at once when it ends; one that is interrupted changes nothing that is seen. A
// dump is all there is of its ecosystems: what it lacks is gone. A single record
// only adds to the others. It fails with the kind Unavailable while another import of
// the same ecosystem goes on.
func Import(ctx context.Context, db *sqldb.DB, opts ImportOptions) (result Imported, err error) {
	im := &importer{db: db, opts: opts, token: rand.Text(), sources: map[string]*pending{}, tags: map[string]string{}}
	if err := im.read(ctx); err != nil {
		return result, errors.Join(fmt.Errorf("import vulnerability data: %w", err), im.release(ctx))
	}
	if err := im.finish(ctx); err != nil {
		return result, errors.Join(fmt.Errorf("import vulnerability data: %w", err), im.release(ctx))
	}
	im.result.Sources = slices.Sorted(maps.Keys(im.sources))
	return im.result, nil
}

// pending is a source that is imported.
type pending struct {
	Source
	next     int64 // generation
	live     map[string]liveRow
	seen     map[string]bool
	modified string
	origin   string
	tag      string
	changed  int
	partial  bool // what is not seen stays
}

// liveRow is a record that a source has.
type liveRow struct {
	since         int64
	sum, modified string
}

// state is what a source has at a generation.
type state struct {
	generation int64
	live       map[string]liveRow // by ID
}

// look reads what the sources have.
func (im *importer) look(ctx context.Context) error {
	return im.db.View(ctx, func(tx *sql.Tx) error {
		im.before = map[string]state{}
		list, err := sources(ctx, tx)
		if err != nil {
			return err
		}
		all, err := liveRows(ctx, tx, "until = 0")
		for _, s := range list {
			im.before[s.Name] = state{s.Generation, all[s.Name]}
		}
		return err
	})
}

// of tells of how many sources a record with that sum speaks; 0: it is another record.
func (r liveRow) of(sum string) int {
	rest, ok := strings.CutPrefix(r.sum, sum+"/")
	if !ok {
		return 0
	}
	n, _ := strconv.Atoi(rest) // 0 is no number of sources
	return n
}

// liveRows reads the rows of records that did not end, by source and ID.
func liveRows(ctx context.Context, tx *sql.Tx, where string, args ...any) (map[string]map[string]liveRow, error) {
	all := map[string]map[string]liveRow{}
	err := sqldb.Each(ctx, tx, "SELECT source, id, since, sum, modified FROM vulns WHERE "+where, args, func(rows *sql.Rows) error {
		var source, id string
		var l liveRow
		if err := rows.Scan(&source, &id, &l.since, &l.sum, &l.modified); err != nil {
			return err
		}
		if all[source] == nil {
			all[source] = map[string]liveRow{}
		}
		all[source][id] = l
		return nil
	})
	return all, err
}

type importer struct {
	db      *sqldb.DB
	opts    ImportOptions
	token   string
	origin  string // of what is read now
	partial bool
	sources map[string]*pending
	tags    map[string]string // of sources that are read from an origin that has such
	queue   []change
	queued  int              // bytes of the records in queue
	content int64            // bytes that came out of dumps
	before  map[string]state // of each source as the import found it; nil: not read
	result  Imported
}

// change is a row that is to be written, or one that ends.
type change struct {
	source *pending
	id     string
	row    *row // nil: it ends
}

func (im *importer) read(ctx context.Context) error {
	from := im.opts.From
	if from == "" || strings.HasPrefix(from, "http://") || strings.HasPrefix(from, "https://") {
		return im.fetch(ctx, cmp.Or(from, DefaultOrigin))
	}
	im.origin = from
	info, err := os.Stat(from)
	if err != nil {
		return err
	}
	if !info.IsDir() {
		return im.file(ctx, from, info.Size())
	}
	root, err := os.OpenRoot(from)
	if err != nil {
		return err
	}
	defer root.Close() //nolint:errcheck // nothing was written
	return fs.WalkDir(root.FS(), ".", func(name string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		f, err := root.Open(name)
		if err != nil {
			return err
		}
		info, err := f.Stat()
		switch {
		case err != nil:
		case path.Ext(name) == ".zip":
			err = im.zip(ctx, f, info.Size())
		case path.Ext(name) == ".json":
			err = im.record(ctx, name, f)
		}
		return errors.Join(err, f.Close())
	})
}

// file imports a dump or one record.
func (im *importer) file(ctx context.Context, name string, size int64) (err error) {
	f, err := os.Open(name)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	if path.Ext(name) == ".json" {
		im.partial = true
		return im.record(ctx, name, f)
	}
	return im.zip(ctx, f, size)
}

// record takes in one record.
func (im *importer) record(ctx context.Context, name string, r io.Reader) error {
	b, err := io.ReadAll(io.LimitReader(r, maxRecord+1))
	if err != nil {
		return fmt.Errorf("%.200q: %w", name, err)
	}
	if err := im.count(ctx); err != nil {
		return err
	}
	if len(b) > maxRecord {
		im.result.Unusable++
		return nil
	}
	sum := sumOf(crc32.ChecksumIEEE(b), uint64(len(b)))
	if same, err := im.unchanged(ctx, idOf(name), sum); err != nil || same {
		return err
	}
	return im.take(ctx, b, sum)
}

// idOf is what a record in a file of that name is probably called.
func idOf(name string) string { return strings.TrimSuffix(path.Base(name), ".json") }

// take takes in a record that is another one than before.
func (im *importer) take(ctx context.Context, b []byte, sum string) error {
	rows, err := parseRecord(b, sum)
	if err != nil {
		im.result.Unusable++
		return nil //nolint:nilerr // the others are of use without it
	}
	for source, row := range rows {
		if !im.wanted(source) {
			continue
		}
		p, err := im.source(ctx, source)
		if err != nil {
			return err
		}
		if p.seen[row.id] {
			continue
		}
		p.seen[row.id] = true
		p.modified = max(p.modified, row.modified)
		if p.live[row.id].sum != row.sum {
			im.queue = append(im.queue, change{p, row.id, row})
		}
	}
	if im.queued += len(b); len(im.queue) == 0 {
		im.queued = 0
	}
	if len(im.queue) >= batch || im.queued >= batchBytes {
		return im.flush(ctx)
	}
	return nil
}

// count counts one record more.
func (im *importer) count(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if im.result.Records++; im.result.Records > maxRecords {
		return fmt.Errorf("more than %d records: %w", maxRecords, errdefs.ErrResourceExhausted)
	}
	if im.opts.Progress != nil && im.result.Records%1000 == 0 {
		im.opts.Progress(im.origin, im.result.Records)
	}
	return nil
}

func (im *importer) wanted(source string) bool {
	return len(im.opts.Ecosystems) == 0 || slices.Contains(im.opts.Ecosystems, source)
}

// unchanged tells whether all sources that a record speaks of have it as it is, so
// that it need not be parsed. The sum says how many they are.
func (im *importer) unchanged(ctx context.Context, id, sum string) (bool, error) {
	if im.before == nil {
		if err := im.look(ctx); err != nil {
			return false, err
		}
	}
	var have []string
	want := 0
	for source, state := range im.before {
		if n := state.live[id].of(sum); n > 0 {
			have, want = append(have, source), n
		}
	}
	if len(have) == 0 || len(have) != want {
		return false, nil
	}
	for _, source := range have {
		if !im.wanted(source) {
			continue
		}
		p, err := im.source(ctx, source)
		if err != nil {
			return false, err
		}
		row, ok := p.live[id]
		if !ok || row.of(sum) != want {
			return false, nil
		}
		p.seen[id], p.modified = true, max(p.modified, row.modified)
	}
	return true, nil
}

// source begins with a source: nobody else imports it then, and what an import that
// did not end has left is gone.
func (im *importer) source(ctx context.Context, name string) (*pending, error) {
	if p := im.sources[name]; p != nil {
		return p, nil
	}
	p := &pending{origin: im.origin, partial: im.partial, tag: im.tags[name]}
	err := im.db.Update(ctx, func(tx *sql.Tx) error {
		p.Source, p.live, p.seen = Source{Name: name}, map[string]liveRow{}, map[string]bool{}
		now := time.Now()
		err := tx.QueryRowContext(ctx, `INSERT INTO vuln_sources (name, importer, import_until) VALUES ($1, $2, $3)
			ON CONFLICT (name) DO UPDATE SET importer = excluded.importer, import_until = excluded.import_until
			WHERE vuln_sources.import_until < $4 OR vuln_sources.importer = '' RETURNING generation, modified`,
			name, im.token, now.Add(importFor).Unix(), now.Unix()).Scan(&p.Generation, &p.modified)
		if errors.Is(err, sql.ErrNoRows) {
			return fmt.Errorf("another import of %s goes on: %w", name, errdefs.ErrUnavailable)
		}
		if err != nil {
			return err
		}
		left, err := dropUnfinished(ctx, tx, &p.Source)
		if err != nil {
			return err
		}
		if was, ok := im.before[name]; ok && !left && was.generation == p.Generation && was.live != nil {
			p.live = was.live
			return nil
		}
		all, err := liveRows(ctx, tx, "source = $1 AND until = 0", name)
		if all[name] != nil {
			p.live = all[name]
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	if p.next = p.Generation + 1; !p.partial {
		p.modified = ""
	}
	im.sources[name] = p
	return p, nil
}

// hold keeps others from importing the same.
func (im *importer) hold(ctx context.Context, tx *sql.Tx) error {
	for name := range im.sources {
		res, err := tx.ExecContext(ctx, "UPDATE vuln_sources SET import_until = $3 WHERE name = $1 AND importer = $2", name, im.token, time.Now().Add(importFor).Unix())
		if err != nil {
			return err
		}
		if n, err := res.RowsAffected(); err != nil || n != 1 {
			return errors.Join(err, fmt.Errorf("another import of %s has begun: %w", name, errdefs.ErrUnavailable))
		}
	}
	return nil
}

// finish ends what was not seen, makes the new generations the ones that are seen,
// and drops what nobody sees any more.
func (im *importer) finish(ctx context.Context) error {
	for _, p := range im.sources {
		for id := range p.live {
			if p.partial || p.seen[id] {
				continue
			}
			if im.queue = append(im.queue, change{p, id, nil}); len(im.queue) >= batch {
				if err := im.flush(ctx); err != nil {
					return err
				}
			}
		}
	}
	if err := im.flush(ctx); err != nil {
		return err
	}
	err := im.db.Update(ctx, func(tx *sql.Tx) error {
		if err := im.hold(ctx, tx); err != nil {
			return err
		}
		for _, p := range im.sources {
			if err := p.show(ctx, tx); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	for _, p := range im.sources {
		im.result.Changed += p.changed
		if err := im.sweep(ctx, p); err != nil {
			return err
		}
	}
	if im.result.Changed == 0 {
		return nil
	}
	return im.db.Analyze(ctx, "vulns", "vuln_affected")
}

// show makes the next generation of a source the one that is seen.
func (p *pending) show(ctx context.Context, tx *sql.Tx) error {
	generation := p.Generation
	if p.changed > 0 {
		generation = p.next
	}
	var records int64
	err := tx.QueryRowContext(ctx, "SELECT count(*) FROM vulns WHERE source = $1 AND since <= $2 AND (until = 0 OR until > $2)", p.Name, generation).Scan(&records)
	if err != nil {
		return err
	}
	_, err = tx.ExecContext(ctx, `UPDATE vuln_sources SET generation = $2, imported = $3, modified = $4, records = $5, origin = $6, tag = $7, importer = '', import_until = 0
		WHERE name = $1`, p.Name, generation, time.Now().Unix(), clean(p.modified), records, clean(p.origin), clean(p.tag))
	return err
}

// sweep drops rows that ended before the last generation: what ended with it is
// what changed since, for Changed.
func (im *importer) sweep(ctx context.Context, p *pending) error {
	for {
		var gone int64
		err := im.db.Update(ctx, func(tx *sql.Tx) error {
			res, err := tx.ExecContext(ctx, `DELETE FROM vulns WHERE source = $1 AND (id, since) IN
				(SELECT id, since FROM vulns WHERE source = $1 AND until > 0 AND until <= $2 LIMIT 1000)`, p.Name, p.Generation)
			if err == nil {
				gone, err = res.RowsAffected()
			}
			return err
		})
		if err != nil || gone == 0 {
			return err
		}
	}
}

// release gives up sources whose import did not end.
func (im *importer) release(ctx context.Context) error {
	ctx = context.WithoutCancel(ctx)
	return im.db.Update(ctx, func(tx *sql.Tx) error {
		_, err := tx.ExecContext(ctx, "UPDATE vuln_sources SET importer = '', import_until = 0 WHERE importer = $1", im.token)
		return err
	})
}

// Touched calls each with the packages, by ecosystem and name, of which a source
// has said something else since a generation. It tells whether that is known:
// of what changed before the last generation it is not. An ecosystem without a
// release is about all of its releases.
func Touched(ctx context.Context, tx *sql.Tx, source string, since int64, each func(ecosystem, name string) error) (known bool, err error) {
	var generation int64
	err = tx.QueryRowContext(ctx, "SELECT generation FROM vuln_sources WHERE name = $1", source).Scan(&generation)
	if errors.Is(err, sql.ErrNoRows) {
		return false, nil
	}
	if err != nil || since < generation-1 {
		return false, err
	}
	const query = `SELECT DISTINCT a.ecosystem, a.name FROM vulns v JOIN vuln_affected a ON a.source = v.source AND a.id = v.id AND a.since = v.since
		WHERE v.source = $1 AND v.since <= $3 AND (v.since > $2 OR v.until > $2 AND v.until <= $3)`
	return true, sqldb.Each(ctx, tx, query, []any{source, since, generation}, func(rows *sql.Rows) error {
		var ecosystem, name string
		if err := rows.Scan(&ecosystem, &name); err != nil {
			return err
		}
		return each(ecosystem, name)
	})
}
