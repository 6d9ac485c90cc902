//go:build linux

package main

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	"strake/internal/hubdb"
	"strake/internal/sqldb"
)

// A cost is what something took: by the clock and of the processor.
type cost struct{ wall, cpu time.Duration }

// A size is what was measured of a Hub with so many manifests.
type size struct {
	manifests int
	database  int64 // bytes
	requests  []figures
	idle      cost // a collection that finds nothing
	changed   cost // one after 1 % of the manifests were deleted
	full      cost // one that looks at all
	backup    cost // of the database alone
}

// runScale fills a Hub with rows, and measures it at each size.
func runScale(ctx context.Context, o options, out io.Writer) (err error) {
	dir, err := os.MkdirTemp("", "sbh")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	cases := scaleCases()
	var sizes []size
	for from := 0; len(sizes) < len(o.scale); {
		to := o.scale[len(sizes)]
		s, err := measureSize(ctx, o, dir, cases, from, to)
		if err != nil {
			return fmt.Errorf("%d manifests: %w", to, err)
		}
		sizes, from = append(sizes, s), to
	}
	_, err = io.WriteString(out, scaleTable(cases, sizes))
	return err
}

// alone is strake-hub that collects no garbage by itself.
var alone = kind{name: "strake-hub", start: func(o options, addr, dir string) ([]string, error) {
	return append([]string{o.hub, "serve", "--addr", addr, "--log-level", "warn", "--gc-interval", "0"}, place(o, dir)...), nil
}}

func measureSize(ctx context.Context, o options, dir string, cases []loadCase, from, to int) (s size, err error) {
	s.manifests = to
	log.Printf("generating up to %d", to)
	if err := withDatabase(ctx, o, dir, func(db *sqldb.DB) error { return generate(ctx, db, from, to) }); err != nil {
		return s, err
	}
	server, err := startServer(ctx, alone, o, dir)
	if err != nil {
		return s, err
	}
	err = server.fill(ctx, 0)
	for _, c := range cases {
		if err != nil {
			break
		}
		var f figures
		if f, err = load(ctx, server, c, 1, lasting(o.last)); err == nil {
			log.Printf("%-12s %s", c.name, f) // #nosec G706 -- figures and names of this program
			s.requests = append(s.requests, f)
		}
	}
	if err := errors.Join(err, server.Close()); err != nil {
		return s, err
	}
	return s, s.maintain(ctx, o, dir)
}

// maintain measures what is done beside serving.
func (s *size) maintain(ctx context.Context, o options, dir string) (err error) {
	gc := append([]string{o.hub, "gc"}, place(o, dir)...)
	if _, err := spend(ctx, gc); err != nil { // what was pushed
		return err
	}
	if s.idle, err = spend(ctx, gc); err != nil {
		return err
	}
	if err := withDatabase(ctx, o, dir, func(db *sqldb.DB) error { return change(ctx, db) }); err != nil {
		return err
	}
	if s.changed, err = spend(ctx, gc); err != nil {
		return err
	}
	if s.full, err = spend(ctx, append(gc, "--full")); err != nil {
		return err
	}
	copied := filepath.Join(dir, "copy")
	if o.database != "" {
		s.backup, err = spend(ctx, []string{"pg_dump", "--format=custom", "--compress=1", "--file", copied, o.database})
	} else {
		err = withDatabase(ctx, o, dir, func(db *sqldb.DB) error {
			begun := time.Now()
			err := db.Backup(ctx, copied)
			s.backup.wall = time.Since(begun)
			return err
		})
	}
	if err == nil {
		err = os.Remove(copied)
	}
	if err != nil {
		return err
	}
	s.database, err = databaseSize(ctx, o, dir)
	return err
}

// place are the flags that say where the Hub's data are.
func place(o options, dir string) []string {
	args := []string{"--data", dir}
	if o.database != "" {
		args = append(args, "--database", o.database)
	}
	return args
}

// withDatabase calls use with the Hub's database.
func withDatabase(ctx context.Context, o options, dir string, use func(db *sqldb.DB) error) error {
	where := o.database
	if where == "" {
		where = filepath.Join(dir, "hub.db")
	}
	db, err := hubdb.Open(ctx, where)
	if err != nil {
		return err
	}
	return errors.Join(use(db), db.Close())
}

// databaseSize is how many bytes of the disk the database has.
func databaseSize(ctx context.Context, o options, dir string) (n int64, err error) {
	if o.database == "" {
		info, err := os.Stat(filepath.Join(dir, "hub.db"))
		if err != nil {
			return 0, err
		}
		return info.Size(), nil
	}
	err = withDatabase(ctx, o, dir, func(db *sqldb.DB) error {
		return db.View(ctx, func(tx *sql.Tx) error {
			return tx.QueryRowContext(ctx, `SELECT pg_database_size(current_database())`).Scan(&n)
		})
	})
	return n, err
}

// spend runs a command to its end.
func spend(ctx context.Context, args []string) (c cost, err error) {
	cmd := exec.CommandContext(ctx, args[0], args[1:]...) // #nosec G204 -- of this program
	begun := time.Now()
	out, err := cmd.CombinedOutput()
	c.wall = time.Since(begun)
	if err != nil {
		return c, fmt.Errorf("%v: %w: %s", args, err, out)
	}
	c.cpu = cmd.ProcessState.UserTime() + cmd.ProcessState.SystemTime()
	log.Printf("%s: %v, %v of the processor: %s", args[1], c.wall, c.cpu, out) // #nosec G706 -- the same
	return c, nil
}

// scaleCases are what people and clients ask for.
func scaleCases() []loadCase {
	get := func(path string) func(c *client) error {
		return func(c *client) error {
			_, err := c.send("GET", path, nil, 200, -1)
			return err
		}
	}
	return []loadCase{
		{"by tag", "GET of a manifest by its tag", (*client).manifest},
		{"by digest", "GET of a manifest by its digest", (*client).manifestByDigest},
		{"100 tags", "the first 100 tags of the largest repository, which has a tenth of the manifests", get("/v2/gen/big/tags/list?n=100")},
		{"100 tags on", "100 tags from the middle of it", get("/v2/gen/big/tags/list?n=100&last=v5")},
		{"catalogue", "100 repositories from the middle of the list", get("/v2/_catalog?n=100&last=gen/r5")},
		{"push", "a small image: its config, its manifest and a tag", (*client).push},
	}
}

func (c *client) manifestByDigest() error {
	_, err := c.send("GET", c.s.content.byDigest[c.random.IntN(images)], nil, 200, c.s.content.size)
	return err
}

// push pushes an image whose layer is there.
func (c *client) push() error {
	var m map[string]any
	if err := json.Unmarshal(c.s.content.manifest, &m); err != nil {
		return err
	}
	config := fmt.Appendf(nil, `{"architecture":"amd64","os":"linux","created":"%d","rootfs":{"type":"layers","diff_ids":[]}}`, c.random.Uint64())
	at, err := c.send("POST", "/v2/team/app/blobs/uploads/", nil, 202, 0)
	if err != nil {
		return err
	}
	if _, err := c.send("PUT", withDigest(path(at), digestOf(config)), config, 201, 0); err != nil {
		return err
	}
	m["config"] = descriptor{"application/vnd.docker.container.image.v1+json", digestOf(config), len(config)}
	b, err := json.Marshal(m)
	if err != nil {
		return err
	}
	_, err = c.sendTyped("PUT", fmt.Sprintf("/v2/team/app/manifests/pushed-%d", c.random.Uint64()), manifestType, b, 201, 0)
	return err
}

// scaleTable shows the figures as Markdown.
func scaleTable(cases []loadCase, sizes []size) string {
	head, line := "| |", "|---|"
	for _, s := range sizes {
		head += fmt.Sprintf(" %d |", s.manifests)
		line += "---:|"
	}
	table := head + "\n" + line + "\n"
	row := func(name string, cell func(s size) string) {
		table += "| " + name + " |"
		for _, s := range sizes {
			table += " " + cell(s) + " |"
		}
		table += "\n"
	}
	for i, c := range cases {
		row(c.title, func(s size) string {
			f := s.requests[i]
			return fmt.Sprintf("%v, %v", short(f.p50), short(f.cpu))
		})
	}
	row("memory of the server, peak", func(s size) string {
		peak := int64(0)
		for _, f := range s.requests {
			peak = max(peak, f.rss)
		}
		return fmt.Sprintf("%d MB", peak/1e6)
	})
	spent := func(what func(s size) cost) func(s size) string {
		return func(s size) string {
			c := what(s)
			return fmt.Sprintf("%.1f s, %.1f s", c.wall.Seconds(), c.cpu.Seconds())
		}
	}
	row("gc, nothing to do", spent(func(s size) cost { return s.idle }))
	row("gc, 1 % deleted", spent(func(s size) cost { return s.changed }))
	row("gc --full", spent(func(s size) cost { return s.full }))
	row("backup of the database", func(s size) string { return fmt.Sprintf("%.1f s", s.backup.wall.Seconds()) })
	row("size of the database", func(s size) string { return fmt.Sprintf("%d MB", s.database/1e6) })
	return table
}
