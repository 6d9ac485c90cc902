package store

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/opencontainers/go-digest"

	"strake/internal/sqldb"
)

// maxEvents is how many events are kept.
const maxEvents = 1000

// Event is something that happened to an image, in docker's words.
type Event struct {
	ID         int64 // grows with every event of the store
	Time       time.Time
	Type       string // image, builder
	Action     string // delete, import, load, pull, push, save, tag, untag, prune, pin...
	Actor      string // an image ID, or the name that was pulled or pushed
	Attributes map[string]string
}

// events keeps what happened. Changes write their events in their own
// transaction; Tell is for what changes nothing.
type events struct{ db *sqldb.DB }

// Tell notes that action happened to an image, or to the name actor that it has
// in a registry; name is what it is called. The image's labels go with it.
func (e *events) Tell(ctx context.Context, action, actor, name string, id digest.Digest) error {
	err := e.db.Note(ctx, func(tx *sql.Tx) error {
		_, err := imageEvent(ctx, tx, action, actor, name, id)
		return err
	})
	if err != nil {
		return fmt.Errorf("note %s of %s: %w", action, actor, err)
	}
	return nil
}

// Events lists the events that came after the event with the ID after, the
// oldest first. The last thousand are kept.
func (e *events) Events(ctx context.Context, after int64) ([]Event, error) {
	var list []Event
	err := e.db.View(ctx, func(tx *sql.Tx) (err error) {
		const query = "SELECT id, at, type, action, actor, attributes FROM events WHERE id > $1 ORDER BY id"
		list, err = sqldb.Collect(ctx, tx, query, []any{after}, func(rows *sql.Rows, ev *Event) error {
			var at int64
			var attributes []byte
			if err := rows.Scan(&ev.ID, &at, &ev.Type, &ev.Action, &ev.Actor, &attributes); err != nil {
				return err
			}
			ev.Time = time.Unix(0, at)
			return json.Unmarshal(attributes, &ev.Attributes)
		})
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("list events: %w", err)
	}
	return list, nil
}

// imageEvent writes an event of an image, with the labels that it has (none
// once it is removed), and returns the event's ID.
func imageEvent(ctx context.Context, tx *sql.Tx, action, actor, name string, id digest.Digest) (int64, error) {
	attributes := map[string]string{}
	var labels []byte
	err := tx.QueryRowContext(ctx, "SELECT labels FROM images WHERE id = $1", id.String()).Scan(&labels)
	switch {
	case err == nil:
		if err := json.Unmarshal(labels, &attributes); err != nil {
			return 0, err
		}
	case !errors.Is(err, sql.ErrNoRows):
		return 0, err
	}
	if attributes == nil {
		attributes = map[string]string{}
	}
	if name != "" {
		attributes["name"] = name
	}
	return writeEvent(ctx, tx, Event{Type: "image", Action: action, Actor: actor, Attributes: attributes})
}

// writeEvent writes an event that happens now, and drops the oldest.
func writeEvent(ctx context.Context, tx *sql.Tx, e Event) (id int64, err error) {
	attributes, err := json.Marshal(e.Attributes)
	if err != nil {
		return 0, err
	}
	err = tx.QueryRowContext(ctx, `INSERT INTO events (id, at, type, action, actor, attributes)
		SELECT COALESCE(MAX(id), 0) + 1, $1, $2, $3, $4, $5 FROM events RETURNING id`,
		now(), e.Type, e.Action, e.Actor, string(attributes)).Scan(&id)
	if err != nil {
		return 0, fmt.Errorf("write event: %w", err)
	}
	_, err = tx.ExecContext(ctx, "DELETE FROM events WHERE id <= $1", id-maxEvents)
	return id, err
}
