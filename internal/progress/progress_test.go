package progress

import (
	"bytes"
	"errors"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// script plays events of steps one second apart.
func script(d Display, events ...Event) {
	at := time.Unix(1000, 0)
	for _, e := range events {
		e.Time = at
		at = at.Add(time.Second)
		d.Handle(e)
	}
}

var events = []Event{
	{ID: "1", Name: "[internal] load build definition from Dockerfile", State: Started},
	{ID: "1", Name: "[internal] load build definition from Dockerfile", State: Moved, Item: Item{ID: "transferring dockerfile:", Current: 1234, Done: true}},
	{ID: "1", Name: "[internal] load build definition from Dockerfile", State: Done},
	{ID: "2", Name: "[1/3] FROM x", State: Started},
	{ID: "2", Name: "[1/3] FROM x", State: Cached},
	{ID: "3", Name: "[2/3] RUN a", State: Started},
	{ID: "3", Name: "[2/3] RUN a", State: Logged, Log: []byte("one\ntw")},
	{ID: "4", Name: "[3/3] RUN b", State: Started},
	{ID: "4", Name: "[3/3] RUN b", State: Logged, Log: []byte("other\n")},
	{ID: "3", Name: "[2/3] RUN a", State: Logged, Log: []byte("o\r10%\r20%\n")},
	{ID: "3", Name: "[2/3] RUN a", State: Failed, Err: errors.New("exit code: 1")},
	{ID: "4", Name: "[3/3] RUN b", State: Canceled},
}

func TestPlain(t *testing.T) {
	var b bytes.Buffer
	d, err := New(Options{Out: &b})
	if err != nil {
		t.Fatal(err)
	}
	script(d, events...)
	if err := d.Close(); err != nil {
		t.Fatal(err)
	}
	want := `#1 [internal] load build definition from Dockerfile
#1 transferring dockerfile: 1.23kB done
#1 DONE 2.0s

#2 [1/3] FROM x
#2 CACHED

#3 [2/3] RUN a
#3 1.000 one
#3 4.000 20%
#3 ERROR: exit code: 1

#4 [3/3] RUN b
#4 1.000 other
#4 CANCELED
------
 > [2/3] RUN a:
one
20%
------
`
	if diff := cmp.Diff(want, b.String()); diff != "" {
		t.Error(diff)
	}
}

// What is told while a display is paused is shown after it, and nothing twice.
func TestPause(t *testing.T) {
	var b bytes.Buffer
	p := newPlain(&b)
	script(p, events[:7]...)
	resume := p.Pause()
	before := b.String()
	script(p, events[7:]...)
	if got := b.String(); got != before {
		t.Errorf("shown while it was paused: %q", strings.TrimPrefix(got, before))
	}
	resume()
	if err := p.Close(); err != nil {
		t.Fatal(err)
	}
	for _, line := range []string{"#3 ERROR: exit code: 1\n", "#4 [3/3] RUN b\n", "#4 CANCELED\n", " 20%\n"} {
		if n := strings.Count(b.String(), line); n != 1 {
			t.Errorf("%q is there %d times in %q", line, n, b.String())
		}
	}
	tab := &table{verb: "Building", out: &b, size: func() (int, int) { return 60, 10 }}
	script(tab, events[:9]...)
	resume = tab.Pause()
	b.Reset()
	tab.draw(false)
	if b.Len() > 0 || tab.lines > 0 {
		t.Errorf("drawn while it was paused: %q, %d lines", b.String(), tab.lines)
	}
	resume()
	tab.draw(false)
	if !strings.HasPrefix(b.String(), "\x1b[?25l\r\x1b[J[+]") { // no way up
		t.Errorf("drawn over what others wrote: %q", b.String())
	}
}

func TestTable(t *testing.T) {
	d := &table{verb: "Building"}
	var b bytes.Buffer
	d.out, d.size = &b, func() (int, int) { return 60, 10 }
	script(d, events[:9]...)
	got := d.rows(time.Unix(1009, 0), 60, 10, false)
	want := []string{
		"[+] Building 9.0s (2/4)",
		blue + " => [internal] load build definition from Dockerfile    2.0s" + reset,
		blue + " => CACHED [1/3] FROM x                                 0.0s" + reset,
		" => [2/3] RUN a                                         4.0s",
		faint + " => => # one" + reset,
		faint + " => => # tw" + reset,
		" => [3/3] RUN b                                         2.0s",
		faint + " => => # other" + reset,
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	for width := range 50 {
		for _, r := range d.rows(time.Unix(1009, 0), width, 3, false) {
			r = strings.NewReplacer(blue, "", faint, "", reset, "").Replace(r)
			if len(r) > max(width, 8) {
				t.Fatalf("width %d: %q", width, r)
			}
		}
	}
	d.draw(false)
	d.draw(true)
	if strings.Count(b.String(), "\x1b[?25l") != 2 {
		t.Errorf("two drawings are two writes: %q", b.String())
	}
}

// TestRawJSON: what BuildKit's clients read; digests are shortened here.
func TestRawJSON(t *testing.T) {
	var b bytes.Buffer
	d, err := New(Options{Out: &b, Mode: ModeRawJSON})
	if err != nil {
		t.Fatal(err)
	}
	script(d, append(slices.Clone(events[:5]),
		Event{ID: "3", Name: "RUN a", State: Started, Inputs: []string{"2", "unknown"}},
		Event{ID: "3", Name: "RUN a", State: Logged, Log: []byte("out\n")},
		Event{ID: "3", Name: "RUN a", State: Failed, Err: errors.New("exit code: 1")},
		Event{ID: "4", Name: "RUN b", State: Canceled},
		Event{State: Warned, Log: []byte("Rule: text"), Warning: &Warning{Detail: "why", URL: "u", File: "Dockerfile", Lines: [][2]int{{3, 4}}}},
	)...)
	if err := d.Close(); err != nil {
		t.Fatal(err)
	}
	var got []string
	for line := range strings.Lines(b.String()) {
		line = regexp.MustCompile(`sha256:([0-9a-f]{4})[0-9a-f]{60}`).ReplaceAllString(line, "$1")
		got = append(got, strings.ReplaceAll(strings.TrimSpace(line), "1970-01-01T00:", ""))
	}
	want := []string{
		`{"vertexes":[{"digest":"9ae4","name":"[internal] load build definition from Dockerfile","started":"16:40Z"}]}`,
		`{"statuses":[{"id":"transferring dockerfile:","vertex":"9ae4","name":"transferring","current":1234,"timestamp":"16:41Z","started":"16:41Z","completed":"16:41Z"}]}`,
		`{"vertexes":[{"digest":"9ae4","name":"[internal] load build definition from Dockerfile","started":"16:40Z","completed":"16:42Z"}]}`,
		`{"vertexes":[{"digest":"a9e0","name":"[1/3] FROM x","started":"16:43Z"}]}`,
		`{"vertexes":[{"digest":"a9e0","name":"[1/3] FROM x","started":"16:43Z","completed":"16:44Z","cached":true}]}`,
		`{"vertexes":[{"digest":"404d","inputs":["a9e0"],"name":"RUN a","started":"16:45Z"}]}`,
		`{"logs":[{"vertex":"404d","stream":1,"data":"b3V0Cg==","timestamp":"16:46Z"}]}`,
		`{"vertexes":[{"digest":"404d","inputs":["a9e0"],"name":"RUN a","started":"16:45Z","completed":"16:47Z","error":"exit code: 1"}]}`,
		`{"vertexes":[{"digest":"9a3e","name":"RUN b","started":"16:48Z","completed":"16:48Z","error":"context canceled"}]}`,
		`{"warnings":[{"level":1,"short":"UnVsZTogdGV4dA==","detail":["d2h5"],"url":"u","sourceInfo":{"filename":"Dockerfile","language":"Dockerfile"},"range":[{"start":{"line":3},"end":{"line":4}}]}]}`,
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

func TestNewRefuses(t *testing.T) {
	for _, mode := range []string{"fancy", ModeTTY} {
		if _, err := New(Options{Out: &bytes.Buffer{}, Mode: mode}); err == nil {
			t.Errorf("%s: no error", mode)
		}
	}
}

func TestPrintable(t *testing.T) {
	for s, want := range map[string]string{
		"": "", "plain ünïcode": "plain ünïcode", "a\x1b[2Jb": `a\x1b[2Jb`, "\xff\n\t": `\xff\n\t`,
		"a\u202eb": `a\u202eb`, "\ufffd": "\ufffd", "\x7f\u009b1m": `\x7f\u009b1m`,
	} {
		if got := Printable(s); got != want {
			t.Errorf("%q: %q, want %q", s, got, want)
		}
	}
}
