package store

import (
	"bytes"
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"

	"strake/internal/sqldb"
)

// maxJournal is how many entries are kept, however young they are: a name that
// every build moves leaves that many, not more. Who finds so many when it
// collects leaves no more than lowJournal: it does not collect each time.
const (
	maxJournal = 256
	lowJournal = maxJournal * 3 / 4
)

// journal keeps what was removed or overwritten, until it is collected: rows,
// and through journal_holds the blobs that they need.
type journal struct {
	db     *sqldb.DB
	window time.Duration // how long an entry is kept; 0: none is written
}

// JournalEntry is one change that can be undone.
type JournalEntry struct {
	ID   int64
	At   time.Time
	What string // as "rmi app:1"
	Held int64  // bytes on disk that are kept for it, and for no later entry
}

// entry is a journal entry that is being written, in the transaction of the
// change that it takes back. It collects rows in any case, and keeps none of
// them where it is not to be kept, as the zero entry is not.
type entry struct {
	what string
	keep bool
	rows []savedRow
}

// savedRow is one row of a table as it was.
type savedRow struct {
	image   digest.Digest
	origin  string
	content map[string]any
}

// begin begins an entry, which is kept where the journal keeps any.
func (j *journal) begin(what string, keep bool) *entry {
	return &entry{what: what, keep: keep && j.window > 0}
}

// save keeps the rows of a table that concern an image and that where selects.
func (e *entry) save(ctx context.Context, tx *sql.Tx, id digest.Digest, table, where string, args ...any) error {
	rows, err := tx.QueryContext(ctx, "SELECT * FROM "+table+" WHERE "+where, args...) //nolint:gosec // constants
	if err != nil {
		return err
	}
	defer rows.Close()
	columns, err := rows.Columns()
	if err != nil {
		return err
	}
	for rows.Next() {
		values := make([]any, len(columns))
		into := make([]any, len(columns))
		for i := range values {
			into[i] = &values[i]
		}
		if err := rows.Scan(into...); err != nil {
			return err
		}
		content := map[string]any{}
		for i, column := range columns {
			if b, ok := values[i].([]byte); ok {
				values[i] = string(b)
			}
			content[column] = values[i]
		}
		e.rows = append(e.rows, savedRow{id, table, content})
	}
	return rows.Err()
}

// saveNamed keeps what a name or a repo digest names, an image or an index with
// its images, and then the row of the name itself.
func (e *entry) saveNamed(ctx context.Context, tx *sql.Tx, id digest.Digest, table, where string, args ...any) error {
	column := "root"
	if table == "repo_digests" {
		column = "digest"
	}
	roots := "SELECT " + column + " FROM " + table + " WHERE " + where
	for _, save := range [][2]string{
		{"images", "id IN (SELECT image_id FROM " + table + " WHERE " + where + ") OR id IN (SELECT image_id FROM variants WHERE root IN (" + roots + "))"},
		{"variants", "root IN (" + roots + ")"},
		{table, where},
	} {
		if err := e.save(ctx, tx, id, save[0], save[1], args...); err != nil {
			return fmt.Errorf("journal %s: %w", table, err)
		}
	}
	return nil
}

// saveName keeps what a name names, and tells that there is that, when it is
// not root.
func (e *entry) saveName(ctx context.Context, tx *sql.Tx, name string, root digest.Digest) (moved bool, err error) {
	var id, old digest.Digest
	err = tx.QueryRowContext(ctx, "SELECT image_id, root FROM names WHERE name = $1", name).Scan(&id, &old)
	if errors.Is(err, sql.ErrNoRows) || err == nil && old == root {
		return false, nil
	}
	if err == nil {
		err = e.saveNamed(ctx, tx, id, "names", "name = $1", name)
	}
	return err == nil, err
}

// digests lists what the rows of the entry need.
func (e *entry) digests() []digest.Digest {
	var list []digest.Digest
	for _, row := range e.rows {
		list = append(list, row.digests()...)
	}
	return list
}

// digests lists the manifests and indexes that a row names.
func (r savedRow) digests() []digest.Digest {
	columns := map[string][]string{"images": {"manifest"}, "names": {"root"}, "repo_digests": {"digest"}, "variants": {"root", "manifest"}}
	var list []digest.Digest
	for _, column := range columns[r.origin] {
		if d, ok := r.content[column].(string); ok {
			list = append(list, digest.Digest(d))
		}
	}
	return list
}

// write ends the entry: it is there when the transaction is, unless there is no
// row, and the oldest goes where there are too many. The event with the ID is the
// change's, which has one; the entry has its ID too.
func (e *entry) write(ctx context.Context, tx *sql.Tx, id int64) error {
	if !e.keep || len(e.rows) == 0 {
		return nil
	}
	if id == 0 {
		return fmt.Errorf("journal: %s told no event", e.what)
	}
	if _, err := tx.ExecContext(ctx, "INSERT INTO journal (id, at, what) VALUES ($1, $2, $3)", id, now(), e.what); err != nil {
		return fmt.Errorf("journal: %w", err)
	}
	for seq, row := range e.rows {
		content, err := json.Marshal(row.content)
		if err != nil {
			return fmt.Errorf("journal: %w", err)
		}
		_, err = tx.ExecContext(ctx, "INSERT INTO journal_rows (entry, seq, image_id, origin, content) VALUES ($1, $2, $3, $4, $5)",
			id, seq, row.image.String(), row.origin, string(content))
		if err != nil {
			return fmt.Errorf("journal: %w", err)
		}
		for _, d := range row.digests() {
			_, err = tx.ExecContext(ctx, "INSERT INTO journal_holds (entry, digest, image_id) VALUES ($1, $2, $3) ON CONFLICT DO NOTHING",
				id, d.String(), row.image.String())
			if err != nil {
				return fmt.Errorf("journal: %w", err)
			}
		}
	}
	last, err := nthLast(ctx, tx, maxJournal)
	if err != nil || last == 0 {
		return err
	}
	return forget(ctx, tx, "entry <= $1", last)
}

// nthLast is the ID of the newest entry but n; 0 when there are no more than n.
func nthLast(ctx context.Context, tx *sql.Tx, n int) (id int64, err error) {
	err = tx.QueryRowContext(ctx, "SELECT COALESCE((SELECT id FROM journal ORDER BY id DESC LIMIT 1 OFFSET $1), 0)", n).Scan(&id)
	if err != nil {
		return 0, fmt.Errorf("journal: %w", err)
	}
	return id, nil
}

// forget drops what entries keep where a condition on entry or image_id holds,
// and the entries that keep nothing else.
func forget(ctx context.Context, tx *sql.Tx, where string, arg any) error {
	for _, table := range []string{"journal_rows", "journal_holds"} {
		if _, err := tx.ExecContext(ctx, "DELETE FROM "+table+" WHERE "+where, arg); err != nil { //nolint:gosec // constants
			return fmt.Errorf("journal: %w", err)
		}
	}
	_, err := tx.ExecContext(ctx, "DELETE FROM journal WHERE NOT EXISTS (SELECT 1 FROM journal_rows WHERE entry = id)")
	if err != nil {
		return fmt.Errorf("journal: %w", err)
	}
	return nil
}

// expired is the ID of the newest entry that is to be collected; 0 when there is
// none. One that was written while the clock was behind waits for those before it.
func (j *journal) expired(ctx context.Context, tx *sql.Tx) (id int64, err error) {
	err = tx.QueryRowContext(ctx, `SELECT COALESCE(MAX(id), 0) FROM journal
		WHERE id < COALESCE((SELECT MIN(id) FROM journal WHERE at >= $1), $2)`,
		time.Now().Add(-j.window).UnixNano(), int64(math.MaxInt64)).Scan(&id)
	if err != nil {
		return 0, err
	}
	full, err := nthLast(ctx, tx, maxJournal-1)
	if err != nil || full == 0 {
		return id, err
	}
	low, err := nthLast(ctx, tx, lowJournal)
	return max(id, low), err
}

// UndoResult says what came back.
type UndoResult struct {
	Entry    JournalEntry
	Names    []string        // canonical
	Images   []digest.Digest // that were gone
	Replaced []string        // names, among Names, that another image had until now
}

// Undo takes an entry back, the newest when id is 0: its rows are restored, and
// the entry is gone. What a restored name named until now is journaled in turn.
// It fails with errdefs.ErrNotFound when there is no such entry, or none at all.
func (j *journal) Undo(ctx context.Context, id int64) (UndoResult, error) {
	var result UndoResult
	err := j.db.Update(ctx, func(tx *sql.Tx) error {
		result = UndoResult{}
		var at int64
		err := tx.QueryRowContext(ctx, "SELECT id, at, what FROM journal WHERE id = $1 OR $1 = 0 ORDER BY id DESC LIMIT 1", id).
			Scan(&result.Entry.ID, &at, &result.Entry.What)
		if errors.Is(err, sql.ErrNoRows) {
			return errdefs.ErrNotFound
		}
		if err != nil {
			return err
		}
		result.Entry.At = time.Unix(0, at)
		return j.restore(ctx, tx, &result)
	})
	if err != nil {
		return UndoResult{}, fmt.Errorf("undo: %w", err)
	}
	return result, nil
}

// restore brings the rows of an entry back and drops the entry.
func (j *journal) restore(ctx context.Context, tx *sql.Tx, result *UndoResult) error {
	saved, err := savedRows(ctx, tx, result.Entry.ID)
	if err != nil {
		return err
	}
	redo := j.begin("undo of "+result.Entry.What, true)
	var event int64
	for _, row := range saved {
		name, _ := row.content["name"].(string)
		if row.origin == "names" {
			if err := redo.replace(ctx, tx, name, row, result); err != nil {
				return err
			}
		}
		n, err := row.insert(ctx, tx)
		if err != nil {
			return err
		}
		switch {
		case row.origin == "images" && n > 0:
			id, _ := row.content["id"].(string)
			result.Images = append(result.Images, digest.Digest(id))
		case row.origin == "names":
			if event, err = imageEvent(ctx, tx, "tag", row.image.String(), familiar(name), row.image); err != nil {
				return err
			}
		}
	}
	for _, row := range saved {
		if root, _ := row.content["root"].(string); row.origin == "variants" {
			if _, err := choose(ctx, tx, digest.Digest(root)); err != nil {
				return err
			}
		}
	}
	if err := forget(ctx, tx, "entry = $1", result.Entry.ID); err != nil {
		return err
	}
	return redo.write(ctx, tx, event)
}

// replace takes a name away from what has it now, for the row that had it.
func (e *entry) replace(ctx context.Context, tx *sql.Tx, name string, row savedRow, result *UndoResult) error {
	moved, err := e.saveName(ctx, tx, name, row.digests()[0])
	if err != nil {
		return err
	}
	if moved {
		result.Replaced = append(result.Replaced, name)
	}
	result.Names = append(result.Names, name)
	_, err = tx.ExecContext(ctx, "DELETE FROM names WHERE name = $1", name)
	return err
}

func savedRows(ctx context.Context, tx *sql.Tx, entry int64) ([]savedRow, error) {
	const query = "SELECT image_id, origin, content FROM journal_rows WHERE entry = $1 ORDER BY seq"
	return sqldb.Collect(ctx, tx, query, []any{entry}, func(rows *sql.Rows, row *savedRow) error {
		var content []byte
		if err := rows.Scan(&row.image, &row.origin, &content); err != nil {
			return err
		}
		dec := json.NewDecoder(bytes.NewReader(content))
		dec.UseNumber() // a time in nanoseconds is more than a float holds
		return dec.Decode(&row.content)
	})
}

// insert brings the row back, unless its table has one in its place.
func (r savedRow) insert(ctx context.Context, tx *sql.Tx) (int64, error) {
	var columns, places []string
	var args []any
	for column, value := range r.content {
		if n, ok := value.(json.Number); ok {
			i, err := n.Int64()
			if err != nil {
				return 0, err
			}
			value = i
		}
		args = append(args, value)
		columns = append(columns, column)
		places = append(places, "$"+strconv.Itoa(len(args)))
	}
	res, err := tx.ExecContext(ctx, "INSERT INTO "+r.origin+" ("+strings.Join(columns, ", ")+") VALUES ("+ //nolint:gosec // names of columns
		strings.Join(places, ", ")+") ON CONFLICT DO NOTHING", args...)
	if err != nil {
		return 0, fmt.Errorf("restore %s of %s: %w", r.origin, r.image, err)
	}
	return res.RowsAffected()
}

// familiar is a canonical name as docker shows it.
func familiar(name string) string {
	if rest, ok := strings.CutPrefix(name, "docker.io/"); ok {
		return strings.TrimPrefix(rest, "library/")
	}
	return name
}
