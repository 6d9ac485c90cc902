package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"

	"strake/internal/sqldb"
)

// cache keeps what builds remember. Losing the last of it to a loss of power
// costs a step that runs again, so nothing here waits for the disk.
type cache struct{ db *sqldb.DB }

// LoadCache returns what was saved under key, or fails with
// errdefs.ErrNotFound. The record keeps its layers from GC.
func (c *cache) LoadCache(ctx context.Context, key string) ([]byte, error) {
	return c.value(ctx, "SELECT value FROM cache WHERE key = $1", key)
}

// SaveCache saves value under key. The record keeps the layers from GC; slot
// names the step that it belongs to, for LastCache.
func (c *cache) SaveCache(ctx context.Context, key, slot string, layers []digest.Digest, value []byte) error {
	err := c.db.Note(ctx, func(tx *sql.Tx) error {
		_, err := tx.ExecContext(ctx, `INSERT INTO cache (key, slot, value, created, used) VALUES ($1, $2, $3, $4, $4)
			ON CONFLICT (key) DO UPDATE SET slot = excluded.slot, value = excluded.value,
			created = excluded.created, used = excluded.used`, key, slot, value, now())
		if err != nil {
			return err
		}
		if _, err := tx.ExecContext(ctx, "DELETE FROM cache_layers WHERE key = $1", key); err != nil {
			return err
		}
		for _, id := range layers {
			if _, err := tx.ExecContext(ctx, "INSERT INTO cache_layers (key, diff_id) VALUES ($1, $2)", key, id.String()); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("cache record %s: %w", key, err)
	}
	return nil
}

// LastCache returns the newest record of a slot, or fails with
// errdefs.ErrNotFound.
func (c *cache) LastCache(ctx context.Context, slot string) ([]byte, error) {
	return c.value(ctx, "SELECT value FROM cache WHERE slot = $1 ORDER BY created DESC LIMIT 1", slot)
}

// LoadContextIndex returns the stat cache of a build context directory, or
// fails with errdefs.ErrNotFound.
func (c *cache) LoadContextIndex(ctx context.Context, dir string) ([]byte, error) {
	return c.value(ctx, "SELECT value FROM contexts WHERE dir = $1", dir)
}

func (c *cache) value(ctx context.Context, query, arg string) ([]byte, error) {
	var value []byte
	err := c.db.Get(ctx, query, []any{arg}, &value)
	if errors.Is(err, sql.ErrNoRows) {
		err = errdefs.ErrNotFound
	}
	if err != nil {
		return nil, fmt.Errorf("cache of %q: %w", arg, err)
	}
	return value, nil
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
