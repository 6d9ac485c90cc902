// Package store is the local image store: one directory, one SQLite file, any
// number of processes at once.
//
// A name points to a root descriptor (a manifest or an index) and to an image;
// an image is a config, whose digest is the image ID, and its layers. A layer
// is an uncompressed tar, kept under its diffID, and an EROFS index beside it.
// The compressed form in which a layer came is kept as one more blob.
//
// Order of writing: blobs and indexes are made durable, then one transaction
// makes them reachable. A process that works on digests holds a lease on them,
// so that GC, which removes all that no name, image, cache record or live lease
// reaches, leaves them alone. docs/design.md describes the format on disk.
package store

import (
	"context"
	"database/sql"
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"strake/internal/content"
	"strake/internal/sqldb"
	"strake/internal/userns"
)

//go:embed migrations/*.sql
var migrations embed.FS

// Options say which store to open.
type Options struct {
	Root       string        // its directory; "" is DefaultRoot()
	UndoWindow time.Duration // how long what is removed can be brought back; 0: not at all
	MaxSize    int64         // bytes on disk that the store may take, when Settle was called; 0: any
}

// DefaultRoot is the store's directory: STRAKE_ROOT, else /var/lib/strake for
// root, else $XDG_DATA_HOME/strake (~/.local/share/strake).
func DefaultRoot() string {
	if root := os.Getenv("STRAKE_ROOT"); root != "" {
		return root
	}
	if userns.IsRoot() {
		return "/var/lib/strake"
	}
	if data := os.Getenv("XDG_DATA_HOME"); data != "" {
		return filepath.Join(data, "strake")
	}
	return filepath.Join(os.Getenv("HOME"), ".local", "share", "strake")
}

// Store is an open store. Its methods are safe for concurrent use, in one
// process and across processes. It is an image.Source and an image.Target.
type Store struct {
	root   string
	db     *sqldb.DB
	schema fs.FS // the migrations
	*contents
	stager
	*builds
	*cache
	*cacheMounts
	*elsewhere
	*events
	*journal
	*collector
}

// Open opens the store, and makes it where there is none.
func Open(ctx context.Context, opts Options) (*Store, error) {
	root := opts.Root
	if root == "" {
		root = DefaultRoot()
	}
	root, err := filepath.Abs(root)
	if err != nil {
		return nil, fmt.Errorf("open store: %w", err)
	}
	for _, dir := range []string{root, filepath.Join(root, "indexes"), filepath.Join(root, "leases")} {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return nil, fmt.Errorf("open store: %w", err)
		}
	}
	blobs, err := content.NewDir(root)
	if err != nil {
		return nil, fmt.Errorf("open store %s: %w", root, err)
	}
	schema, err := fs.Sub(migrations, "migrations")
	if err != nil {
		return nil, err
	}
	db, err := sqldb.Open(ctx, sqldb.Options{Path: filepath.Join(root, "strake.db")})
	if err != nil {
		return nil, fmt.Errorf("open store %s: %w", root, err)
	}
	if err := db.Migrate(ctx, schema); err != nil {
		return nil, errors.Join(fmt.Errorf("open store %s: %w", root, err), db.Close())
	}
	held := &leases{root: root, db: db}
	files, undo := &contents{root, db, blobs, held}, &journal{db, opts.UndoWindow}
	collect := &collector{debris{files}, undo, opts.MaxSize, nearlyFull}
	blobs.Full = func() bool { return collect.Reclaim(context.WithoutCancel(ctx)) }
	return &Store{
		root: root, db: db, schema: schema, contents: files, stager: stager{files}, builds: &builds{root}, cache: &cache{db},
		cacheMounts: &cacheMounts{root, held}, elsewhere: &elsewhere{db, held}, events: &events{db},
		journal: undo, collector: collect,
	}, nil
}

// Close gives up the lease, removes the store's scratch directories and closes
// the database.
func (s *Store) Close() error {
	return errors.Join(s.close(), s.db.Close())
}

// Root is the store's directory.
func (s *Store) Root() string { return s.root }

// closing adds the error of a Close to err.
func closing(err *error, closer func() error) { *err = errors.Join(*err, closer()) }

// exists reports whether the query, one that selects a count, finds a row.
func exists(ctx context.Context, tx *sql.Tx, query string, args ...any) (bool, error) {
	var n int
	err := tx.QueryRowContext(ctx, "SELECT COUNT(*) FROM "+query, args...).Scan(&n)
	return n > 0, err
}
