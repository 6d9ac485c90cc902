package scandb

import (
	"context"
	"database/sql"
	"encoding/json"
	"fmt"
	"time"

	"github.com/containerd/errdefs"

	"strake/internal/jobs"
	"strake/internal/sqldb"
	"strake/internal/vuln"
)

// Status is how the scans of a Hub, and the data that they use, stand.
type Status struct {
	Sources []vuln.Source
	Feed    *Feed     // that is read by itself; nil: none
	Next    time.Time // that it is read
	Reading bool      // at the moment
	Error   string    // of the last time that it was read
	Scanned int64     // images
	Unknown int64     // of them: whose packages no data speaks of
	Waiting int64     // scans that were not begun or go on
	GivenUp int64     // scans that failed too often
}

// Stands tells how scans stand.
func Stands(ctx context.Context, db *sqldb.DB) (s Status, err error) {
	if s.Sources, err = vuln.Sources(ctx, db); err != nil {
		return s, err
	}
	list, err := jobs.List(ctx, db, RefreshJob, 1)
	if err != nil {
		return s, err
	}
	for _, job := range list {
		s.Feed = &Feed{}
		if err := json.Unmarshal([]byte(job.Payload), s.Feed); err != nil {
			return s, fmt.Errorf("feed of vulnerabilities: %w", err)
		}
		s.Next, s.Reading, s.Error = job.NotBefore, job.Running, job.Error
	}
	if s.Waiting, s.GivenUp, err = jobs.Count(ctx, db, ScanJob); err != nil {
		return s, err
	}
	err = db.Get(ctx, `SELECT count(*), COALESCE(sum(CASE matched WHEN 0 THEN 1 ELSE 0 END), 0) FROM scan_images`, nil, &s.Scanned, &s.Unknown)
	return s, err
}

// RefreshSoon has the feed read now. It fails with errdefs.ErrFailedPrecondition
// where none is scheduled.
func RefreshSoon(ctx context.Context, db *sqldb.DB) error {
	list, err := jobs.List(ctx, db, RefreshJob, 1)
	if err != nil {
		return err
	}
	if len(list) == 0 {
		return fmt.Errorf("no vulnerability data is read by itself: %w", errdefs.ErrFailedPrecondition)
	}
	return db.Update(ctx, func(tx *sql.Tx) error {
		return jobs.Add(ctx, tx, jobs.Job{Kind: RefreshJob, Key: refreshKey, Payload: list[0].Payload})
	})
}
