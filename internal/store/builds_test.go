package store

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"
)

// TestBuildsAreBounded: the oldest records go with their logs, by number and by size, and what a dead build left.
func TestBuildsAreBounded(t *testing.T) {
	s := open(t, t.TempDir())
	dead := filepath.Join(s.Root(), "builds", "dead.log")
	save := func(id string, log int) {
		t.Helper()
		if err := s.SaveBuild(t.Context(), id, []byte(id), make([]byte, log)); err != nil {
			t.Fatal(err)
		}
		at := time.Now().Add(-time.Minute)
		if err := os.Chtimes(filepath.Join(s.Root(), "builds", id+".json"), at, at); err != nil {
			t.Fatal(err)
		}
	}
	save("0", 1)
	if err := os.WriteFile(dead, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for i := range maxBuilds {
		save(fmt.Sprint(i+1), 1)
		at := time.Now().Add(time.Duration(i-2*maxBuilds) * time.Hour)
		if err := os.Chtimes(filepath.Join(s.Root(), "builds", fmt.Sprint(i+1)+".json"), at, at); err != nil {
			t.Fatal(err)
		}
	}
	long := time.Now().Add(-2 * time.Hour)
	if err := os.Chtimes(dead, long, long); err != nil {
		t.Fatal(err)
	}
	for i := range spareBuilds {
		if values, err := s.Builds(t.Context()); err != nil || len(values) != maxBuilds+1+i {
			t.Fatalf("%d records, %v", len(values), err)
		}
		save(fmt.Sprint("last", i), 1)
	}
	values, err := s.Builds(t.Context())
	if err != nil || len(values) != maxBuilds || string(values[0]) != fmt.Sprint("last", spareBuilds-1) || !bytes.Equal(values[spareBuilds], []byte("0")) {
		t.Errorf("%d records, the first %q: %v", len(values), values[0], err)
	}
	if _, err := os.Stat(dead); err == nil {
		t.Error("what a dead build left is there")
	}
	save("big", maxBuildBytes)
	values, err = s.Builds(t.Context())
	if err != nil || len(values) != 1 {
		t.Errorf("beside a big one there are %d records: %v", len(values)-1, err)
	}
	if log, err := s.BuildLog("0"); err != nil || len(log) > 0 {
		t.Errorf("the log of a record that is gone: %d bytes, %v", len(log), err)
	}
	if err := s.RemoveBuild("../strake"); err == nil {
		t.Error("removed what is no record")
	}
}
