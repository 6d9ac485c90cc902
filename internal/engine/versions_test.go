package engine

import (
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestCompareVersions(t *testing.T) {
	want := []string{
		"20240101", "24.04", "v3.0.0", "3.0.0-rc10", "3.0.0-rc9", "3.0.0-alpha.2", "2.10.1", "2.10", "2.9", "2.9-alpine",
		"2.0.1", "2", "1.27.3-bookworm", "0.0.1", "3d", "alpine", "bookworm", "latest",
	}
	got := slices.Clone(want)
	slices.Sort(got)
	slices.SortStableFunc(got, func(a, b string) int { return compareVersions(b, a) })
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

func FuzzCompareVersions(f *testing.F) {
	f.Add("1.2-rc1", "1.2", "v1")
	f.Fuzz(func(t *testing.T, a, b, c string) {
		ab, ba := compareVersions(a, b), compareVersions(b, a)
		if ab != -ba || a == b && ab != 0 {
			t.Errorf("%q, %q: %d, %d", a, b, ab, ba)
		}
		if ab < 0 && compareVersions(b, c) < 0 && compareVersions(a, c) >= 0 {
			t.Errorf("%q < %q < %q, but not the first and the last", a, b, c)
		}
	})
}
