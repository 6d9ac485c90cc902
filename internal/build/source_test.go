package build

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/opencontainers/go-digest"

	"strake/internal/sourcepolicy"
)

// looking is a policy that looks at everything and keeps what it saw.
func looking(saw *sourcepolicy.Facts, look sourcepolicy.Look, then func()) Policy {
	return func(ctx context.Context, src sourcepolicy.Source) (_ sourcepolicy.Source, err error) {
		*saw, err = src.Learn(ctx, src, look)
		then()
		return src, err
	}
}

// A server that has another file for each request: a policy saw the one that is used.
func TestPolicySawTheFile(t *testing.T) {
	n := 0
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		n++
		fmt.Fprintf(w, "file%d", n)
	}))
	defer srv.Close()
	s := newDirStore(t)
	var saw sourcepolicy.Facts
	sum := &sourcepolicy.Sum{Algorithm: digest.SHA512, Suffix: []byte("!")}
	solver := NewSolver(Options{Store: s, Policy: looking(&saw, sourcepolicy.Look{Sum: sum}, func() {})})
	op := &Copy{Sources: []Source{{URL: &URL{Address: srv.URL, Name: "file"}}}, Dest: "/", Instruction: "ADD"}
	res, err := solver.Solve(t.Context(), &Vertex{Op: op, Inputs: []*Vertex{{Op: &Base{}}}})
	if err != nil {
		t.Fatal(err)
	}
	text, ok := strings.CutPrefix(contents(t, s, res.Layers[0])[0], "file 600 data=")
	if !ok {
		t.Fatal(text)
	}
	want := sourcepolicy.Facts{HTTP: &sourcepolicy.HTTPFacts{Digest: digest.FromString(text).String(), Sum: sum, SumIs: digest.SHA512.FromString(text + "!").String()}}
	if diff := cmp.Diff(want, saw); diff != "" {
		t.Error(diff)
	}
}

// A branch that moves while a policy looks at it: the policy saw the commit that is used.
func TestPolicySawTheCommit(t *testing.T) {
	git := newGitServer(t)
	first := git.commit(t, "r", "a data=1")
	var saw sourcepolicy.Facts
	policy := looking(&saw, sourcepolicy.Look{Objects: true}, func() { git.commit(t, "r", "a data=2") })
	var used Fetched
	solver := NewSolver(Options{Store: newDirStore(t), Policy: policy, Fetched: func(f Fetched) { used = f }})
	if _, err := solver.Solve(t.Context(), &Vertex{Op: &Git{Remote: git.url + "/r/.git", Ref: "main"}}); err != nil {
		t.Fatal(err)
	}
	if used.Commit != first || saw.Git.Commit != first || !strings.Contains(string(saw.Git.CommitObject), "\nauthor a <a@b> ") {
		t.Errorf("used %s, saw %+v, want %s", used.Commit, saw.Git, first)
	}
}
