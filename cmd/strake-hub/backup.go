package main

import (
	"context"
	"errors"
	"flag"
	"fmt"

	"github.com/docker/go-units"

	"strake/internal/hub"
)

// backupNotes ends the help of backup and restore.
const backupNotes = `Of a Hub whose database and blobs are in --data. For PostgreSQL and S3 see
docs/operations.md.
`

func prepareBackup(f *flag.FlagSet) action { return prepareCopy(f, "Backed up", hub.Backup) }

func prepareRestore(f *flag.FlagSet) action {
	return prepareCopy(f, "Restored", func(ctx context.Context, data, dir string) (hub.BackupResult, error) {
		return hub.Restore(ctx, dir, data)
	})
}

// prepareCopy is a command that copies between --data and its argument.
func prepareCopy(f *flag.FlagSet, done string, run func(ctx context.Context, data, dir string) (hub.BackupResult, error)) action {
	var p place
	f.StringVar(&p.data, "data", "", "Directory that holds the registry (required)")
	return func(ctx context.Context, s streams, args []string) error {
		if p.data == "" {
			return usageError{errors.New("--data is required")}
		}
		r, err := run(ctx, p.data, args[0])
		if err != nil {
			return err
		}
		_, err = fmt.Fprintf(s.out, "%s %d blobs, %s (%d new)\n", done, r.Blobs, units.HumanSize(float64(r.Bytes)), r.New)
		return err
	}
}
