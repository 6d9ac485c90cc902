package scandb

import (
	"context"
	"database/sql"
	"encoding/json"
	"fmt"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"strake/internal/image"
	"strake/internal/jobs"
	"strake/internal/sqldb"
)

const (
	missingKey   = "images"
	missingBatch = 200              // images that are enqueued at once
	missingMost  = 500              // scans that wait while more are enqueued
	missingEvery = time.Hour        // that it is looked for images
	missingSoon  = 10 * time.Second // while there are some
)

// ScheduleMissing has the images scanned whose scan nobody asked for: those that
// were pushed before there were scans, or by a program that knew of none. It is
// looked for them from now on; where there are none, that reads an empty index.
func ScheduleMissing(ctx context.Context, db *sqldb.DB) error {
	return db.Update(ctx, func(tx *sql.Tx) error { return addMissing(ctx, tx, time.Time{}) })
}

func addMissing(ctx context.Context, tx *sql.Tx, due time.Time) error {
	return jobs.Add(ctx, tx, jobs.Job{Kind: MissingJob, Key: missingKey, NotBefore: due})
}

func (s *Scanner) missingJob(ctx context.Context, _ jobs.Job) error {
	return s.DB.Update(ctx, func(tx *sql.Tx) error {
		more, err := enqueueMissing(ctx, tx)
		if err != nil {
			return fmt.Errorf("find images that were not scanned: %w", err)
		}
		pause := missingEvery
		if more {
			pause = missingSoon
		}
		return addMissing(ctx, tx, time.Now().Add(pause))
	})
}

// enqueueMissing enqueues some of the images whose scan nobody asked for; more tells
// that there may be others.
func enqueueMissing(ctx context.Context, tx *sql.Tx) (more bool, err error) {
	waiting := 0
	err = tx.QueryRowContext(ctx, fmt.Sprintf("SELECT count(*) FROM (SELECT 1 FROM jobs WHERE kind = $1 AND failed = 0 LIMIT %d) AS j", missingMost), ScanJob).Scan(&waiting)
	if err != nil || waiting >= missingMost {
		return true, err
	}
	var list []Task
	err = sqldb.Each(ctx, tx, fmt.Sprintf(`SELECT m.digest, m.media_type, m.size, r.name FROM manifests m JOIN repositories r ON r.id = m.repository
		WHERE m.scan_asked = 0 ORDER BY m.digest LIMIT %d`, missingBatch), nil, func(rows *sql.Rows) error {
		var t Task
		var dgst string
		err := rows.Scan(&dgst, &t.Desc.MediaType, &t.Desc.Size, &t.Repository)
		t.Desc.Digest = digest.Digest(dgst)
		list = append(list, t)
		return err
	})
	if err != nil {
		return false, err
	}
	for _, t := range list {
		if err := Enqueue(ctx, tx, t); err != nil {
			return false, err
		}
	}
	return len(list) == missingBatch, nil
}

// Enqueue has an image of the Hub scanned, in the caller's transaction. An index is none; an
// artifact is passed over when the job is done.
func Enqueue(ctx context.Context, tx *sql.Tx, task Task) error {
	if _, err := tx.ExecContext(ctx, "UPDATE manifests SET scan_asked = 1 WHERE digest = $1 AND scan_asked = 0", task.Desc.Digest.String()); err != nil {
		return fmt.Errorf("scan %s: %w", task.Desc.Digest, err)
	}
	if image.IsIndex(task.Desc.MediaType) {
		return nil
	}
	payload, err := json.Marshal(task)
	if err != nil {
		return fmt.Errorf("scan %s: %w", task.Desc.Digest, err)
	}
	return jobs.Add(ctx, tx, jobs.Job{Kind: ScanJob, Key: task.Desc.Digest.String(), Payload: string(payload)})
}

// Task is the payload of a ScanJob.
type Task struct {
	Repository string
	Desc       ocispec.Descriptor // of the manifest
}
