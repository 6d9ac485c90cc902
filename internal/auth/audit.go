package auth

import (
	"context"
	"database/sql"
	"encoding/json"
	"fmt"
	"strings"
	"time"

	"strake/internal/sqldb"
)

// Audit adds a line to the audit log, in the transaction of the change that it
// tells of: either both are there or none. Who did it and from where is in the
// context. The detail, of which nil is none, is kept as JSON and holds no secret.
func Audit(ctx context.Context, tx *sql.Tx, action, object string, detail any) error {
	id := From(ctx)
	text := ""
	if detail != nil {
		b, err := json.Marshal(detail)
		if err != nil {
			return fmt.Errorf("audit %s: %w", action, err)
		}
		text = string(b)
	}
	_, err := tx.ExecContext(ctx, `INSERT INTO audit (at, actor, address, action, object, detail) VALUES ($1, $2, $3, $4, $5, $6)`,
		time.Now().Unix(), id.Name, id.Address, action, object, text)
	if err != nil {
		return fmt.Errorf("audit %s: %w", action, err)
	}
	return nil
}

// Entry is a line of the audit log.
type Entry struct {
	ID      int64           `json:"id"`
	At      time.Time       `json:"at"`
	Actor   string          `json:"actor"` // '' is the server itself
	Address string          `json:"address"`
	Action  string          `json:"action"`
	Object  string          `json:"object"`
	Detail  json.RawMessage `json:"detail,omitempty"`
}

// AuditFilter says which lines to read; what is empty lets all through.
type AuditFilter struct {
	Repository string // of it, its tags and its manifests
	Actor      string
	Action     string // itself, or a prefix that ends in a dot
	Before     int64  // an ID: older lines
	Limit      int
}

// AuditLog reads the log, the newest line first. All of it is for
// administrators, that of a repository for who administers it.
func AuditLog(ctx context.Context, db *sqldb.DB, f AuditFilter) (entries []Entry, err error) {
	where, args := []string{"1 = 1"}, []any{}
	add := func(cond string, values ...any) {
		for _, v := range values {
			args = append(args, v)
			cond = strings.Replace(cond, "?", fmt.Sprintf("$%d", len(args)), 1)
		}
		where = append(where, cond)
	}
	if f.Repository != "" { // ; and A follow on : and @
		add(`(object = ? OR object >= ? AND object < ? OR object >= ? AND object < ?)`,
			f.Repository, f.Repository+":", f.Repository+";", f.Repository+"@", f.Repository+"A")
	}
	if f.Actor != "" {
		add(`actor = ?`, f.Actor)
	}
	if prefix, ok := strings.CutSuffix(f.Action, "."); ok {
		add(`action >= ? AND action < ?`, f.Action, prefix+"/")
	} else if f.Action != "" {
		add(`action = ?`, f.Action)
	}
	if f.Before > 0 {
		add(`id < ?`, f.Before)
	}
	args = append(args, f.Limit)
	query := `SELECT id, at, actor, address, action, object, detail FROM audit WHERE ` + strings.Join(where, " AND ") +
		fmt.Sprintf(` ORDER BY id DESC LIMIT $%d`, len(args))
	err = db.View(ctx, func(tx *sql.Tx) error {
		if f.Repository == "" {
			if err := NeedAdmin(ctx); err != nil {
				return err
			}
		} else if err := Need(ctx, tx, f.Repository, Admin); err != nil {
			return err
		}
		entries, err = sqldb.Collect(ctx, tx, query, args, func(rows *sql.Rows, e *Entry) error {
			var at int64
			var detail string
			err := rows.Scan(&e.ID, &at, &e.Actor, &e.Address, &e.Action, &e.Object, &detail)
			e.At = unix(at)
			if detail != "" {
				e.Detail = json.RawMessage(detail)
			}
			return err
		})
		return err
	})
	return entries, err
}

// unix is the time of a row; 0 is the zero time.
func unix(at int64) time.Time {
	if at == 0 {
		return time.Time{}
	}
	return time.Unix(at, 0).UTC()
}

// seconds is the form in which rows keep a time.
func seconds(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return t.Unix()
}

// flag is the form in which rows keep a bool.
func flag(b bool) int {
	if b {
		return 1
	}
	return 0
}
