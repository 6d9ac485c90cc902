package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

const program = `#!/bin/sh
case "$*" in
--help) printf 'Usage:  p [OPTIONS] COMMAND\n\nDoes things\n\nCommon Commands:\n  go          Go | run\n\nGlobal Options:\n  -D, --debug   Debug\n\nMore.\n' ;;
'go --help') printf 'Usage:  p go\n\nGo | run\n\nOptions:\n  -x   X\n' ;;
*) exit 1 ;;
esac
`

func TestRun(t *testing.T) {
	dir := t.TempDir()
	p := filepath.Join(dir, "p")
	if err := os.WriteFile(p, []byte(program), 0o755); err != nil {
		t.Fatal(err)
	}
	docs := filepath.Join(dir, "docs")
	if err := os.MkdirAll(filepath.Join(docs, "cli"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(docs, "cli", "stale.md"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	if err := run(t.Context(), []string{docs, p}); err != nil {
		t.Fatal(err)
	}
	want := map[string]string{
		"cli/p.md": "# p\n\nDoes things\n\n```\np [OPTIONS] COMMAND\n```\n\n| command | |\n|---|---|\n| [go](p_go.md) | Go \\| run |\n" +
			"\n```\nOptions:\n  -D, --debug   Debug\n\nMore.\n```\n",
		"cli/p_go.md": "# p go\n\nGo | run\n\n```\np go\n\nOptions:\n  -x   X\n```\n",
		"man/p.1": ".TH P 1\n.SH NAME\np \\- Does things\n.SH SYNOPSIS\n.nf\np [OPTIONS] COMMAND\n.fi\n.SH DESCRIPTION\n.nf\n" +
			"Common Commands:\n  go          Go | run\n\nGlobal Options:\n  \\-D, \\-\\-debug   Debug\n\nMore.\n.fi\n.SH SEE ALSO\n.BR p\\-go (1)\n",
		"man/p-go.1": ".TH P\\-GO 1\n.SH NAME\np\\-go \\- Go | run\n.SH SYNOPSIS\n.nf\np go\n.fi\n.SH DESCRIPTION\n.nf\nOptions:\n  \\-x   X\n.fi\n",
	}
	got := make(map[string]string)
	err := filepath.WalkDir(docs, func(name string, d os.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		b, err := os.ReadFile(name)
		got[strings.TrimPrefix(name, docs+"/")] = string(b)
		return err
	})
	if diff := cmp.Diff(want, got); err != nil || diff != "" {
		t.Error(err, diff)
	}
}

func TestParseBad(t *testing.T) {
	for _, help := range []string{"", "hello", "Usage: x"} {
		if _, err := parse([]string{"x"}, help); err == nil {
			t.Errorf("%q: no error", help)
		}
	}
}
