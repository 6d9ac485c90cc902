package store

import (
	"context"
	"database/sql"
	"fmt"
	"slices"
	"strconv"
	"time"

	"strake/internal/sqldb"
)

// Journal lists what can be undone, the newest first.
func (c *collector) Journal(ctx context.Context) ([]JournalEntry, error) {
	var list []JournalEntry
	err := c.files.db.View(ctx, func(tx *sql.Tx) (err error) {
		list, err = sqldb.Collect(ctx, tx, "SELECT id, at, what FROM journal ORDER BY id DESC", nil, func(rows *sql.Rows, e *JournalEntry) error {
			var at int64
			err := rows.Scan(&e.ID, &at, &e.What)
			e.At = time.Unix(0, at)
			return err
		})
		if err != nil || len(list) == 0 {
			return err
		}
		return c.measureHeld(ctx, tx, list)
	})
	if err != nil {
		return nil, fmt.Errorf("list journal: %w", err)
	}
	return list, nil
}

// measureHeld sets what the entries, the newest first, hold.
func (c *collector) measureHeld(ctx context.Context, tx *sql.Tx, list []JournalEntry) error {
	g, err := readGraph(ctx, tx)
	if err != nil {
		return err
	}
	byEntry := map[string][]node{}
	for _, r := range g.roots {
		if r.kind == rootJournal {
			byEntry[r.owner] = append(byEntry[r.owner], r.node)
		}
	}
	kept := g.reach(func(r root) bool { return r.kind != rootJournal })
	for i := range list {
		before := slices.Clone(kept)
		for _, n := range byEntry[strconv.FormatInt(list[i].ID, 10)] {
			g.mark(kept, n)
		}
		for n, dgst := range g.digests {
			if kept[n] && !before[n] {
				list[i].Held += disk{c.files.root}.size(dgst)
			}
		}
	}
	return nil
}
