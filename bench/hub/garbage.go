//go:build linux

package main

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"log"
	"os"
	"path/filepath"
	"time"

	"github.com/opencontainers/go-digest"

	hubcontent "strake/internal/content"
	"strake/internal/hubdb"
)

// garbageClients is how many clients pull and push while garbage is collected.
const garbageClients = 8

// chunk is how many blobs are left in one transaction.
const chunk = 1000

// A collection is what one of so many blobs did to requests.
type collection struct {
	without, with figures
	cost          cost
}

// measureGarbage lets clients pull and push, without and with a collection of o.garbage blobs beside them, in turns. A request
// that fails ends it.
func measureGarbage(ctx context.Context, o options, dir string) (all []collection, err error) {
	s, err := startServer(ctx, alone, o, dir)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, s.Close()) }()
	if err := s.fill(ctx, 0); err != nil {
		return nil, err
	}
	mixed := cases[len(cases)-1]
	for round := range o.rounds {
		log.Printf("leaving %d blobs", o.garbage)
		if err := leave(ctx, dir, round*o.garbage, (round+1)*o.garbage); err != nil {
			return nil, fmt.Errorf("leave garbage: %w", err)
		}
		var c collection
		if c.without, err = load(ctx, s, mixed, garbageClients, lasting(o.last)); err != nil {
			return nil, err
		}
		done := make(chan error, 1)
		go func() {
			var err error
			c.cost, err = spend(ctx, []string{o.hub, "gc", "--data", dir})
			done <- err
		}()
		c.with, err = load(ctx, s, mixed, garbageClients, func(time.Duration) bool { return len(done) == 0 })
		if err := errors.Join(err, <-done); err != nil {
			return nil, err
		}
		log.Printf("gc         without %s", c.without) // #nosec G706 -- figures of this program
		log.Printf("gc         with    %s", c.with)    // #nosec G706 -- the same
		all = append(all, c)
	}
	return all, nil
}

// leave makes blobs that no manifest names, linked to a repository long ago, with the numbers from, ..., to-1.
func leave(ctx context.Context, dir string, from, to int) (err error) {
	store, err := hubcontent.NewDir(dir)
	if err != nil {
		return err
	}
	db, err := hubdb.Open(ctx, filepath.Join(dir, "hub.db"))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	for at := from; at < to; at += chunk { // the server writes between
		var blobs []descriptor
		for i := at; i < min(at+chunk, to); i++ {
			b := fmt.Appendf(nil, "garbage %d", i)
			if err := os.WriteFile(store.Path(digest.FromBytes(b)), b, 0o600); err != nil {
				return err
			}
			blobs = append(blobs, descriptor{Digest: digestOf(b), Size: len(b)})
		}
		if err := db.Note(ctx, func(tx *sql.Tx) error { return link(ctx, tx, blobs) }); err != nil {
			return err
		}
	}
	return nil
}

// link makes blobs known, and links to them, as of long ago.
func link(ctx context.Context, tx *sql.Tx, blobs []descriptor) error {
	for _, b := range blobs {
		if _, err := tx.ExecContext(ctx, `INSERT INTO contents (digest, epoch, size, touched) VALUES ($1, '', $2, 1)`, b.Digest, b.Size); err != nil {
			return err
		}
		if _, err := tx.ExecContext(ctx, `INSERT INTO blobs (repository, digest, size, linked) SELECT id, $1, $2, 1 FROM repositories WHERE name = 'team/app'`,
			b.Digest, b.Size); err != nil {
			return err
		}
	}
	return nil
}

// garbageReport is the section about collections; none says nothing.
func garbageReport(all []collection, o options) string {
	if len(all) == 0 {
		return ""
	}
	text := fmt.Sprintf("\n## Garbage collection while %d clients pull and push\n\n"+
		"The case mixed on strake-hub, without and with a collection of %d blobs that no manifest names (`strake-hub gc` beside the server, on the same cores and disk), in turns.\n"+
		"No request failed: one would end the measurement.\n\n| round | | requests/s | p50 | p99 | CPU | p99 against without |\n|---:|---|---:|---:|---:|---:|---:|\n", garbageClients, o.garbage)
	for i, c := range all {
		for _, row := range []struct {
			name string
			f    figures
		}{
			{"without", c.without},
			{fmt.Sprintf("with: %.1f s, %.1f s of the processor", c.cost.wall.Seconds(), c.cost.cpu.Seconds()), c.with},
		} {
			text += fmt.Sprintf("| %d | %s | %.0f | %v | %v | %v | %.2fx |\n", i+1, row.name, row.f.rate, short(row.f.p50), short(row.f.p99), short(row.f.cpu),
				float64(row.f.p99)/float64(c.without.p99))
		}
	}
	return text
}
