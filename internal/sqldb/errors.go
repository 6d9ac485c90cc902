package sqldb

import (
	"database/sql"
	"errors"

	"modernc.org/sqlite"
)

// Codes of SQLite, the first of which is the low byte of several.
const (
	sqliteBusy       = 5    // SQLITE_BUSY
	sqlitePrimaryKey = 1555 // SQLITE_CONSTRAINT_PRIMARYKEY
	sqliteUnique     = 2067 // SQLITE_CONSTRAINT_UNIQUE
	sqliteRowID      = 2579 // SQLITE_CONSTRAINT_ROWID
)

// States of PostgreSQL: its manual's appendix A.
const (
	pgUnique        = "23505" // unique_violation
	pgSerialization = "40001" // serialization_failure
	pgDeadlock      = "40P01" // deadlock_detected
)

// sqlState is what an error of PostgreSQL says, or "".
func sqlState(err error) string {
	var e interface{ SQLState() string }
	if errors.As(err, &e) {
		return e.SQLState()
	}
	return ""
}

// IsUnique tells whether err says that a row with that key is there already.
// In PostgreSQL nothing more can be done in the transaction that failed so:
// where that is to go on, ON CONFLICT DO NOTHING is the way.
func IsUnique(err error) bool {
	var e *sqlite.Error
	if errors.As(err, &e) {
		return e.Code() == sqlitePrimaryKey || e.Code() == sqliteUnique || e.Code() == sqliteRowID
	}
	return sqlState(err) == pgUnique
}

// isTransient tells whether err says that a transaction did nothing and may
// succeed when it is done again: another connection holds the lock, another
// transaction came between, or the server never saw it.
func isTransient(err error) bool {
	var e *sqlite.Error
	if errors.As(err, &e) {
		return e.Code()&0xff == sqliteBusy
	}
	if state := sqlState(err); state != "" {
		return state == pgSerialization || state == pgDeadlock
	}
	var unsent interface{ SafeToRetry() bool } // of the driver of PostgreSQL
	return errors.As(err, &unsent) && unsent.SafeToRetry()
}

// ScanAll calls scan for every row and closes rows.
func ScanAll(rows *sql.Rows, scan func() error) (err error) {
	defer func() { err = errors.Join(err, rows.Close()) }()
	for rows.Next() {
		if err := scan(); err != nil {
			return err
		}
	}
	return rows.Err()
}
