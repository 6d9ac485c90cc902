package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"time"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"

	"strake/internal/layer"
	"strake/internal/sqldb"
)

// cache keeps what builds remember. Losing the last of it to a loss of power
// costs a step that runs again, so nothing here waits for the disk. The record
// of a step comes with its layer (CommitLayers).
type cache struct{ db *sqldb.DB }

// useGrain is how far what is noted of a record's last use may lag behind: a
// build that finds all it needs writes nothing for so long.
const useGrain = time.Hour

// LoadCache returns what was saved under key, or fails with
// errdefs.ErrNotFound, and notes that it was used. The record keeps its layers
// from GC.
func (c *cache) LoadCache(ctx context.Context, key string) ([]byte, error) {
	return c.use(ctx, "SELECT value, used FROM cache WHERE key = $1", "UPDATE cache SET used = $2 WHERE key = $1", key)
}

// SaveCache saves value under key. The record keeps the layers from GC; slot
// names the step that it belongs to, for LastCache.
func (c *cache) SaveCache(ctx context.Context, key, slot string, layers []digest.Digest, value []byte) error {
	return c.db.Note(ctx, func(tx *sql.Tx) error {
		return saveRecord(ctx, tx, layer.Record{Key: key, Slot: slot, Value: value}, layers...)
	})
}

// saveRecord is SaveCache within a transaction.
func saveRecord(ctx context.Context, tx *sql.Tx, r layer.Record, layers ...digest.Digest) error {
	_, err := tx.ExecContext(ctx, `INSERT INTO cache (key, slot, value, created, used) VALUES ($1, $2, $3, $4, $4)
		ON CONFLICT (key) DO UPDATE SET slot = excluded.slot, value = excluded.value,
		created = excluded.created, used = excluded.used`, r.Key, r.Slot, r.Value, now())
	if err == nil {
		_, err = tx.ExecContext(ctx, "DELETE FROM cache_layers WHERE key = $1", r.Key)
	}
	for _, id := range layers {
		if err == nil {
			_, err = tx.ExecContext(ctx, "INSERT INTO cache_layers (key, diff_id) VALUES ($1, $2)", r.Key, id.String())
		}
	}
	if err != nil {
		return fmt.Errorf("cache record %s: %w", r.Key, err)
	}
	return nil
}

// LastCache returns the newest record of a slot, or fails with
// errdefs.ErrNotFound.
func (c *cache) LastCache(ctx context.Context, slot string) ([]byte, error) {
	value, _, err := c.value(ctx, "SELECT value, used FROM cache WHERE slot = $1 ORDER BY created DESC LIMIT 1", slot)
	return value, err
}

// LoadContextIndex returns the stat cache of a build context directory, or
// fails with errdefs.ErrNotFound, and notes that it was used.
func (c *cache) LoadContextIndex(ctx context.Context, dir string) ([]byte, error) {
	return c.use(ctx, "SELECT value, used FROM contexts WHERE dir = $1", "UPDATE contexts SET used = $2 WHERE dir = $1", dir)
}

// use is value, and notes the use where that has not been done lately.
func (c *cache) use(ctx context.Context, query, note, arg string) ([]byte, error) {
	value, used, err := c.value(ctx, query, arg)
	if err != nil || time.Since(used) < useGrain {
		return value, err
	}
	_ = c.db.Note(ctx, func(tx *sql.Tx) error { // on a full disk, or on one that is read-only, it is at worst collected sooner
		_, err := tx.ExecContext(ctx, note, arg, now())
		return err
	})
	return value, nil
}

// value reads a record and when it was last used.
func (c *cache) value(ctx context.Context, query, arg string) (value []byte, used time.Time, err error) {
	var at int64
	err = c.db.Get(ctx, query, []any{arg}, &value, &at)
	if errors.Is(err, sql.ErrNoRows) {
		err = errdefs.ErrNotFound
	}
	if err != nil {
		return nil, time.Time{}, fmt.Errorf("cache of %q: %w", arg, err)
	}
	return value, time.Unix(0, at), nil
}

// SaveContextIndex saves the stat cache of a build context directory.
func (c *cache) SaveContextIndex(ctx context.Context, dir string, value []byte) error {
	err := c.db.Note(ctx, func(tx *sql.Tx) error {
		_, err := tx.ExecContext(ctx, `INSERT INTO contexts (dir, value, used) VALUES ($1, $2, $3)
			ON CONFLICT (dir) DO UPDATE SET value = excluded.value, used = excluded.used`, dir, value, now())
		return err
	})
	if err != nil {
		return fmt.Errorf("cache of %q: %w", dir, err)
	}
	return nil
}
