// Command testsum reads the output of go test -json from standard input, prints
// what a person wants to see of it, and ends with the line
//
//	N passed, N failed, N skipped
//
// It exits with 1 when a test or a package failed, when no test ran, or when a
// test skipped that this machine could have run: its reason must match a line of
// the file that is the one argument. Such a line is a condition and a regular
// expression; the condition is "always", "no-root" (the tests do not run as
// root) or "no-debian" (no apt-get here). Lines that begin with # are comments.
package main

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"regexp"
	"strings"
)

// event is one line of go test -json (go doc test2json).
type event struct {
	Action      string
	Package     string
	ImportPath  string // of a build event
	Test        string
	Elapsed     float64 // seconds
	Output      string
	FailedBuild string
}

// name identifies a test.
type name struct{ pkg, test string }

// summary is what was seen so far.
type summary struct {
	out                     *bufio.Writer
	excuses                 []*regexp.Regexp
	passed, failed, skipped int
	output                  map[name][]string
	builds                  map[string][]string
	failedTests             map[string]bool // packages in which a test failed
	unexcused               []string
}

func main() {
	ok, err := run(os.Stdin, os.Stdout, os.Args[1:])
	if err != nil {
		fmt.Fprintln(os.Stderr, "testsum:", err)
	}
	if err != nil || !ok {
		os.Exit(1)
	}
}

// run copies in to out, condensed, and tells whether all is well.
func run(in io.Reader, out io.Writer, args []string) (bool, error) {
	if len(args) != 1 {
		return false, errors.New("usage: go test -json ... | testsum EXCUSES")
	}
	f, err := os.Open(args[0])
	if err != nil {
		return false, err
	}
	_, aptErr := exec.LookPath("apt-get")
	excuses, err := parseExcuses(f, map[string]bool{
		"always":    true,
		"no-root":   os.Geteuid() != 0,
		"no-debian": aptErr != nil,
	})
	if err := errors.Join(err, f.Close()); err != nil {
		return false, fmt.Errorf("%s: %w", args[0], err)
	}
	s := newSummary(out, excuses)
	if err := s.read(in); err != nil {
		return false, err
	}
	ok := s.finish()
	return ok, s.out.Flush()
}

// parseExcuses reads the reasons that count on a machine where conditions hold.
func parseExcuses(r io.Reader, conditions map[string]bool) ([]*regexp.Regexp, error) {
	var excuses []*regexp.Regexp
	for lines := bufio.NewScanner(r); ; {
		if !lines.Scan() {
			return excuses, lines.Err()
		}
		line := strings.TrimSpace(lines.Text())
		if line == "" || line[0] == '#' {
			continue
		}
		condition, pattern, _ := strings.Cut(line, " ")
		holds, ok := conditions[condition]
		if !ok {
			return nil, fmt.Errorf("%q: unknown condition", line)
		}
		if pattern == "" {
			return nil, fmt.Errorf("%q: no regular expression", line)
		}
		re, err := regexp.Compile(strings.TrimSpace(pattern))
		if err != nil {
			return nil, fmt.Errorf("%q: %w", line, err)
		}
		if holds {
			excuses = append(excuses, re)
		}
	}
}

func newSummary(out io.Writer, excuses []*regexp.Regexp) *summary {
	return &summary{
		out:         bufio.NewWriter(out),
		excuses:     excuses,
		output:      make(map[name][]string),
		builds:      make(map[string][]string),
		failedTests: make(map[string]bool),
	}
}

// printf prints; finish tells whether that went well.
func (s *summary) printf(format string, args ...any) {
	// A bufio.Writer keeps its first error for Flush.
	_, _ = fmt.Fprintf(s.out, format, args...)
}

// read takes in all events. Lines that are none are passed on.
func (s *summary) read(in io.Reader) error {
	r := bufio.NewReader(in)
	for {
		line, err := r.ReadBytes('\n')
		if len(line) > 0 {
			var e event
			if json.Unmarshal(line, &e) == nil {
				s.event(e)
			} else {
				s.printf("%s", line)
			}
		}
		if e := s.out.Flush(); e != nil {
			return e
		}
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

func (s *summary) event(e event) {
	n := name{e.Package, e.Test}
	switch {
	case e.Action == "build-output":
		s.builds[e.ImportPath] = append(s.builds[e.ImportPath], e.Output)
	case e.Action == "output":
		s.output[n] = append(s.output[n], e.Output)
	case e.Test == "":
		s.pkg(n, e)
	case e.Action == "pass":
		s.passed++
		delete(s.output, n)
	case e.Action == "fail":
		s.failed++
		s.failedTests[e.Package] = true
		s.printf("%s", strings.Join(s.output[n], ""))
		delete(s.output, n)
	case e.Action == "skip":
		s.skip(n)
	}
}

// pkg ends a package. A package that fails for another reason than a test (it
// does not build, panics, or is out of time) counts as one failed test.
func (s *summary) pkg(n name, e event) {
	switch e.Action {
	case "fail":
		if !s.failedTests[e.Package] {
			s.failed++
			s.printf("%s", strings.Join(s.builds[e.FailedBuild], ""))
			for other, lines := range s.output {
				if other.pkg == e.Package {
					s.printf("%s", strings.Join(lines, ""))
				}
			}
		}
		s.printf("FAIL\t%s\t%.1fs\n", e.Package, e.Elapsed)
	case "pass":
		s.printf("ok\t%s\t%.1fs\n", e.Package, e.Elapsed)
	default:
		return
	}
	for other := range s.output {
		if other.pkg == e.Package {
			delete(s.output, other)
		}
	}
	delete(s.output, n)
}

// logLine is what t.Skip prints: file, line, message.
var logLine = regexp.MustCompile(`^\s*[^\s:]+\.go:\d+: (.*)`)

// skip counts a skip and looks for its excuse.
func (s *summary) skip(n name) {
	s.skipped++
	reason := ""
	for _, line := range s.output[n] {
		if m := logLine.FindStringSubmatch(line); m != nil && !strings.HasPrefix(m[1], "WORK=") { // testscript's log follows its reason
			reason = strings.TrimSpace(m[1])
		}
	}
	delete(s.output, n)
	s.printf("skip\t%s %s: %s\n", n.pkg, n.test, reason)
	for _, re := range s.excuses {
		if reason != "" && re.MatchString(reason) {
			return
		}
	}
	s.unexcused = append(s.unexcused, fmt.Sprintf("%s %s: %q", n.pkg, n.test, reason))
}

// finish prints the end and tells whether all is well.
func (s *summary) finish() bool {
	for _, u := range s.unexcused {
		s.printf("skipped, but this machine could have run it, or no reason given: %s\n", u)
	}
	s.printf("%d passed, %d failed, %d skipped\n", s.passed, s.failed, s.skipped)
	return s.failed == 0 && s.passed > 0 && len(s.unexcused) == 0
}
