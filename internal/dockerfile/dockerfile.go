// Package dockerfile turns a Dockerfile into a graph for package build.
//
// The language is Docker's: BuildKit's own packages parse it, and what its
// frontend makes of each instruction (names of steps, history, expansion of
// variables, error messages) is made here too. A stage is the part of a
// Dockerfile that a FROM begins. A stage that the target does not need is
// parsed and otherwise left alone.
//
// Parse reads the file, and Compile resolves base images and makes a
// build.Definition: a vertex for each instruction that changes files, and an
// image config for the rest.
package dockerfile

import (
	"bytes"
	"errors"
	"fmt"
	"strings"

	"github.com/moby/buildkit/frontend/dockerfile/instructions"
	"github.com/moby/buildkit/frontend/dockerfile/linter"
	"github.com/moby/buildkit/frontend/dockerfile/parser"
	"github.com/moby/buildkit/frontend/dockerfile/version"

	"strake/internal/build"
	"strake/internal/reference"
)

// maxSize bounds a Dockerfile, in bytes.
const maxSize = 16 << 20

// maxStages bounds its stages and maxCommands the instructions in all of them.
const (
	maxStages   = 10_000
	maxCommands = 100_000
)

// LanguageVersion is the version of the Dockerfile's language, as releases of BuildKit call it.
func LanguageVersion() string { return strings.TrimSuffix(version.Version(), "-dev") }

// File is a parsed Dockerfile. Compile may be called once.
type File struct {
	name   string
	source []byte
	escape rune
	tree   *parser.Node
	stages []instructions.Stage
	args   []instructions.ArgCommand
	lint   *linter.Linter
	warned []Warning
	asked  string // of the checks, in place of the directive
}

// Parse parses a Dockerfile; name is what errors call it. Its errors have a
// Location, which the File that comes with them has an Excerpt of. checks are
// the options of the checks; "" leaves them to the file's check directive.
func Parse(name string, source []byte, checks string) (*File, error) {
	f := &File{name: name, source: source, asked: checks}
	if len(source) > maxSize {
		return f, fmt.Errorf("%s is larger than %d bytes", name, maxSize)
	}
	if len(bytes.TrimSpace(source)) == 0 {
		return f, errors.New("the Dockerfile cannot be empty")
	}
	if syntax, _, loc, ok := parser.DetectSyntax(source); ok {
		if err := checkSyntax(syntax); err != nil {
			return f, parser.WithLocation(err, loc)
		}
	}
	if err := f.newLint(checks); err != nil {
		return f, err
	}
	ast, err := parser.Parse(bytes.NewReader(source))
	if err != nil {
		return f, err
	}
	f.escape, f.tree = ast.EscapeToken, ast.AST
	for _, w := range ast.Warnings {
		if w.URL == linter.RuleNoEmptyContinuation.URL && w.Location != nil {
			f.lint.Run(&linter.RuleNoEmptyContinuation, []parser.Range{*w.Location}, linter.RuleNoEmptyContinuation.Format())
		}
	}
	f.stages, f.args, err = instructions.Parse(ast.AST, f.lint)
	if err != nil {
		return f, err
	}
	if len(f.stages) == 0 {
		return f, errors.New("dockerfile contains no stages to build")
	}
	commands := 0
	for _, s := range f.stages {
		commands += len(s.Commands)
	}
	if len(f.stages) > maxStages || commands > maxCommands {
		return f, fmt.Errorf("%s has %d stages and %d instructions: too many", name, len(f.stages), commands)
	}
	f.checkNames()
	return f, nil
}

// Again parses the same file for another Compile.
func (f *File) Again() (*File, error) { return Parse(f.name, f.source, f.asked) }

// Warnings are what the checks have to say: those of the words when it is
// parsed, the others when it is compiled.
func (f *File) Warnings() []Warning { return f.warned }

// checkSyntax accepts the frontends that are built in. Nothing is fetched.
func checkSyntax(ref string) error {
	named, err := reference.Parse(ref)
	if err != nil {
		return fmt.Errorf("invalid syntax directive %q: %w", ref, err)
	}
	switch named.Repository().String() {
	case "docker.io/docker/dockerfile", "docker.io/docker/dockerfile-upstream":
		return nil
	}
	return fmt.Errorf("unsupported syntax directive %q: docker/dockerfile is built in, other frontends cannot be run", ref)
}

// Lines are the lines of the Dockerfile that err is about, or nil.
func Lines(err error) []int {
	var ve *build.VertexError
	if errors.As(err, &ve) && len(ve.Vertex.Lines) > 0 {
		return ve.Vertex.Lines
	}
	var le *parser.LocationError
	if !errors.As(err, &le) {
		return nil
	}
	for _, loc := range le.Locations {
		if lines := linesOf(loc); len(lines) > 0 {
			return lines
		}
	}
	return nil
}

func linesOf(loc []parser.Range) []int {
	var lines []int
	for _, r := range loc {
		for l := r.Start.Line; l <= max(r.End.Line, r.Start.Line); l++ {
			if l > 0 {
				lines = append(lines, l)
			}
		}
	}
	return lines
}

func firstLine(loc []parser.Range) int {
	if lines := linesOf(loc); len(lines) > 0 {
		return lines[0]
	}
	return 0
}

// Excerpt shows the lines of the Dockerfile that err is about with those around
// them, as BuildKit prints it. It is "" when err is about no line.
func (f *File) Excerpt(err error) string { return f.excerpt(Lines(err)) }

func (f *File) excerpt(about []int) string { return Excerpt(f.name, f.source, about) }

// Excerpt shows lines of a file with those around them, as BuildKit prints them. It is ""
// where there are none.
func Excerpt(name string, source []byte, about []int) string {
	marked := map[int]bool{}
	start, end := 0, 0
	for _, l := range about {
		marked[l] = true
		if start == 0 || l < start {
			start = l
		}
		end = max(end, l)
	}
	lines := strings.Split(string(source), "\n")
	if start < 1 || start > len(lines) {
		return ""
	}
	end = min(end, len(lines))
	first := start
	pad := 2
	if end == start {
		pad = 4
	}
	for p := 0; p < pad; p++ {
		if start > 1 {
			start--
			p++
		}
		if end != len(lines) {
			end++
			p++
		}
	}
	var b strings.Builder
	fmt.Fprintf(&b, "%s:%d\n--------------------\n", name, first)
	for i := start; i <= end; i++ {
		mark := "   "
		if marked[i] {
			mark = ">>>"
		}
		fmt.Fprintf(&b, " %3d | %s %s\n", i, mark, strings.TrimSuffix(lines[i-1], "\r"))
	}
	b.WriteString("--------------------\n")
	return b.String()
}
