package sqldb

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"fmt"
	"net/url"
	"os"

	"modernc.org/sqlite"
)

// Rehearse calls fn in a writing transaction of a copy of the database, in
// memory, as it is at this moment. Nobody waits for it and it waits for nobody;
// what fn changes is gone when Rehearse returns. Of SQLite only.
func (db *DB) Rehearse(ctx context.Context, fn func(tx *sql.Tx) error) (err error) {
	if err := db.needSQLite(); err != nil {
		return fmt.Errorf("copy database: %w", err)
	}
	conn, err := db.reader.Conn(ctx)
	if err != nil {
		return fmt.Errorf("copy database: %w", err)
	}
	defer func() { err = errors.Join(err, conn.Close()) }()
	var copied held
	if err := conn.Raw(func(c any) error { copied.conn, err = inMemory(c); return err }); err != nil {
		return fmt.Errorf("copy database: %w", err)
	}
	pool := sql.OpenDB(copied)
	pool.SetMaxOpenConns(1)
	defer func() { err = errors.Join(err, pool.Close()) }()
	return transact(ctx, pool, nil, fn)
}

// copier is a connection of the driver's.
type copier interface {
	NewBackup(to string) (*sqlite.Backup, error)
}

// inMemory copies the database of a connection of the driver's.
func inMemory(conn any) (driver.Conn, error) {
	from, ok := conn.(copier)
	if !ok {
		return nil, fmt.Errorf("%T makes no copies", conn)
	}
	b, err := from.NewBackup(":memory:")
	if err != nil {
		return nil, err
	}
	if _, err := b.Step(-1); err != nil {
		return nil, errors.Join(err, b.Finish())
	}
	return b.Commit()
}

// held is a driver.Connector of one connection, which is there already.
type held struct{ conn driver.Conn }

// Connect implements driver.Connector.
func (h held) Connect(context.Context) (driver.Conn, error) { return h.conn, nil }

// Driver implements driver.Connector.
func (h held) Driver() driver.Driver { return nil }

// Backup copies the database, as it is at this moment, to the file path, which
// is not there yet. Nobody waits for it and it waits for nobody. The copy is
// durable when Backup returns. Of SQLite only.
func (db *DB) Backup(ctx context.Context, path string) (err error) {
	if err := db.needSQLite(); err != nil {
		return fmt.Errorf("back up database: %w", err)
	}
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return fmt.Errorf("back up database: %w", err)
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	conn, err := db.reader.Conn(ctx)
	if err != nil {
		return fmt.Errorf("back up database: %w", err)
	}
	defer func() { err = errors.Join(err, conn.Close()) }()
	err = conn.Raw(func(c any) error {
		from, ok := c.(copier)
		if !ok {
			return fmt.Errorf("%T makes no copies", c)
		}
		b, err := from.NewBackup("file:" + (&url.URL{Path: path}).EscapedPath())
		if err != nil {
			return err
		}
		_, err = b.Step(-1)
		return errors.Join(err, b.Finish())
	})
	if err == nil {
		err = f.Sync()
	}
	if err != nil {
		return fmt.Errorf("back up database: %w", err)
	}
	return nil
}
