package store

import (
	"context"
	"sync"
	"testing"
)

// TestUploadsAreClaimed is an unfinished upload that several processes want: one
// at a time has it, and its end, however it comes, frees it.
func TestUploadsAreClaimed(t *testing.T) {
	root := t.TempDir()
	a, b := open(t, root), open(t, root)
	set := func(s *Store, location string, left bool) {
		t.Helper()
		if err := s.SetUpload(t.Context(), "r.example/x", "key", location, left); err != nil {
			t.Fatal(err)
		}
	}
	want := func(s *Store, want string) {
		t.Helper()
		if got, err := s.ClaimUpload(t.Context(), "r.example/x", "key"); err != nil || got != want {
			t.Errorf("%q, %v; want %q", got, err, want)
		}
	}
	want(a, "")
	set(a, "1", false)
	want(b, "") // a works on it
	want(a, "") // and does not begin it twice
	set(b, "2", false)
	set(b, "", false)
	set(a, "3", true)
	want(b, "3")
	want(a, "")
	set(b, "4", true)

	var mu sync.Mutex
	var wait sync.WaitGroup
	got := map[string]int{}
	for i := range 8 {
		wait.Go(func() {
			location, err := []*Store{a, b}[i%2].ClaimUpload(context.Background(), "r.example/x", "key")
			mu.Lock()
			defer mu.Unlock()
			if err != nil {
				t.Error(err)
			}
			got[location]++
		})
	}
	wait.Wait()
	if got["4"] != 1 || got[""] != 7 {
		t.Errorf("claimed: %v", got)
	}

	set(a, "5", true)
	set(b, "5", true)
	want(a, "5")
	if err := a.Close(); err != nil {
		t.Fatal(err)
	}
	want(b, "5") // whoever had it is gone
	set(b, "", false)
	want(b, "")
}
