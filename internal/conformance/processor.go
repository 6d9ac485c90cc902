package conformance

import (
	"bytes"
	"database/sql"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strconv"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"strake/internal/sqldb"
)

// ProcessorTime is how long processors have worked for this process and, where db
// is of PostgreSQL on this machine, for the connections to it. Unlike the time that
// went by it does not grow when others use the machine.
func ProcessorTime(t testing.TB, db *sqldb.DB) time.Duration {
	t.Helper()
	var own unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &own); err != nil {
		t.Fatal(err)
	}
	sum := time.Duration(own.Utime.Nano() + own.Stime.Nano())
	if db.Dialect() != sqldb.PostgreSQL {
		return sum
	}
	err := db.View(t.Context(), func(tx *sql.Tx) error {
		return sqldb.Each(t.Context(), tx, "SELECT pid FROM pg_stat_activity WHERE datname = current_database()", nil, func(rows *sql.Rows) error {
			var pid int
			if err := rows.Scan(&pid); err != nil {
				return err
			}
			d, err := timeOf(pid)
			sum += d
			return err
		})
	})
	if err != nil {
		t.Fatal(err)
	}
	return sum
}

// timeOf is how long processors have worked for a process; one that has ended has no time.
func timeOf(pid int) (sum time.Duration, err error) {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if errors.Is(err, fs.ErrNotExist) {
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	fields := bytes.Fields(stat[bytes.LastIndexByte(stat, ')')+1:])
	for _, ticks := range fields[11:13] { // utime and stime of proc_pid_stat(5), in hundredths of a second
		n, err := strconv.Atoi(string(ticks))
		if err != nil {
			return 0, err
		}
		sum += time.Duration(n) * 10 * time.Millisecond
	}
	return sum, nil
}
