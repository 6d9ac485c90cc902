package main

import (
	"encoding/json"
	"fmt"
	"maps"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/moby/buildkit/solver/pb"
	policyengine "github.com/moby/buildkit/sourcepolicy"
	spb "github.com/moby/buildkit/sourcepolicy/pb"

	"strake/internal/sourcepolicy"
)

// randomRules is a file of rules over few names, so that many of them match.
func randomRules(rnd *rand.Rand) []byte {
	type object = map[string]any
	pick := func(list ...string) string { return list[rnd.IntN(len(list))] }
	name := func() string {
		return pick("docker-image://", "https://", "git://") + pick("a*", "b", "*") + pick("", "/x", "/*", ".b/*", ":*")
	}
	var rules []any
	for range 1 + rnd.IntN(5) {
		selector := object{"identifier": name()}
		switch rnd.IntN(4) {
		case 0:
			selector["match_type"] = "EXACT"
		case 1:
			selector["match_type"] = "REGEX"
			selector["identifier"] = pick("^(.*)/x$", "[ab]$", "^https?://([ab])", "git://.*", "(")
		}
		for range rnd.IntN(2) {
			selector["constraints"] = []any{object{"key": pick("k", "l"), "value": pick("v", "^v", "w"), "condition": pick("EQUAL", "NOTEQUAL", "MATCHES")}}
		}
		rule := object{"action": pick("ALLOW", "DENY", "CONVERT"), "selector": selector}
		if rnd.IntN(5) > 0 {
			update := object{"identifier": pick("docker-image://a/x", "https://b/${1}", "git://$1", "docker-image://${1}:${2}", "")}
			if rnd.IntN(2) == 0 {
				update["attrs"] = object{pick("k", "l"): pick("v", "w")}
			}
			rule["updates"] = update
		}
		rules = append(rules, rule)
	}
	file, err := json.Marshal(object{"rules": rules})
	if err != nil {
		panic(err)
	}
	return file
}

// Strake's rules do what BuildKit's do, for whatever rules and sources.
func TestRulesAsBuildKit(t *testing.T) {
	rnd := rand.New(rand.NewPCG(1, 2))
	denied, changed, failed := 0, 0, 0
	for range 20000 {
		file := randomRules(rnd)
		src := sourcepolicy.Source{Identifier: []string{"docker-image://", "https://", "git://"}[rnd.IntN(3)] + []string{"a", "b", "a/x", "b:1", "a.b/x"}[rnd.IntN(5)]}
		if rnd.IntN(2) == 0 {
			src.Attrs = map[string]string{"k": "v"}
		}
		theirs := &pb.SourceOp{Identifier: src.Identifier, Attrs: maps.Clone(src.Attrs)}
		var policy spb.Policy
		if err := json.Unmarshal(file, &policy); err != nil {
			t.Fatalf("%s: %v", file, err)
		}
		_, want := policyengine.NewEngine([]*spb.Policy{&policy}).Evaluate(t.Context(), theirs)
		got := src
		rules, err := sourcepolicy.Parse(file)
		if err == nil {
			got, err = rules.Apply(src)
		} else if strings.Contains(string(file), `"("`) {
			continue // a pattern that is none fails when it is read
		}
		if (err == nil) != (want == nil) || err != nil && strings.Contains(err.Error(), "denied") != strings.Contains(want.Error(), "denied") {
			t.Fatalf("%s\n%+v: %v, BuildKit %v", file, src, err, want)
		}
		if err != nil {
			failed++
			if strings.Contains(err.Error(), "denied") {
				denied++
			}
			continue
		}
		if got.Identifier != theirs.Identifier || fmt.Sprint(got.Attrs) != fmt.Sprint(theirs.Attrs) && len(got.Attrs)+len(theirs.Attrs) > 0 {
			t.Fatalf("%s\n%+v: %+v, BuildKit %v", file, src, got, theirs)
		}
		if got.Identifier != src.Identifier {
			changed++
		}
	}
	if denied < 100 || changed < 100 || failed-denied < 100 {
		t.Errorf("%d denied, %d changed, %d failed otherwise: that is no test", denied, changed, failed-denied)
	}
}
