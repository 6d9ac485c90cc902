// Package jobs keeps work in the database until it is done.
//
// A job is a kind, which says what is to be done, and a key, which says to what:
// there is one of both at most. It is added in the transaction that makes it
// necessary, so it is neither lost nor done for nothing. A replica claims it for
// a time, which it prolongs while it works; a claim that ran out is another's to
// take. A job that fails is tried again, later each time, until it is given up.
//
// A job may be done more than once: its replica may die between the work and the
// row's end, and one that loses its claim hears of it after the fact. What is done must bear that.
package jobs

import (
	"context"
	"database/sql"
	"embed"
	"fmt"
	"io/fs"
	"time"

	"github.com/containerd/errdefs"

	"strake/internal/sqldb"
)

//go:embed migrations/*.sql
var migrations embed.FS

// Migrations make the tables of jobs: in a database of their own, or included by another's.
func Migrations() fs.FS { return sqldb.Steps(migrations, nil) }

// Job is work to do.
type Job struct {
	Kind      string
	Key       string
	Payload   string    // what the kind needs beside the key
	NotBefore time.Time // zero: at once; milliseconds count
	Attempts  int       // that were begun, this one included
}

// bounds of a job that is added, in bytes.
const (
	maxName    = 1 << 10
	maxPayload = 1 << 20
	maxError   = 4 << 10
)

// Add adds a job in the caller's transaction. One of the kind and the key that is
// there takes the payload, begins to count its attempts anew and is done no later
// than either says; one that is under way is done once more.
func Add(ctx context.Context, tx *sql.Tx, job Job) error {
	if job.Kind == "" || len(job.Kind) > maxName || len(job.Key) > maxName || len(job.Payload) > maxPayload {
		return fmt.Errorf("add job %.64q: its name or payload is too long: %w", job.Kind+" "+job.Key, errdefs.ErrInvalidArgument)
	}
	now := time.Now()
	if job.NotBefore.IsZero() {
		job.NotBefore = now
	}
	_, err := tx.ExecContext(ctx, `INSERT INTO jobs (kind, key, payload, created, not_before) VALUES ($1, $2, $3, $4, $5)
		ON CONFLICT (kind, key) DO UPDATE SET payload = excluded.payload, version = jobs.version + 1, attempts = 0, failed = 0,
		not_before = CASE WHEN jobs.failed = 0 AND jobs.attempts = 0 AND jobs.not_before < excluded.not_before THEN jobs.not_before ELSE excluded.not_before END`,
		job.Kind, job.Key, job.Payload, now.UnixMilli(), job.NotBefore.UnixMilli())
	if err != nil {
		return fmt.Errorf("add job %q %q: %w", job.Kind, job.Key, err)
	}
	return nil
}

// State is a job in the database.
type State struct {
	Job
	Running bool
	Failed  bool   // it was given up
	Error   string // of the last attempt
}

// List lists jobs of a kind, those that are due first before others; limit bounds
// their number.
func List(ctx context.Context, db *sqldb.DB, kind string, limit int) (list []State, err error) {
	now := time.Now().UnixMilli()
	err = db.View(ctx, func(tx *sql.Tx) (err error) {
		list, err = sqldb.Collect(ctx, tx, `SELECT kind, key, payload, not_before, attempts, claimed_until, failed, error FROM jobs
			WHERE kind = $1 ORDER BY failed, not_before, key LIMIT $2`, []any{kind, limit}, func(rows *sql.Rows, s *State) error {
			var notBefore, until, failed int64
			err := rows.Scan(&s.Kind, &s.Key, &s.Payload, &notBefore, &s.Attempts, &until, &failed, &s.Error)
			s.NotBefore, s.Running, s.Failed = time.UnixMilli(notBefore), until > now, failed != 0
			return err
		})
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("list jobs: %w", err)
	}
	return list, nil
}

// Remove takes a job out in the caller's transaction; it is no error if there is
// none. One that is under way is not stopped.
func Remove(ctx context.Context, tx *sql.Tx, kind, key string) error {
	if _, err := tx.ExecContext(ctx, "DELETE FROM jobs WHERE kind = $1 AND key = $2", kind, key); err != nil {
		return fmt.Errorf("remove job %q %q: %w", kind, key, err)
	}
	return nil
}

// Count counts the jobs of a kind that wait or go on, and those that were given up.
func Count(ctx context.Context, db *sqldb.DB, kind string) (waiting, failed int64, err error) {
	err = db.Get(ctx, `SELECT COALESCE(sum(1 - failed), 0), COALESCE(sum(failed), 0) FROM jobs WHERE kind = $1`, []any{kind}, &waiting, &failed)
	if err != nil {
		return 0, 0, fmt.Errorf("count jobs: %w", err)
	}
	return waiting, failed, nil
}
