// Command gendocs writes one page of Markdown (DIR/cli) and one manual page
// (DIR/man) for each command of the given programs. What a page says is what
// --help prints: it runs the programs, so the pages cannot differ from them.
//
//	gendocs DIR PROGRAM...
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
)

// maxDepth is how deep commands nest at most: program, group, command.
const maxDepth = 4

// page is the help of one command.
type page struct {
	name     []string // program, command...
	usage    string
	summary  string
	rest     string // all that follows the summary
	children []child
}

// child is one line of a list of commands.
type child struct{ name, summary string }

func main() {
	if err := run(context.Background(), os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "gendocs:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string) error {
	if len(args) < 2 {
		return errors.New("usage: gendocs DIR PROGRAM")
	}
	var pages []page
	for _, program := range args[1:] {
		more, err := collect(ctx, program, []string{filepath.Base(program)})
		if err != nil {
			return err
		}
		pages = append(pages, more...)
	}
	for _, kind := range []struct {
		dir, suffix, separator string
		format                 func(page) string
	}{
		{filepath.Join(args[0], "cli"), ".md", "_", markdown},
		{filepath.Join(args[0], "man"), ".1", "-", manual},
	} {
		if err := os.RemoveAll(kind.dir); err != nil {
			return err
		}
		if err := os.MkdirAll(kind.dir, 0o755); err != nil { //nolint:gosec // documents are for everyone
			return err
		}
		for _, p := range pages {
			name := filepath.Join(kind.dir, strings.Join(p.name, kind.separator)+kind.suffix)
			if err := os.WriteFile(name, []byte(kind.format(p)), 0o644); err != nil {
				return err
			}
		}
	}
	return nil
}

// collect returns the pages of a command and of those below it.
func collect(ctx context.Context, program string, name []string) ([]page, error) {
	if len(name) > maxDepth {
		return nil, fmt.Errorf("%v: too deep", name)
	}
	out, err := exec.CommandContext(ctx, program, append(name[1:len(name):len(name)], "--help")...).Output()
	if err != nil {
		return nil, fmt.Errorf("%v --help: %w", name, err)
	}
	p, err := parse(name, string(out))
	if err != nil {
		return nil, err
	}
	pages := []page{p}
	for _, c := range p.children {
		below, err := collect(ctx, program, append(name[:len(name):len(name)], c.name))
		if err != nil {
			return nil, err
		}
		pages = append(pages, below...)
	}
	return pages, nil
}

var (
	listTitle = regexp.MustCompile(`^[A-Za-z ]*Commands:$`)
	listLine  = regexp.MustCompile(`^  ([a-z][a-z0-9-]*)\*? {2,}(.*)$`)
)

// parse takes the text of --help apart.
func parse(name []string, help string) (page, error) {
	parts := strings.SplitN(strings.TrimSpace(help), "\n\n", 3)
	usage, ok := strings.CutPrefix(parts[0], "Usage:")
	if !ok || len(parts) < 2 {
		return page{}, fmt.Errorf("%v: help does not begin with usage and summary", name)
	}
	p := page{name: name, usage: strings.TrimSpace(usage), summary: strings.TrimSpace(parts[1])}
	if len(parts) == 3 {
		p.rest = parts[2]
	}
	inList := false
	for line := range strings.Lines(p.rest) {
		line = strings.TrimRight(line, "\n")
		switch m := listLine.FindStringSubmatch(line); {
		case listTitle.MatchString(line):
			inList = true
		case inList && m != nil:
			p.children = append(p.children, child{m[1], m[2]})
		default:
			inList = false
		}
	}
	return p, nil
}

// markdown is the page for people who read the repository.
func markdown(p page) string {
	var b strings.Builder
	fmt.Fprintf(&b, "# %s\n\n%s\n\n```\n%s\n", strings.Join(p.name, " "), p.summary, p.usage)
	if p.rest != "" && len(p.children) == 0 {
		fmt.Fprintf(&b, "\n%s\n", p.rest)
	}
	b.WriteString("```\n")
	if len(p.children) == 0 {
		return b.String()
	}
	b.WriteString("\n| command | |\n|---|---|\n")
	for _, c := range p.children {
		fmt.Fprintf(&b, "| [%s](%s_%s.md) | %s |\n", c.name, strings.Join(p.name, "_"), c.name, strings.ReplaceAll(c.summary, "|", `\|`))
	}
	if _, options, ok := strings.Cut(p.rest, "Options:\n"); ok {
		fmt.Fprintf(&b, "\n```\nOptions:\n%s\n```\n", options)
	}
	return b.String()
}

// roff makes text safe for a manual page.
var roff = strings.NewReplacer(`\`, `\e`, `-`, `\-`, "\n.", "\n\\&.", "\n'", "\n\\&'")

// manual is the page for man.
func manual(p page) string {
	name := strings.Join(p.name, "-")
	var b strings.Builder
	fmt.Fprintf(&b, ".TH %s 1\n.SH NAME\n%s \\- %s\n", roff.Replace(strings.ToUpper(name)), roff.Replace(name), roff.Replace(p.summary))
	fmt.Fprintf(&b, ".SH SYNOPSIS\n.nf\n%s\n.fi\n", roff.Replace(p.usage))
	if p.rest != "" {
		fmt.Fprintf(&b, ".SH DESCRIPTION\n.nf\n%s\n.fi\n", roff.Replace(p.rest))
	}
	if len(p.children) > 0 {
		b.WriteString(".SH SEE ALSO\n")
		for i, c := range p.children {
			if i > 0 {
				b.WriteString(",\n")
			}
			fmt.Fprintf(&b, ".BR %s (1)", roff.Replace(name+"-"+c.name))
		}
		b.WriteString("\n")
	}
	return b.String()
}
