// Package strake_test holds the architecture: which package may import which,
// and how large anything may grow. The table is in arch_table_test.go.
//
// The sources are read by this process itself, so that Go's test cache knows
// what the result depends on.
package strake_test

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path"
	"slices"
	"strconv"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/google/go-cmp/cmp"
)

// violation is one breach of a rule.
type violation struct {
	where string // package, file, function, type or module
	rule  string // one word
	text  string
}

func (v violation) String() string { return v.where + ": " + v.rule + ": " + v.text }

// checker reads one source tree.
type checker struct {
	tree       fs.FS
	modules    []string                   // required by go.mod
	importers  map[string]map[string]bool // module -> package directories
	methods    map[string]int             // directory and type -> methods
	documented map[string]bool            // directory -> has a package comment
	found      []violation
}

func (c *checker) report(where, rule, format string, args ...any) {
	c.found = append(c.found, violation{where, rule, fmt.Sprintf(format, args...)})
}

// TestArchitecture holds the tree to the table.
func TestArchitecture(t *testing.T) {
	used := make(map[exception]bool)
	for _, v := range check(t, os.DirFS(".")) {
		i := slices.IndexFunc(exceptions, func(e exception) bool { return e.where == v.where && e.rule == v.rule })
		if i < 0 {
			t.Error(v)
			continue
		}
		used[exceptions[i]] = true
	}
	for _, e := range exceptions {
		if !used[e] || e.reason == "" {
			t.Errorf("%s: %s: this exception is not needed or gives no reason", e.where, e.rule)
		}
	}
}

// TestTable holds the table itself to the layers.
func TestTable(t *testing.T) {
	for name, p := range packages {
		for _, imported := range strings.Fields(p.imports) {
			if other, ok := packages[imported]; !ok || other.layer > p.layer {
				t.Errorf("%s (layer %d) may import %s (layer %d)", name, p.layer, imported, other.layer)
			}
		}
	}
}

// TestTableDocument holds the table in ARCHITECTURE.md to the one here: each
// package that exists has its row, with the layer and the imports among them.
func TestTableDocument(t *testing.T) {
	b, err := os.ReadFile("ARCHITECTURE.md")
	if err != nil {
		t.Fatal(err)
	}
	rows := make(map[string]string)
	for line := range strings.Lines(string(b)) {
		if cells := strings.Split(strings.TrimSpace(line), "|"); len(cells) == 6 {
			rows[strings.Trim(cells[2], " `")] = strings.TrimSpace(cells[1]) + ": " + strings.TrimSpace(cells[4])
		}
	}
	exists := func(name string) bool {
		_, err := os.Stat(path.Join("internal", name))
		return err == nil
	}
	for name, p := range packages {
		imports := strings.Join(slices.DeleteFunc(strings.Fields(p.imports), func(s string) bool { return !exists(s) }), " ")
		switch {
		case slices.Contains(testOnly, name):
			continue
		case p.imports == all:
			imports = "1 to 4, but hub"
		}
		if want := strconv.Itoa(p.layer) + ": " + imports; exists(name) && rows[name] != want {
			t.Errorf("%s: ARCHITECTURE.md says %q, the table here %q", name, rows[name], want)
		}
	}
}

// check returns every violation in tree, sorted.
func check(t *testing.T, tree fs.FS) []violation {
	t.Helper()
	c := &checker{
		tree:       tree,
		importers:  make(map[string]map[string]bool),
		methods:    make(map[string]int),
		documented: make(map[string]bool),
	}
	if err := c.readModules(); err != nil {
		t.Fatal(err)
	}
	if err := fs.WalkDir(tree, ".", c.visit); err != nil {
		t.Fatal(err)
	}
	c.finish()
	slices.SortFunc(c.found, func(a, b violation) int { return strings.Compare(a.String(), b.String()) })
	return c.found
}

// readModules reads the module paths that go.mod requires, the longest first.
func (c *checker) readModules() error {
	b, err := fs.ReadFile(c.tree, "go.mod")
	if err != nil {
		return err
	}
	for line := range strings.Lines(string(b)) {
		words := strings.Fields(strings.TrimPrefix(line, "require "))
		if len(words) >= 2 && strings.HasPrefix(words[1], "v") {
			c.modules = append(c.modules, words[0])
		}
	}
	slices.SortFunc(c.modules, func(a, b string) int { return len(b) - len(a) })
	return nil
}

// visit checks one file of the tree; other modules and test data are not ours.
func (c *checker) visit(name string, d fs.DirEntry, err error) error {
	if err != nil {
		return err
	}
	if d.IsDir() {
		base := d.Name()
		if base == "testdata" || name != "." && (base[0] == '.' || base[0] == '_') {
			return fs.SkipDir
		}
		if _, err := fs.Stat(c.tree, path.Join(name, "go.mod")); err == nil && name != "." {
			return fs.SkipDir
		}
		return nil
	}
	if path.Ext(name) != ".go" {
		return nil
	}
	src, err := fs.ReadFile(c.tree, name)
	if err != nil {
		return err
	}
	set := token.NewFileSet()
	f, err := parser.ParseFile(set, name, src, parser.ParseComments|parser.SkipObjectResolution)
	if err != nil {
		return err
	}
	c.file(name, set, f)
	return nil
}

// file checks one parsed file.
func (c *checker) file(name string, set *token.FileSet, f *ast.File) {
	dir := path.Dir(name)
	test := strings.HasSuffix(name, "_test.go")
	if !ast.IsGenerated(f) {
		c.sizes(name, set, f)
	}
	c.imports(name, f, test)
	if test {
		return
	}
	if _, seen := c.documented[dir]; !seen {
		c.place(dir)
	}
	doc := strings.HasPrefix(f.Doc.Text(), "Package "+f.Name.Name+" ") || f.Name.Name == "main" && f.Doc.Text() != ""
	c.documented[dir] = c.documented[dir] || doc
	for _, decl := range f.Decls {
		if fn, ok := decl.(*ast.FuncDecl); ok {
			c.function(name, dir, fn)
		}
	}
	c.contents(name, dir, f)
}

// place checks that the directory is in the table.
func (c *checker) place(dir string) {
	parts := strings.Split(dir, "/")
	known := len(parts) == 2
	switch parts[0] {
	case "internal":
		if known {
			_, known = packages[parts[1]]
		}
	case "cmd":
		if known {
			_, known = commands[parts[1]]
		}
	case "bench", "examples":
		known = true
	default:
		known = known && parts[0] == "tools"
	}
	if !known {
		c.report(dir, "place", "not in the package table")
	}
}

// lines is how many lines n takes.
func lines(set *token.FileSet, n ast.Node) int {
	return set.Position(n.End()).Line - set.Position(n.Pos()).Line + 1
}

// sizes checks the budgets of a file and what is in it.
func (c *checker) sizes(name string, set *token.FileSet, f *ast.File) {
	if n := set.File(f.FileStart).LineCount(); n > maxFile {
		c.report(name, "size", "%d lines, at most %d", n, maxFile)
	}
	for _, decl := range f.Decls {
		fn, ok := decl.(*ast.FuncDecl)
		if !ok {
			continue
		}
		where := name + " " + fn.Name.Name
		switch n := lines(set, fn); {
		case n > hardFunction:
			c.report(where, "huge", "%d lines, never more than %d", n, hardFunction)
		case n > maxFunction:
			c.report(where, "size", "%d lines, at most %d", n, maxFunction)
		}
	}
}

// importOf returns the name of the internal package that an import path means.
func importOf(p string) (string, bool) { return strings.CutPrefix(p, module+"/internal/") }

// imports checks what one file imports.
func (c *checker) imports(name string, f *ast.File, test bool) {
	dir := path.Dir(name)
	for _, spec := range f.Imports {
		p, err := strconv.Unquote(spec.Path.Value)
		if err != nil {
			c.report(name, "import", "%v", err)
			continue
		}
		if test {
			continue
		}
		if spec.Name != nil && spec.Name.Name == "_" && p != "embed" && dir != "internal/sqldb" {
			c.report(name, "blank", "blank import of %s", p)
		}
		if other, ok := importOf(p); ok {
			c.internal(name, dir, other)
			continue
		}
		for _, m := range c.modules {
			if p == m || strings.HasPrefix(p, m+"/") {
				c.external(dir, m)
				break
			}
		}
	}
}

// internal checks the import of an internal package.
func (c *checker) internal(name, dir, other string) {
	allowed := "every package"
	switch top, pkg, _ := strings.Cut(dir, "/"); top {
	case "internal":
		allowed = packages[pkg].imports
	case "cmd":
		allowed = commands[pkg]
	}
	switch {
	case slices.Contains(testOnly, other) && !forTests(dir):
		c.report(name, "import", "%s is for tests only", other)
	case allowed != "every package" && !slices.Contains(strings.Fields(allowed), other):
		c.report(name, "import", "%s may not import %s", dir, other)
	}
}

// forTests tells whether the directory is that of a package that only tests import.
func forTests(dir string) bool {
	return slices.Contains(testOnly, strings.TrimPrefix(dir, "internal/"))
}

// shipped tells whether the directory is a part of a program that users run.
func shipped(dir string) bool {
	return strings.HasPrefix(dir, "internal/") || strings.HasPrefix(dir, "cmd/")
}

// external notes the import of a module.
func (c *checker) external(dir, mod string) {
	if _, ok := shared[mod]; ok || forTests(dir) || !shipped(dir) {
		return
	}
	if c.importers[mod] == nil {
		c.importers[mod] = make(map[string]bool)
	}
	c.importers[mod][dir] = true
}

// function checks one function of a file that is not a test.
func (c *checker) function(name, dir string, fn *ast.FuncDecl) {
	if fn.Recv == nil {
		if fn.Name.Name == "init" {
			c.report(name, "init", "a package has no init function")
		}
		return
	}
	recv := fn.Recv.List[0].Type
	if star, ok := recv.(*ast.StarExpr); ok {
		recv = star.X
	}
	switch generic := recv.(type) {
	case *ast.IndexExpr:
		recv = generic.X
	case *ast.IndexListExpr:
		recv = generic.X
	}
	if id, ok := recv.(*ast.Ident); ok {
		c.methods[dir+" "+id.Name]++
	}
}

// printer tells whether sel writes to the process's own output.
func printer(sel *ast.SelectorExpr) bool {
	pkg, ok := sel.X.(*ast.Ident)
	if !ok {
		return false
	}
	switch pkg.Name {
	case "fmt":
		return strings.HasPrefix(sel.Sel.Name, "Print")
	case "os":
		return sel.Sel.Name == "Stdout" || sel.Sel.Name == "Stderr" || sel.Sel.Name == "Exit"
	case "log":
		return strings.HasPrefix(sel.Sel.Name, "Print") || strings.HasPrefix(sel.Sel.Name, "Fatal")
	}
	return false
}

// contents checks interfaces, structs and, in libraries, printing.
func (c *checker) contents(name, dir string, f *ast.File) {
	library := strings.HasPrefix(dir, "internal/") && dir != "internal/cli" && !forTests(dir)
	ast.Inspect(f, func(n ast.Node) bool {
		switch n := n.(type) {
		case *ast.TypeSpec:
			if i, ok := n.Type.(*ast.InterfaceType); ok {
				c.iface(name+" "+n.Name.Name, i)
			}
		case *ast.StructType:
			for _, field := range n.Fields.List {
				if sel, ok := field.Type.(*ast.SelectorExpr); ok && fmt.Sprint(sel.X, ".", sel.Sel) == "context.Context" {
					c.report(name, "context", "a context is an argument, not a field")
				}
			}
		case *ast.SelectorExpr:
			if library && printer(n) {
				c.report(name, "print", "a library does not use %v.%v", n.X, n.Sel)
			}
		}
		return true
	})
}

// iface checks the width of an interface.
func (c *checker) iface(where string, i *ast.InterfaceType) {
	n := 0
	for _, m := range i.Methods.List {
		n += len(m.Names)
	}
	if n > maxInterface {
		c.report(where, "size", "%d methods, at most %d", n, maxInterface)
	}
}

// finish reports what only the whole tree shows.
func (c *checker) finish() {
	for where, n := range c.methods {
		if n > maxMethods {
			c.report(where, "size", "%d methods, at most %d", n, maxMethods)
		}
	}
	for dir, ok := range c.documented {
		if !ok {
			c.report(dir, "doc", "no comment that begins with %q", "Package "+path.Base(dir))
		}
	}
	for mod, dirs := range c.importers {
		var names []string
		for dir := range dirs {
			names = append(names, dir)
		}
		slices.Sort(names)
		if owner, ok := importers[mod]; ok && (len(names) > 1 || names[0] != "internal/"+owner) {
			c.report(mod, "importers", "%v import it, only %s may", names, owner)
		} else if len(names) > 1 {
			c.report(mod, "importers", "%v import it, only one package may", names)
		}
	}
}

// repeat is a body of n lines.
func repeat(n int) string { return strings.Repeat("\t_ = 1\n", n) }

// TestArchitectureControl shows that each rule finds its breach.
func TestArchitectureControl(t *testing.T) {
	var methods strings.Builder
	for i := range 26 {
		fmt.Fprintf(&methods, "func (w Wide[T]) M%d() {}\n", i)
	}
	file := func(s string) *fstest.MapFile { return &fstest.MapFile{Data: []byte(s)} }
	tree := fstest.MapFS{
		"go.mod": file("module strake\n\nrequire (\n\texample.org/a v1.0.0\n\texample.org/a/b v1.0.0 // indirect\n" +
			"\tgithub.com/spf13/cobra v1.0.0\n\tgithub.com/opencontainers/go-digest v1.0.0\n)\n"),
		"internal/content/a.go": file("// Package content is good.\npackage content\n\n" +
			"import (\n\t\"example.org/a\"\n\t\"example.org/a/b/c\"\n\t\"github.com/opencontainers/go-digest\"\n)\n"),
		"internal/content/a_test.go":       file("package content\n\nimport (\n\t\"strake/internal/conformance\"\n\t\"strake/internal/cli\"\n\t_ \"x\"\n)\n"),
		"internal/content/testdata/bad.go": file("package bad\nfunc init() {}\n"),
		"internal/layer/a.go": file("package layer\n\nimport (\n\t\"example.org/a\"\n\t\"github.com/opencontainers/go-digest\"\n" +
			"\t\"github.com/spf13/cobra\"\n\t\"strake/internal/archive\"\n\t\"strake/internal/store\"\n\t\"strake/internal/conformance\"\n\t_ \"embed\"\n\t_ \"net/http/pprof\"\n)\n"),
		"internal/util/a.go":        file("// Package util is not in the table.\npackage util\n"),
		"internal/layer/deep/a.go":  file("// Package deep is too deep.\npackage deep\n"),
		"lib/a.go":                  file("// Package lib is not where packages are.\npackage lib\n"),
		"cmd/strake/main.go":        file("// Command strake.\npackage main\n\nimport \"strake/internal/store\"\n\nfunc init() {}\n"),
		"internal/image/long.go":    file("// Package image is long.\npackage image\n" + strings.Repeat("\n", 600)),
		"internal/image/fn.go":      file("package image\n\nfunc fits() {\n" + repeat(78) + "}\n\nfunc long() {\n" + repeat(79) + "}\n\nfunc huge() {\n" + repeat(99) + "}\n"),
		"internal/image/fn_test.go": file("package image\n\nfunc TestLong() {\n" + repeat(79) + "}\n"),
		"internal/image/gen.go":     file("// Code generated by hand. DO NOT EDIT.\n\npackage image\n\nfunc gen() {\n" + repeat(200) + "}\n"),
		"internal/image/wide.go":    file("package image\n\ntype Wide[T any] struct{}\n\n" + methods.String() + "\ntype I interface { A(); B(); C(); D(); E(); F(); G(); H(); J() }\ntype K interface { I; A(); B() }\n"),
		"internal/image/print.go":   file("package image\n\nimport (\n\t\"context\"\n\t\"fmt\"\n\t\"os\"\n)\n\ntype s struct { ctx context.Context }\n\nfunc p() { fmt.Println(); fmt.Fprintln(os.Stderr) }\n"),
		"tools/other/go.mod":        file("module other\n"),
		"tools/other/a.go":          file("package other\nfunc init() {}\n"),
	}
	var got []string
	for _, v := range check(t, tree) {
		got = append(got, v.String())
	}
	want := []string{
		"cmd/strake/main.go: import: cmd/strake may not import store",
		"cmd/strake/main.go: init: a package has no init function",
		"example.org/a: importers: [internal/content internal/layer] import it, only one package may",
		"github.com/spf13/cobra: importers: [internal/layer] import it, only cli may",
		"internal/image Wide: size: 26 methods, at most 25",
		"internal/image/fn.go huge: huge: 101 lines, never more than 100",
		"internal/image/fn.go long: size: 81 lines, at most 80",
		"internal/image/fn_test.go TestLong: size: 81 lines, at most 80",
		"internal/image/long.go: size: 602 lines, at most 600",
		"internal/image/print.go: context: a context is an argument, not a field",
		"internal/image/print.go: print: a library does not use fmt.Println",
		"internal/image/print.go: print: a library does not use os.Stderr",
		"internal/image/wide.go I: size: 9 methods, at most 8",
		"internal/layer/a.go: blank: blank import of net/http/pprof",
		"internal/layer/a.go: import: conformance is for tests only",
		"internal/layer/a.go: import: internal/layer may not import store",
		"internal/layer/deep: place: not in the package table",
		"internal/layer: doc: no comment that begins with \"Package layer\"",
		"internal/util: place: not in the package table",
		"lib: place: not in the package table",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}
