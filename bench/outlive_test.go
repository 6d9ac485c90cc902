//go:build linux

package main

import (
	"os/exec"
	"strings"
	"testing"
	"time"
)

// What a command leaves running is adopted: its CPU time counts, and nothing of it stays. A container that stays is not waited for, and its
// helpers' memory is told.
func TestWhatOutlivesACommandCounts(t *testing.T) {
	if err := adoptOrphans(); err != nil {
		t.Fatal(err)
	}
	before, _, err := lookOutlived(nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	sh := func(script string) {
		t.Helper()
		if out, err := exec.CommandContext(t.Context(), "sh", "-c", script).CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
	}
	sh("(i=0; while [ $i -lt 300000 ]; do i=$((i+1)); done) >/dev/null 2>&1 &")
	spent, err := spentSince(nil, before, false)
	if err != nil || spent < 10*time.Millisecond {
		t.Errorf("a loop that outlived its command used %v, %v", spent, err)
	}
	if left, err := orphans(nil); err != nil || len(left) > 0 {
		t.Errorf("orphans %v, %v", left, err)
	}
	held, err := helperMemory()
	if err != nil {
		t.Fatal(err)
	}
	sh("sleep 100 >/dev/null 2>&1 &")
	start := time.Now()
	if _, err := spentSince(nil, before, true); err != nil || time.Since(start) > outliveLimit/2 {
		t.Errorf("what stays is waited for: %v", err)
	}
	if now, err := helperMemory(); err != nil || now.Private <= held.Private || now.PSS <= held.PSS {
		t.Errorf("memory %+v beside %+v, %v", now, held, err)
	}
	if err := killOrphans(nil); err != nil {
		t.Error(err)
	}
	if left, err := orphans(nil); err != nil || len(left) > 0 {
		t.Errorf("orphans %v, %v", left, err)
	}
}

func TestReportOfMemory(t *testing.T) {
	r := record{Group: "containers", Whole: true, Steps: []stepRecord{{Name: "idle", Results: []result{
		{Tool: "strake", Samples: []sample{{Wall: 1, PSS: 3_000_000, Private: 2_000_000}}},
	}}}}
	text := writeReport([]record{r})
	for _, want := range []string{"| PSS MB | private MB |\n", "| 3.0 | 2.0 |\n", "processes that outlive their commands"} {
		if !strings.Contains(text, want) {
			t.Errorf("no %q in\n%s", want, text)
		}
	}
}
