package engine

import (
	"archive/tar"
	"errors"
	"fmt"
	"math/rand/v2"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/google/go-cmp/cmp"
)

// TestGrepLines holds what is found in buffers against a search line by line.
func TestGrepLines(t *testing.T) {
	patterns := []string{
		"", "a", "ab", "^a", "b$", "^$", "^ab?$", `a\s`, `\Aa`, `b\z`, "[^a]", "a|bb", `\bab\b`, "(?s)a.b", "a\nb", "b*", `(^|b)a`, "é",
	}
	for seed := range uint64(300) {
		rnd := rand.New(rand.NewPCG(seed, 3))
		var b strings.Builder
		for range rnd.IntN(60) {
			b.WriteString([]string{"a", "b", "é", " ", "\n", "\n"}[rnd.IntN(6)])
		}
		text := b.String()
		lines := strings.Split(text, "\n")
		if lines[len(lines)-1] == "" {
			lines = lines[:len(lines)-1]
		}
		for _, pattern := range patterns {
			m, err := newMatcher(GrepOptions{Pattern: pattern})
			if err != nil {
				t.Fatal(err)
			}
			s := fileSearch{m: m}
			cut := len(lines) / 2 // in two buffers, as a long file
			for i, part := range [][]string{lines[:cut], lines[cut:]} {
				joined := strings.Join(part, "\n")
				if len(part) > 0 && (i == 0 || strings.HasSuffix(text, "\n")) {
					joined += "\n"
				}
				if err := s.chunk([]byte(joined)); err != nil {
					t.Fatal(err)
				}
			}
			var got, want []string
			for _, match := range s.kept.matches {
				got = append(got, fmt.Sprintf("%d:%s", match.Line, match.Text))
			}
			for i, line := range lines {
				if slices.ContainsFunc(strings.Split(pattern, "\n"), func(p string) bool { return regexp.MustCompile("(?m)" + p).MatchString(line) }) {
					want = append(want, fmt.Sprintf("%d:%s", i+1, line))
				}
			}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Fatalf("%q in %q (-want +got):\n%s", pattern, text, diff)
			}
		}
	}
}

func TestGrep(t *testing.T) {
	env := imageOf(t, tar.Header{Name: "a/one"}, tar.Header{Name: "a/two"}, tarLink("a/l", "one"), tarLink("la", "a"), tar.Header{Name: "b"})
	for _, c := range []struct {
		opts GrepOptions
		want string
	}{
		{GrepOptions{Pattern: "."}, "/a/one /a/two /b"},
		{GrepOptions{Pattern: "A/ONE", IgnoreCase: true}, "/a/one"},
		{GrepOptions{Pattern: "a.one", Fixed: true}, ""},
		{GrepOptions{Pattern: "o", Path: "/la"}, "/la/one /la/two"},
		{GrepOptions{Pattern: "one\nb", Fixed: true}, "/a/one /b"},
		{GrepOptions{Pattern: "a", Path: "a/l"}, "/a/l"},
	} {
		c.opts.Ref = "i"
		var paths []string
		n, err := Grep(t.Context(), env, c.opts, func(m GrepMatch) error {
			paths = append(paths, m.Path)
			return nil
		})
		if got := strings.Join(paths, " "); err != nil || got != c.want || n != len(paths) {
			t.Errorf("%+v: %s, %v, want %s", c.opts, got, err, c.want)
		}
	}
	if _, err := Grep(t.Context(), env, GrepOptions{LookOptions: LookOptions{Ref: "i"}, Pattern: "("}, nil); !errdefs.IsInvalidArgument(err) {
		t.Errorf("bad pattern: %v", err)
	}
	if _, err := Grep(t.Context(), env, GrepOptions{LookOptions: LookOptions{Ref: "i"}, Path: "/x"}, nil); !errdefs.IsNotFound(err) {
		t.Errorf("bad path: %v", err)
	}
	stop := errors.New("stop")
	if _, err := Grep(t.Context(), env, GrepOptions{LookOptions: LookOptions{Ref: "i"}}, func(GrepMatch) error { return stop }); !errors.Is(err, stop) {
		t.Errorf("a stopped search: %v", err)
	}
}
