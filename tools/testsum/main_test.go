package main

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

const excuses = `
# comment
always   no such kernel
no-root  needs root
`

func TestSummary(t *testing.T) {
	for _, c := range []struct {
		name, in, want string
		root, ok       bool
	}{
		{"nothing ran", "", "0 passed, 0 failed, 0 skipped\n", false, false},
		{
			"pass", `{"Action":"run","Package":"p","Test":"A"}
{"Action":"output","Package":"p","Test":"A","Output":"noise\n"}
{"Action":"pass","Package":"p","Test":"A"}
{"Action":"pass","Package":"p","Elapsed":1.25}
`, "ok\tp\t1.2s\n1 passed, 0 failed, 0 skipped\n", false, true,
		},
		{
			"fail", `{"Action":"output","Package":"p","Test":"A","Output":"why\n"}
{"Action":"fail","Package":"p","Test":"A"}
{"Action":"pass","Package":"p","Test":"B"}
{"Action":"fail","Package":"p","Elapsed":1}
`, "why\nFAIL\tp\t1.0s\n1 passed, 1 failed, 0 skipped\n", false, false,
		},
		{
			"build", `{"ImportPath":"p","Action":"build-output","Output":"syntax\n"}
{"Action":"pass","Package":"q","Test":"B"}
{"Action":"fail","Package":"p","Elapsed":0,"FailedBuild":"p"}
`, "syntax\nFAIL\tp\t0.0s\n1 passed, 1 failed, 0 skipped\n", false, false,
		},
		{
			"panic", `{"Action":"output","Package":"p","Test":"A","Output":"panic: x\n"}
{"Action":"fail","Package":"p","Elapsed":0}
`, "panic: x\nFAIL\tp\t0.0s\n0 passed, 1 failed, 0 skipped\n", false, false,
		},
		{
			"skips", `{"Action":"pass","Package":"p","Test":"A"}
{"Action":"output","Package":"p","Test":"B","Output":"    b_test.go:7: needs root to mount\n"}
{"Action":"output","Package":"p","Test":"B","Output":"--- SKIP: B (0.00s)\n"}
{"Action":"skip","Package":"p","Test":"B"}
{"Action":"skip","Package":"no tests here"}
`, "skip\tp B: needs root to mount\n1 passed, 0 failed, 1 skipped\n", false, true,
		},
		{
			"skips as root", `{"Action":"pass","Package":"p","Test":"A"}
{"Action":"output","Package":"p","Test":"B","Output":"    b_test.go:7: needs root to mount\n"}
{"Action":"skip","Package":"p","Test":"B"}
{"Action":"skip","Package":"p","Test":"C"}
`, "skip\tp B: needs root to mount\nskip\tp C: \n" +
				"skipped, but this machine could have run it, or no reason given: p B: \"needs root to mount\"\n" +
				"skipped, but this machine could have run it, or no reason given: p C: \"\"\n" +
				"1 passed, 0 failed, 2 skipped\n", true, false,
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			res, err := parseExcuses(strings.NewReader(excuses), map[string]bool{"always": true, "no-root": !c.root})
			if err != nil {
				t.Fatal(err)
			}
			var out strings.Builder
			s := newSummary(&out, res)
			if err := s.read(strings.NewReader(c.in)); err != nil {
				t.Fatal(err)
			}
			if ok := s.finish(); ok != c.ok {
				t.Errorf("ok is %v", ok)
			}
			if err := s.out.Flush(); err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(c.want, out.String()); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestParseExcuses(t *testing.T) {
	for _, bad := range []string{"sometimes x", "always", "always ("} {
		if _, err := parseExcuses(strings.NewReader(bad), map[string]bool{"always": true}); err == nil {
			t.Errorf("%q: no error", bad)
		}
	}
}
