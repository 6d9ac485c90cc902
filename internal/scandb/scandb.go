// Package scandb keeps in a database what scans found.
//
// A record is what one layer says (scan.Record), kept under the layer's digest:
// images share layers, so each is looked at once. A report is what an image has:
// packages, secrets, vulnerabilities. When the vulnerability data changes, the
// images that have a package of which it says something else are matched again,
// from rows alone.
package scandb

import (
	"context"
	"database/sql"
	"embed"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"time"

	"github.com/opencontainers/go-digest"

	"strake/internal/scan"
	"strake/internal/sqldb"
	"strake/internal/vuln"
)

//go:embed migrations/*.sql
var migrations embed.FS

// Migrations make the tables of vulnerabilities and scans: in a database of their own, or included by another's.
func Migrations() fs.FS {
	return sqldb.Steps(migrations, map[string]fs.FS{"vuln": vuln.Migrations()})
}

// Open opens the SQLite database at path, which has vulnerabilities and scans and
// nothing else, and makes it where there is none.
func Open(ctx context.Context, path string) (*sqldb.DB, error) {
	db, err := sqldb.Open(ctx, sqldb.Options{Path: path})
	if err != nil {
		return nil, err
	}
	if err := db.Migrate(ctx, Migrations()); err != nil {
		return nil, errors.Join(fmt.Errorf("open the database of scans: %w", err), db.Close())
	}
	return db, nil
}

// Record finds the record of a layer, of this program's format, or tells that there is none.
func Record(ctx context.Context, db *sqldb.DB, layer digest.Digest) (r scan.Record, found bool, err error) {
	var text []byte
	err = db.Get(ctx, "SELECT record FROM scan_records WHERE layer = $1", []any{layer.String()}, &text)
	if errors.Is(err, sql.ErrNoRows) {
		return r, false, nil
	}
	if err == nil {
		err = json.Unmarshal(text, &r)
	}
	if err != nil {
		return r, false, fmt.Errorf("read the record of layer %s: %w", layer, err)
	}
	return r, r.Current(), nil
}

// unusedFor is after how long a record that nobody asked for is dropped: its layer is probably gone.
const unusedFor = 60 * 24 * time.Hour

// SaveRecord keeps the record of a layer, and drops some that were not used for long.
func SaveRecord(ctx context.Context, db *sqldb.DB, layer digest.Digest, r *scan.Record) error {
	return saveRecord(ctx, db, layer, r, nil)
}

// saveRecord is SaveRecord with the layer's index; nil is none.
func saveRecord(ctx context.Context, db *sqldb.DB, layer digest.Digest, r *scan.Record, files []byte) error {
	text, err := json.Marshal(r)
	if err == nil {
		var kept any // NULL, where there is none
		if files != nil {
			kept = files
		}
		err = db.Update(ctx, func(tx *sql.Tx) error {
			now := time.Now()
			if _, err := tx.ExecContext(ctx, `INSERT INTO scan_records (layer, format, used, record, files) VALUES ($1, $2, $3, $4, $5)
				ON CONFLICT (layer) DO UPDATE SET format = excluded.format, used = excluded.used, record = excluded.record, files = excluded.files`,
				layer.String(), int64(r.Format), now.Unix(), string(text), kept); err != nil {
				return err
			}
			_, err := tx.ExecContext(ctx, "DELETE FROM scan_records WHERE layer IN (SELECT layer FROM scan_records WHERE used < $1 LIMIT 10)", now.Add(-unusedFor).Unix())
			return err
		})
	}
	if err != nil {
		return fmt.Errorf("keep the record of layer %s: %w", layer, err)
	}
	return nil
}
