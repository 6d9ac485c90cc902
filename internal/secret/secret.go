// Package secret tells secrets from other text: by the name of a file or a
// variable, and by the shapes that the world's services give to their tokens.
//
// A rule is one kind of secret. A finding says where one is and which rule says
// so; it never holds the secret, only its first characters, which are the same
// in all of a kind. The rules prefer to miss a secret over calling something one:
// a list that is mostly wrong is not read.
package secret

import (
	"bytes"
	"encoding/base64"
	"fmt"
	"math"
	"regexp"
	"slices"
	"strings"
	"unicode/utf8"
)

// Finding is a secret that was found.
type Finding struct {
	Rule    string `json:"rule"`              // as "github-token"
	What    string `json:"what"`              // as "a token of GitHub"
	Line    int    `json:"line,omitempty"`    // from 1; 0: it is not in a text of several
	Excerpt string `json:"excerpt,omitempty"` // the beginning of it, masked
}

// maxFindings bounds those of one text.
const maxFindings = 100

// secretName is the rule of BuildKit's linter for names of variables.
var secretName = lazy(`(?i)(^|[^a-z])(apikey|auth|credentials?|key|password|pword|passwd|secret|token)s?([^a-z]|$)`)

// Variable reports whether a variable of this name holds a secret, by the rule of BuildKit's linter.
func Variable(name string) bool { return secretName().MatchString(name) }

// shape is a rule about text.
type shape struct {
	id, what string
	words    []string // one of them is in the text, or the rule says nothing
	re       func() *regexp.Regexp
	show     int               // characters of the secret, its first group or all of it, that an excerpt shows
	body     bool              // forty characters of base64 follow, soon
	ok       func([]byte) bool // what the regular expression cannot say of it; nil: nothing
}

const urlSafe = `[A-Za-z0-9_-]`

// shapes are in the order in which they claim a text: of two that find the same, the first counts.
var shapes = []shape{
	{
		id: "private-key", what: "a private key", words: []string{"PRIVATE KEY"}, show: 0,
		body: true, re: lazy(`-----BEGIN (?:[A-Z0-9]+ ){0,3}PRIVATE KEY(?: BLOCK)?-----`),
	},
	{
		id: "private-key", what: "a private key of PuTTY", words: []string{"PuTTY-User-Key-File-"}, show: 0,
		re: lazy(`PuTTY-User-Key-File-\d: [^\n]{0,80}\r?\n`),
	},
	{id: "private-key", what: "a private key of age", words: []string{"AGE-SECRET-KEY-1"}, show: 16, re: lazy(`AGE-SECRET-KEY-1[QPZRY9X8GF2TVDW0S3JN54KHCE6MUA7L]{58}`)},
	{
		id: "aws-key", what: "a secret key of AWS", words: []string{"aws", "AWS", "Aws"}, show: 2, ok: random(3.5),
		re: lazy(`(?i)aws_?(?:secret)?_?(?:access)?_?(?:key|token)["']?\s{0,4}(?:=>|[:=])\s{0,4}["']?([A-Za-z0-9/+]{40})(?:[^A-Za-z0-9/+=]|$)`),
	},
	{id: "aws-key-id", what: "the ID of a key of AWS", words: []string{"AKIA", "ASIA"}, show: 4, ok: random(2.5), re: lazy(`\b((?:AKIA|ASIA)[A-Z2-7]{16})\b`)},
	{id: "github-token", what: "a token of GitHub", words: []string{"ghp_", "gho_", "ghu_", "ghs_", "ghr_"}, show: 4, ok: random(3), re: lazy(`\b(gh[pousr]_[A-Za-z0-9]{36,255})\b`)},
	{id: "github-token", what: "a token of GitHub", words: []string{"github_pat_"}, show: 11, ok: random(3), re: lazy(`\b(github_pat_[A-Za-z0-9]{22}_[A-Za-z0-9]{59})\b`)},
	{
		id: "gitlab-token", what: "a token of GitLab", words: []string{"glpat-", "gldt-", "glrt-", "glptt-", "glsoat-", "glcbt-"}, show: 6, ok: random(3),
		re: lazy(`\b(gl(?:pat|dt|rt|ptt|soat|cbt)-[0-9A-Za-z_-]{20,320}(?:\.[0-9a-z]{2}\.?[0-9a-z]{7,9})?)`),
	},
	{
		id: "slack-token", what: "a token of Slack", words: []string{"xoxb-", "xoxp-", "xoxa-", "xoxr-", "xoxs-", "xoxe", "xapp-"}, show: 5, ok: random(2.5),
		re: lazy(`\b((?:xox[abeoprs]|xoxe\.xox[bp]|xapp)-(?:\d{1,14}-){1,3}[A-Za-z0-9-]{10,250})\b`),
	},
	{
		id: "slack-webhook", what: "an address that posts to Slack", words: []string{"hooks.slack.com"}, show: 0, ok: random(3),
		re: lazy(`hooks\.slack\.com/(?:services|workflows)/([A-Z0-9]{8,14}/[A-Z0-9]{8,14}/[A-Za-z0-9]{20,32})`),
	},
	{id: "stripe-key", what: "a key of Stripe", words: []string{"k_live_", "whsec_"}, show: 8, ok: random(3), re: lazy(`\b((?:sk|rk)_live_[A-Za-z0-9]{20,99}|whsec_[A-Za-z0-9]{32})\b`)},
	{id: "google-key", what: "a key of Google's", words: []string{"AIza"}, show: 4, ok: random(3), re: lazy(`\b(AIza` + urlSafe + `{35})(?:[^A-Za-z0-9_-]|$)`)},
	{id: "google-key", what: "a client secret of Google's", words: []string{"GOCSPX-"}, show: 7, ok: random(3), re: lazy(`\b(GOCSPX-` + urlSafe + `{28})(?:[^A-Za-z0-9_-]|$)`)},
	{id: "npm-token", what: "a token of npm", words: []string{"npm_"}, show: 4, ok: random(3), re: lazy(`\b(npm_[A-Za-z0-9]{36})\b`)},
	{id: "pypi-token", what: "a token of PyPI", words: []string{"pypi-AgE"}, show: 5, ok: random(3), re: lazy(`\b(pypi-AgE` + urlSafe + `{50,500})`)},
	{id: "rubygems-key", what: "a key of RubyGems", words: []string{"rubygems_"}, show: 9, ok: random(3), re: lazy(`\b(rubygems_[a-f0-9]{48})\b`)},
	{id: "docker-token", what: "a token of Docker Hub", words: []string{"dckr_pat_", "dckr_oat_"}, show: 9, ok: random(3), re: lazy(`\b(dckr_[po]at_` + urlSafe + `{27,32})(?:[^A-Za-z0-9_-]|$)`)},
	{id: "sendgrid-key", what: "a key of SendGrid", words: []string{"SG."}, show: 3, ok: random(3.5), re: lazy(`\b(SG\.` + urlSafe + `{22}\.` + urlSafe + `{43})(?:[^A-Za-z0-9_-]|$)`)},
	{id: "openai-key", what: "a key of OpenAI", words: []string{"T3BlbkFJ"}, show: 3, ok: random(3), re: lazy(`\b(sk-(?:[a-z]+-)?` + urlSafe + `{20,90}T3BlbkFJ` + urlSafe + `{20,90})`)},
	{id: "anthropic-key", what: "a key of Anthropic", words: []string{"sk-ant-"}, show: 7, ok: random(3), re: lazy(`\b(sk-ant-[a-z]{3,6}\d\d-` + urlSafe + `{80,110})`)},
	{id: "huggingface-token", what: "a token of Hugging Face", words: []string{"hf_"}, show: 3, ok: random(3), re: lazy(`\b(hf_[A-Za-z]{34})\b`)},
	{id: "digitalocean-token", what: "a token of DigitalOcean", words: []string{"do_v1_", "doo_v1_", "dop_v1_", "dor_v1_"}, show: 7, ok: random(3), re: lazy(`\b(do[opr]_v1_[a-f0-9]{64})\b`)},
	{id: "vault-token", what: "a token of Vault", words: []string{"hvs.", "hvb."}, show: 4, ok: random(3.5), re: lazy(`\b(hv[sb]\.` + urlSafe + `{90,300})`)},
	{id: "azure-key", what: "a key of Azure's storage", words: []string{"AccountKey="}, show: 0, ok: random(3.5), re: lazy(`AccountKey=([A-Za-z0-9+/]{86}==)`)},
	{
		id: "jwt", what: "a signed token (JWT)", words: []string{"eyJ"}, show: 3, ok: random(3.5),
		re: lazy(`\b(eyJ` + urlSafe + `{10,}\.eyJ` + urlSafe + `{10,}\.` + urlSafe + `{20,})`),
	},
	{id: "npm-credentials", what: "a token of npm", words: []string{"_authToken"}, show: 0, ok: random(2.5), re: lazy(`//[^\s:]{1,200}/:_authToken\s{0,4}=\s{0,4}["']?([A-Za-z0-9+/=_-]{16,400})`)},
	{id: "registry-credentials", what: "passwords of registries", words: []string{`"auth"`}, show: 0, ok: basic, re: lazy(`"auth"\s{0,8}:\s{0,8}"([A-Za-z0-9+/]{8,}={0,2})"`)},
	{
		id: "password-in-url", what: "a password in a URL", words: []string{"://"}, show: 0, ok: password,
		re: lazy(`\b[a-z][a-z0-9+.-]{1,20}://[A-Za-z0-9._%+-]{1,64}:([^\s/@:"'<>{}$()|\\]{6,128})@[A-Za-z0-9.-]{1,253}\.[A-Za-z0-9]{2,}`),
	},
}

// assignment is something that is given a name that says that it is secret.
var assignment = lazy(`(?i)(?:password|passwd|pword|secret|token|api[_-]?key|access[_-]?key|private[_-]?key|credential)s?["']?\s{0,8}(?:=>|:=|[:=])\s{0,8}["']?([A-Za-z0-9+/_=.~!@#%^&*-]{12,})(?:["'\s,;]|$)`)

var assignmentWords = []string{"pass", "secret", "token", "key", "cred", "pword"}

// Text finds secrets by their shape. What is there in plain words is not found: it
// is the variables' and configuration files' to have such.
func Text(b []byte) []Finding {
	f := finder{text: b}
	for i := range shapes {
		f.shape(&shapes[i])
	}
	return f.found()
}

// Config finds secrets by their shape, and what looks like chance and is assigned
// to a name that says that it is secret. It is for texts that configure something.
func Config(b []byte) []Finding {
	f := finder{text: b}
	for i := range shapes {
		f.shape(&shapes[i])
	}
	f.assignments()
	return f.found()
}

// Value finds secrets in the value of a variable or a label.
func Value(name, value string) []Finding {
	found := Text([]byte(value))
	if len(found) == 0 && Variable(name) && len(value) >= minAssigned && !strings.ContainsAny(value, " \t\n") && chance([]byte(value)) {
		found = []Finding{{Rule: "assigned-secret", What: "what a secret looks like", Excerpt: mask([]byte(value), 0)}}
	}
	for i := range found {
		found[i].Line = 0
	}
	return found
}

// InFile finds secrets in a file, of which b is the content or its beginning.
func InFile(name string, b []byte) []Finding {
	var found []Finding
	if configures(name) {
		found = Config(b)
	} else {
		found = Text(b)
	}
	if fixture(name) {
		return slices.DeleteFunc(found, func(f Finding) bool { return f.Rule == "private-key" || f.Rule == "jwt" || f.Rule == "password-in-url" })
	}
	for _, kind := range Named(name) {
		// A private key has a body, which the shapes ask for and the name's rule does not.
		if kind.ID == "private-key" || len(bytes.TrimSpace(b)) == 0 || !kind.Holds(b) || slices.ContainsFunc(found, func(f Finding) bool { return f.Rule == kind.ID }) {
			continue
		}
		line := 1
		if kind.text != nil {
			line = lineOf(b, kind.text().FindIndex(b)[0])
		}
		found = append(found, Finding{Rule: kind.ID, What: kind.What, Line: line})
	}
	return found
}

// configures tells by its name whether a file gives names values.
func configures(name string) bool {
	base := name[strings.LastIndexByte(name, '/')+1:]
	if strings.HasPrefix(base, ".env") || strings.HasSuffix(base, ".env") {
		return true
	}
	for _, end := range []string{".conf", ".cfg", ".cnf", ".ini", ".properties", ".yaml", ".yml", ".toml", ".tfvars", ".json"} {
		if strings.HasSuffix(base, end) {
			return !strings.Contains(base, "package-lock") && !strings.HasSuffix(base, ".map.json")
		}
	}
	return false
}

// fixtures are where packages keep keys that are no secret: examples and tests.
var fixtures = lazy(`(^|/)usr/(share/(doc|man|info|perl|perl5)|lib/python[0-9.]+/test|src)/|(^|/)(node_modules|site-packages|dist-packages|gems|go/pkg/mod|vendor)/(.*/)?(tests?|testdata|__tests__|fixtures|examples?|docs?|spec)/`)

func fixture(name string) bool { return fixtures().MatchString(name) }

// finder looks for secrets in a text.
type finder struct {
	text   []byte
	list   []Finding
	ranges [][2]int // of list
}

func (f *finder) shape(s *shape) {
	f.around(f.text, s.words, s.re, func(begin, end int) {
		if s.ok != nil && !s.ok(f.text[begin:end]) || s.body && !hasBody(f.text[end:]) {
			return
		}
		excerpt := mask(f.text[begin:end], s.show)
		if s.id == "private-key" && s.show == 0 {
			excerpt = header(f.text[begin:end])
		}
		f.add(begin, end, Finding{Rule: s.id, What: s.what, Excerpt: excerpt})
	})
}

// How far from a rule's word the regular expression looks, in bytes.
const (
	before = 256
	after  = 8 << 10
)

// around calls found with each match near one of the words: its last group, or
// all of it. Regular expressions are slow, and most texts have none of the words.
func (f *finder) around(text []byte, words []string, re func() *regexp.Regexp, found func(begin, end int)) {
	next := make([]int, len(words)) // where each word is found next
	for at := 0; len(f.list) < maxFindings; {
		first := len(text)
		for i, w := range words {
			if next[i] < at || at == 0 {
				if next[i] = bytes.Index(text[at:], []byte(w)) + at; next[i] < at {
					next[i] = len(text)
				}
			}
			first = min(first, next[i])
		}
		if first == len(text) {
			return
		}
		from, to := max(0, first-before), min(len(text), first+after)
		for _, m := range re().FindAllSubmatchIndex(f.text[from:to], maxFindings) {
			if i := len(m) - 2; m[i] >= 0 {
				found(from+m[i], from+m[i+1])
			}
		}
		if at = max(first+1, to-after/2); to == len(text) {
			return
		}
	}
}

// header is the first line of a private key.
func header(b []byte) string {
	first, _, _ := bytes.Cut(b, []byte("KEY"))
	if len(first) > 30 || !bytes.HasPrefix(first, []byte("-----")) {
		return "****"
	}
	return string(first) + "KEY****"
}

// hasBody tells whether a line of base64 comes soon.
func hasBody(b []byte) bool {
	const soon, line = 400, 40
	run := 0
	for _, c := range b[:min(len(b), soon)] {
		if run++; (c < 'a' || c > 'z') && (c < 'A' || c > 'Z') && (c < '0' || c > '9') && c != '+' && c != '/' && c != '=' {
			run = 0
		}
		if run == line {
			return true
		}
	}
	return false
}

// Lengths of a value that is assigned, in characters.
const (
	minAssigned = 12
	maxAssigned = 200
)

func (f *finder) assignments() {
	f.around(lower(f.text), assignmentWords, assignment, func(begin, end int) {
		if value := f.text[begin:end]; chance(value) {
			f.add(begin, end, Finding{Rule: "assigned-secret", What: "what a secret looks like", Excerpt: mask(value, 0)})
		}
	})
}

// lower is the text with ASCII's letters made small.
func lower(text []byte) []byte {
	out := bytes.Clone(text)
	for i, c := range out {
		if c >= 'A' && c <= 'Z' {
			out[i] = c | 0x20
		}
	}
	return out
}

// add keeps a finding that is not within another.
func (f *finder) add(begin, end int, found Finding) {
	for _, r := range f.ranges {
		if begin < r[1] && r[0] < end {
			return
		}
	}
	if len(f.list) >= maxFindings {
		return
	}
	found.Line = lineOf(f.text, begin)
	f.list, f.ranges = append(f.list, found), append(f.ranges, [2]int{begin, end})
}

func (f *finder) found() []Finding {
	slices.SortStableFunc(f.list, func(a, b Finding) int { return a.Line - b.Line })
	return f.list
}

func lineOf(text []byte, at int) int { return 1 + bytes.Count(text[:at], []byte("\n")) }

// mask shows the first characters of a secret, a quarter of it at most.
func mask(b []byte, show int) string {
	show = min(show, len(b)/4)
	shown := strings.Map(func(r rune) rune {
		if r < ' ' || r > '~' {
			return '?'
		}
		return r
	}, string(b[:show]))
	return fmt.Sprintf("%s**** (%d characters)", shown, len(b))
}

// random is the check that a text looks like chance: that its characters have as
// many bits of entropy as that, and that it is no example of a manual's.
func random(bits float64) func([]byte) bool {
	return func(b []byte) bool { return entropy(b) >= bits && !example(b) }
}

var examples = []string{"example", "xxxx", "placeholder", "changeme", "change-me", "your", "dummy", "redacted", "insert", "sample", "123456789", "abcdef", "test_", "<", "${", "{{"}

func example(b []byte) bool {
	lower := bytes.ToLower(b)
	return slices.ContainsFunc(examples, func(e string) bool { return bytes.Contains(lower, []byte(e)) })
}

// password is the check of a password in a URL: manuals are full of them.
func password(b []byte) bool {
	lower := strings.ToLower(string(b))
	switch strings.Trim(lower, "*x.") {
	case "", "password", "passwd", "secret", "pass", "user", "token", "apikey", "mypassword", "my-password", "my_password", "passw0rd", "p%40ssw0rd", "hunter2", "postgres", "default":
		return false
	}
	return !example(b) && !strings.Contains(lower, "password") && entropy(b) >= 2
}

// basic is the check of a name and a password in base64.
func basic(b []byte) bool {
	plain, err := base64.StdEncoding.DecodeString(string(b))
	name, rest, ok := bytes.Cut(plain, []byte(":"))
	return err == nil && ok && len(name) > 0 && len(rest) > 0 && utf8.Valid(plain) && !example(plain)
}

// chance tells whether a value that is called secret is one: it has letters and
// digits, mixed, and no words of people's.
func chance(b []byte) bool {
	letters, digits, runs := 0, 0, 0
	run := 0 // of lower-case letters
	for _, c := range b {
		switch {
		case c >= '0' && c <= '9':
			digits++
		case c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z':
			letters++
		}
		if run++; c < 'a' || c > 'z' {
			run = 0
		}
		if run == 6 {
			runs++
		}
	}
	switch {
	case len(b) < minAssigned || len(b) > maxAssigned || letters < 3 || digits < 3 || runs > len(b)/16:
		return false
	case bytes.Count(b, []byte(".")) > 1 || bytes.ContainsAny(b, "()$"): // code and versions
		return false
	case bytes.HasPrefix(b, []byte("/")) || bytes.Contains(b, []byte("://")) || bytes.HasPrefix(b, []byte("sha")): // paths and digests
		return false
	}
	return entropy(b) >= 3.3 && !example(b)
}

// entropy is Shannon's, in bits a character.
func entropy(b []byte) float64 {
	var counts [256]int
	for _, c := range b {
		counts[c]++
	}
	bits := 0.0
	for _, n := range counts {
		if n > 0 {
			p := float64(n) / float64(len(b))
			bits -= p * math.Log2(p)
		}
	}
	return bits
}
