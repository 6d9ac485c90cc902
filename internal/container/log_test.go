package container

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/moby/moby/api/types/container"
)

// newTestLog is a table with one log, of files of at most 200 bytes.
func newTestLog(t *testing.T) (*Table, *Container, *Log) {
	t.Helper()
	table, c := &Table{Root: t.TempDir()}, &Container{ID: "c1"}
	c.Spec.HostConfig = &container.HostConfig{}
	c.Spec.HostConfig.LogConfig.Config = map[string]string{"max-size": "200", "max-file": "2"}
	if err := os.MkdirAll(table.Path(c.ID), 0o700); err != nil {
		t.Fatal(err)
	}
	log, err := table.OpenLog(c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = log.Close() })
	return table, c, log
}

func readTestLog(t *testing.T, table *Table, c *Container) (text string) {
	t.Helper()
	err := table.ReadLog(context.Background(), c, LogOptions{Tail: -1, Each: func(l LogLine) error {
		text += l.Text
		return nil
	}})
	if err != nil {
		t.Fatal(err)
	}
	return text
}

// A log that cannot be rotated is written on, loses nothing, and is rotated later.
func TestRotateFails(t *testing.T) {
	table, c, log := newTestLog(t)
	path := table.LogPath(c.ID)
	for _, obstacle := range []string{path + ".new", path + ".1"} {
		if err := os.MkdirAll(filepath.Join(obstacle, "full"), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	var want string
	failed := 0
	for i := range 8 {
		text := strings.Repeat("x", i) + "\n"
		want += text
		if log.add("stdout", []byte(text), time.Now()) != nil {
			failed++
		}
		if i == 4 {
			if err := os.RemoveAll(path + ".new"); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := os.RemoveAll(path + ".1"); err != nil {
		t.Fatal(err)
	}
	if got := readTestLog(t, table, c); got != want || failed == 0 {
		t.Errorf("the log has %q, want %q; %d failures", got, want, failed)
	}
	want += "after\n"
	if err := log.add("stdout", []byte("after\n"), time.Now()); err != nil {
		t.Fatal(err)
	}
	if got := readTestLog(t, table, c); got != want {
		t.Errorf("the log has %q, want %q", got, want)
	}
	if info, err := os.Stat(path); err != nil || info.Size() > 200 {
		t.Errorf("it was not rotated: %v", err)
	}
}

// An entry that was cut short takes none of those after it with it.
func TestTornEntry(t *testing.T) {
	table, c, log := newTestLog(t)
	if err := log.Close(); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(table.LogPath(c.ID), []byte(`{"log":"lo`), 0o600); err != nil {
		t.Fatal(err)
	}
	log, err := table.OpenLog(c)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = log.Close() }()
	for _, text := range []string{"one\n", "two\n"} {
		if err := log.add("stdout", []byte(text), time.Now()); err != nil {
			t.Fatal(err)
		}
	}
	if got := readTestLog(t, table, c); got != "one\ntwo\n" {
		t.Errorf("the log has %q", got)
	}
}
