package cli

import (
	"strings"
	"testing"

	"github.com/spf13/cobra"
)

// The tree that is made for a command line has the command that the whole tree
// has for it, with the same help.
func TestTreeForCommandLine(t *testing.T) {
	global := []string{"", "-D", "--debug=true", "--root image", "--root=images", "--config pull -D", "--bogus", "--", "--help"}
	var visit func(whole *cobra.Command, path string)
	check := func(whole *cobra.Command, line string) {
		t.Helper()
		root := newRootCommand(&session{}, strings.Fields(line))
		got, _, err := root.Traverse(strings.Fields(line))
		if err != nil {
			return // a flag that is not known
		}
		if got.CommandPath() != whole.CommandPath() || usage(got) != usage(whole) {
			t.Errorf("%q is %q:\n%s\nwant %q:\n%s", line, got.CommandPath(), usage(got), whole.CommandPath(), usage(whole))
		}
	}
	visit = func(whole *cobra.Command, path string) {
		for _, flags := range global {
			line := strings.TrimSpace(flags + " " + path)
			want, _, err := newRootCommand(&session{}, nil).Traverse(strings.Fields(line))
			if err == nil {
				check(want, line)
				check(want, line+" -x")
			}
		}
		for _, sub := range whole.Commands() {
			for _, name := range append([]string{sub.Name()}, sub.Aliases...) {
				visit(sub, strings.TrimSpace(path+" "+name))
			}
		}
	}
	whole := newRootCommand(&session{}, nil)
	visit(whole, "")

	all := len(whole.Commands())
	for line, want := range map[string]int{
		"images": 1, "--root x -D image ls": 1, "": all, "foo images": all, "help images": all, "-Dv images": all, "--": all,
	} {
		if got := len(newRootCommand(&session{}, strings.Fields(line)).Commands()); got != want {
			t.Errorf("%q makes %d commands, want %d", line, got, want)
		}
	}
}
