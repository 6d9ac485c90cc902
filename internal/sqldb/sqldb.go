// Package sqldb opens, migrates and transacts an SQL database.
//
// A database is one SQLite file in WAL mode, which any number of processes use
// at once. A transaction is either an update or a view. An update takes the
// write lock of the file when it begins (BEGIN IMMEDIATE), so it never fails
// half-way because another process wrote first, and it is durable when Update
// returns (synchronous=FULL: one fsync). A view reads one consistent state and
// neither blocks nor is blocked.
//
// The files beside the database, -wal and -shm, stay when the last connection
// closes, the first of them emptied: to make and to remove them again costs a
// short command more than what it reads.
//
// A migration is a file NNNN_name.sql, NNNN counting from 0001 without a gap.
// How many were applied is the version of the database (PRAGMA user_version).
//
// Statements keep to the dialect that SQLite and PostgreSQL share: $1, ON
// CONFLICT ... RETURNING, TEXT and BIGINT.
package sqldb

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"sync"
	"time"

	"modernc.org/sqlite"
)

const (
	busyTimeout = 30 * time.Second       // how long SQLite waits for a lock
	retryFor    = time.Minute            // after which Update begins no other try
	retryPause  = 100 * time.Millisecond // longest pause between tries

	sqliteBusy = 5 // SQLITE_BUSY, the low byte of its extended codes
)

// Options say which database to open.
type Options struct {
	Path string // of the SQLite file, which is made when it lacks, with mode 0600
}

// DB is a database. Its methods are safe for concurrent use.
type DB struct {
	path   string
	writer *sql.DB // one connection
	reader *sql.DB

	mu    sync.Mutex
	stmts map[string]*sql.Stmt // of Get, by their text
}

// Open opens a database. It connects when the first transaction begins.
func Open(ctx context.Context, opts Options) (*DB, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	path, err := filepath.Abs(opts.Path)
	if err != nil {
		return nil, fmt.Errorf("open database %q: %w", opts.Path, err)
	}
	// SQLite gives the files beside it the mode that this one has.
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("open database: %w", err)
	}
	if err := f.Close(); err != nil {
		return nil, fmt.Errorf("open database: %w", err)
	}
	db := &DB{path: path, stmts: map[string]*sql.Stmt{}}
	if db.writer, err = connect(path, "journal_mode(WAL)", "synchronous(FULL)"); err != nil {
		return nil, fmt.Errorf("open database %q: %w", path, err)
	}
	if db.reader, err = connect(path, "query_only(1)"); err != nil {
		return nil, errors.Join(fmt.Errorf("open database %q: %w", path, err), db.writer.Close())
	}
	db.writer.SetMaxOpenConns(1)
	db.reader.SetMaxIdleConns(4)
	return db, nil
}

// connect returns a pool of connections on which the pragmas were run.
func connect(path string, pragmas ...string) (*sql.DB, error) {
	q := url.Values{
		"_txlock": {"immediate"}, // of transactions that are not read-only
		"_pragma": append(pragmas, fmt.Sprintf("busy_timeout(%d)", busyTimeout.Milliseconds()), "foreign_keys(1)", "journal_size_limit(0)"),
	}
	c, err := sqlite.NewConnector("file:" + (&url.URL{Path: path}).EscapedPath() + "?" + q.Encode())
	if err != nil {
		return nil, err
	}
	return sql.OpenDB(keepWAL{c}), nil
}

// keepWAL makes connections that leave the WAL in place when they close.
type keepWAL struct{ driver.Connector }

// Connect implements driver.Connector.
func (k keepWAL) Connect(ctx context.Context) (driver.Conn, error) {
	conn, err := k.Connector.Connect(ctx)
	if err != nil {
		return nil, err
	}
	if fc, ok := conn.(sqlite.FileControl); ok {
		if _, err := fc.FileControlPersistWAL("main", 1); err != nil {
			return nil, errors.Join(err, conn.Close())
		}
	}
	return conn, nil
}

// Close closes all connections. No transaction may be under way.
func (db *DB) Close() error {
	db.mu.Lock()
	defer db.mu.Unlock()
	var errs []error
	for _, stmt := range db.stmts {
		errs = append(errs, stmt.Close())
	}
	if err := errors.Join(append(errs, db.reader.Close(), db.writer.Close())...); err != nil {
		return fmt.Errorf("close database %q: %w", db.path, err)
	}
	return nil
}

// Update calls fn in a writing transaction, of which there is one at a time, and
// commits it when fn returns nil, otherwise rolls it back and returns fn's
// error. When Update returns nil the changes are durable. Where the database was
// busy for long, fn is called again after a rollback, so its effects outside the
// transaction must bear that. fn must not call Update.
func (db *DB) Update(ctx context.Context, fn func(tx *sql.Tx) error) error {
	return retry(ctx, func() error { return transact(ctx, db.writer, nil, fn) })
}

// Note is Update for what nobody misses after a loss of power: it does not wait
// for the disk. What it wrote becomes durable with the next Update, of whatever
// process; a crash of the process alone loses nothing.
func (db *DB) Note(ctx context.Context, fn func(tx *sql.Tx) error) error {
	return retry(ctx, func() (err error) {
		conn, err := db.writer.Conn(ctx)
		if err != nil {
			return fmt.Errorf("begin transaction: %w", err)
		}
		defer func() { err = errors.Join(err, conn.Close()) }()
		if _, err := conn.ExecContext(ctx, "PRAGMA synchronous=NORMAL"); err != nil {
			return fmt.Errorf("begin transaction: %w", err)
		}
		err = transact(ctx, conn, nil, fn)
		// The connection is the one that Update uses.
		if _, fullErr := conn.ExecContext(context.WithoutCancel(ctx), "PRAGMA synchronous=FULL"); fullErr != nil {
			return errors.Join(err, fmt.Errorf("end transaction: %w", fullErr))
		}
		return err
	})
}

// retry calls try again while it fails because the database is busy.
func retry(ctx context.Context, try func() error) error {
	start := time.Now()
	for pause := time.Millisecond; ; pause = min(2*pause, retryPause) {
		err := try()
		if !isBusy(err) || time.Since(start) > retryFor {
			return err
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%w: %w", err, ctx.Err())
		case <-time.After(pause):
		}
	}
}

// View calls fn in a transaction that sees one state of the database and cannot
// change it.
func (db *DB) View(ctx context.Context, fn func(tx *sql.Tx) error) error {
	return transact(ctx, db.reader, &sql.TxOptions{ReadOnly: true}, fn)
}

// Get reads the first row of a query into dest, in a view of its own. The query,
// one of few constants, is prepared once: what is looked up often and one by one
// belongs here. It fails with sql.ErrNoRows when there is none.
func (db *DB) Get(ctx context.Context, query string, args []any, dest ...any) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	// One row is there before a cancelled context could be noticed, and to
	// listen for that costs more than the row.
	ctx = context.WithoutCancel(ctx)
	db.mu.Lock()
	stmt := db.stmts[query]
	if stmt == nil {
		var err error
		if stmt, err = db.reader.PrepareContext(ctx, query); err != nil {
			db.mu.Unlock()
			return err
		}
		db.stmts[query] = stmt
	}
	db.mu.Unlock()
	return stmt.QueryRowContext(ctx, args...).Scan(dest...)
}

// beginner is a pool of connections, or one.
type beginner interface {
	BeginTx(ctx context.Context, opts *sql.TxOptions) (*sql.Tx, error)
}

// transact calls fn in one transaction of pool.
func transact(ctx context.Context, pool beginner, opts *sql.TxOptions, fn func(tx *sql.Tx) error) error {
	tx, err := pool.BeginTx(ctx, opts)
	if err != nil {
		return fmt.Errorf("begin transaction: %w", err)
	}
	defer tx.Rollback() //nolint:errcheck // does nothing after Commit; after an error that error counts
	if err := fn(tx); err != nil {
		return err
	}
	if err := tx.Commit(); err != nil {
		return fmt.Errorf("commit transaction: %w", err)
	}
	return nil
}

// isBusy tells whether err says that another connection holds the lock.
func isBusy(err error) bool {
	var e *sqlite.Error
	return errors.As(err, &e) && e.Code()&0xff == sqliteBusy
}
