package sourcepolicy

import (
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

const alpine = "docker-image://docker.io/library/alpine:latest"

var applyCases = []struct {
	what, rules string
	src         Source
	want        Source
	err         string
}{
	{"no rules", ``, Source{Identifier: alpine}, Source{Identifier: alpine}, ""},
	{
		"denied", `{"action": "DENY", "selector": {"identifier": "` + alpine + `"}}`,
		Source{Identifier: alpine},
		Source{},
		`source "` + alpine + `" denied by policy`,
	},
	{
		"the last rule wins", `{"action": "DENY", "selector": {"identifier": "git://*"}}, {"selector": {"identifier": "git://host/me/*"}}`,
		Source{Identifier: "git://host/me/app.git"},
		Source{Identifier: "git://host/me/app.git"},
		"",
	},
	{
		"the dot of a wildcard is a dot", `{"action": "DENY", "selector": {"identifier": "https://a.b/*"}}`,
		Source{Identifier: "https://aXb/f"},
		Source{Identifier: "https://aXb/f"},
		"",
	},
	{
		"what a wildcard stood for", `{"action": "CONVERT", "selector": {"identifier": "docker-image://docker.io/*:*"}, "updates": {"identifier": "docker-image://mirror/${1}:${2}-slim"}}`,
		Source{Identifier: alpine},
		Source{Identifier: "docker-image://mirror/library/alpine:latest-slim"},
		"",
	},
	{
		"a regular expression", `{"action": "CONVERT", "selector": {"identifier": "^http://(.*)$", "match_type": "REGEX"}, "updates": {"identifier": "https://$1"}}`,
		Source{Identifier: "http://host/f"},
		Source{Identifier: "https://host/f"},
		"",
	},
	{
		"an exact name has no wildcards", `{"action": "DENY", "selector": {"identifier": "git://*", "matchType": "EXACT"}}`,
		Source{Identifier: "git://host/x"},
		Source{Identifier: "git://host/x"},
		"",
	},
	{
		"an attribute is set", `{"action": "CONVERT", "selector": {"identifier": "https://host/f"}, "updates": {"attrs": {"http.checksum": "sha256:1"}}}`,
		Source{Identifier: "https://host/f"},
		Source{Identifier: "https://host/f", Attrs: map[string]string{"http.checksum": "sha256:1"}},
		"",
	},
	{
		"constraints", `{"action": "DENY", "selector": {"identifier": "*", "constraints": [{"key": "k", "value": "^v", "condition": "MATCHES"}, {"key": "k", "value": "vx", "condition": 1}]}}`,
		Source{Identifier: "https://host/f", Attrs: map[string]string{"k": "vx"}},
		Source{Identifier: "https://host/f", Attrs: map[string]string{"k": "vx"}},
		"",
	},
	{
		"a converted source is asked for again", `{"action": "DENY", "selector": {"identifier": "b://*"}}, {"action": "CONVERT", "selector": {"identifier": "a://*"}, "updates": {"identifier": "b://${1}"}}`,
		Source{Identifier: "a://x"},
		Source{},
		`source "b://x" denied by policy`,
	},
	{
		"a circle", `{"action": "CONVERT", "selector": {"identifier": "a"}, "updates": {"identifier": "b"}}, {"action": "CONVERT", "selector": {"identifier": "b"}, "updates": {"identifier": "a"}}`,
		Source{Identifier: "a"},
		Source{},
		"too many mutations on a single source",
	},
	{
		"a name that doubles", `{"action": "CONVERT", "selector": {"identifier": "a", "match_type": "REGEX"}, "updates": {"identifier": "aaaaaaaa"}}`,
		Source{Identifier: "a"},
		Source{},
		"a source of more than 4096 bytes",
	},
	{
		"nothing to convert to", `{"action": "CONVERT", "selector": {"identifier": "a"}}`,
		Source{Identifier: "a"},
		Source{},
		"missing destination for convert rule",
	},
}

func TestApply(t *testing.T) {
	for _, c := range applyCases {
		t.Run(c.what, func(t *testing.T) {
			rules, err := Parse([]byte(`{"rules": [` + c.rules + `]}`))
			if err != nil {
				t.Fatal(err)
			}
			got, err := rules.Apply(c.src)
			if c.err != "" {
				if err == nil || !strings.Contains(err.Error(), c.err) {
					t.Fatalf("%+v, %v; want the error %q", got, err, c.err)
				}
				if strings.Contains(c.err, "denied") != errors.Is(err, ErrDenied) {
					t.Errorf("%v: ErrDenied is wrong", err)
				}
				return
			}
			if diff := cmp.Diff(c.want, got); err != nil || diff != "" {
				t.Errorf("%v (-want +got):\n%s", err, diff)
			}
		})
	}
}

func TestParse(t *testing.T) {
	for text, want := range map[string]string{
		"{\n\"rules\": [\n}": "line 3: invalid character '}'",
		"{\"rules\": [\n{\"action\": \"MAYBE\", \"selector\": {\"identifier\": \"a\"}}]}": `unrecognized enum PolicyAction value "MAYBE"`,
		`{"rules": [null]}`: "invalid nil rule",
		`{"rules": [{}]}`:   "invalid nil selector",
		`{"rules": [{"selector": {"identifier": 3}}]}`:                          "line 1: json: cannot unmarshal number",
		`{"rules": [{"selector": {"identifier": "**"}}]}`:                       `invalid wildcard: "**"`,
		`{"rules": [{"selector": {"identifier": "(", "match_type": "REGEX"}}]}`: "missing closing )",
		`{"rules": [{"selector": {"identifier": "a", "match_type": 9}}]}`:       "invalid MatchType value: 9",
		`{"rules": [{"selector": {"identifier": "a", "constraints": [null]}}]}`: "invalid nil constraint",
	} {
		if _, err := Parse([]byte(text)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", text, err, want)
		}
	}
}

// A file of rules is the user's own, but may come from a repository: nothing in it, and no source, stops the program.
func FuzzApply(f *testing.F) {
	f.Add([]byte(`{"rules": [{"action": 2, "selector": {"identifier": "a*", "match_type": 0}, "updates": {"identifier": "${1}", "attrs": {"k": "v"}}}]}`), "ab")
	f.Add([]byte(`{"rules": [{"action": "DENY", "selector": {"identifier": "(a|b)+$", "matchType": "REGEX", "constraints": [{"key": "k", "value": "("}]}}]}`), "ab")
	f.Fuzz(func(t *testing.T, data []byte, identifier string) {
		rules, err := Parse(data)
		if err != nil || len(identifier) > 1000 {
			return
		}
		src := Source{Identifier: identifier}
		got, err := rules.Apply(src)
		if err == nil && len(rules.rules) == 0 && got.Identifier != identifier {
			t.Errorf("without rules %q became %q", identifier, got.Identifier)
		}
	})
}
