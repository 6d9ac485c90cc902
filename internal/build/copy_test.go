package build

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/opencontainers/go-digest"

	"strake/internal/archive"
)

// tarOf stores a layer. Entries are "path", "dir/", "link -> target", each with
// an optional " mode=0755", " owner=1:2" and " data=text".
func tarOf(t testing.TB, s *dirStore, entries ...string) digest.Digest {
	t.Helper()
	files, err := s.WriteLayer(t.Context(), func(w io.Writer) error {
		tw := newTarWriter(w, nil)
		for _, e := range entries {
			n, data := parseEntry(t, e)
			if err := tw.entry(n, strings.NewReader(data)); err != nil {
				return err
			}
		}
		return tw.Close()
	})
	if err != nil {
		t.Fatal(err)
	}
	return files.DiffID
}

func parseEntry(t testing.TB, e string) (node, string) {
	t.Helper()
	name, data, _ := strings.Cut(e, " data=")
	n := node{mtime: time.Unix(1000, 0)}
	var perm fs.FileMode = 0o644
	if before, spec, ok := strings.Cut(name, " owner="); ok {
		name = before
		if _, err := fmt.Sscanf(spec, "%d:%d", &n.uid, &n.gid); err != nil {
			t.Fatal(err)
		}
	}
	set := false
	if before, spec, ok := strings.Cut(name, " mode="); ok {
		name, set = before, true
		if _, err := fmt.Sscanf(spec, "%o", &perm); err != nil {
			t.Fatal(err)
		}
	}
	if link, target, ok := strings.Cut(name, " -> "); ok {
		n.path, n.link, n.mode = link, target, fs.ModeSymlink|0o777
		return n, ""
	}
	if dir, ok := strings.CutSuffix(name, "/"); ok {
		if !set {
			perm = 0o755
		}
		n.path, n.mode = dir, fs.ModeDir|perm
		return n, ""
	}
	n.path, n.mode, n.size = name, perm, int64(len(data))
	return n, data
}

// contents lists a layer's tar the way tarOf reads it, without times.
func contents(t testing.TB, s *dirStore, id digest.Digest) []string {
	t.Helper()
	f, err := os.Open(s.layers[id].Tar)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	r := archive.NewReader(f)
	var out []string
	for {
		e, err := r.Next()
		if err != nil {
			return out
		}
		line := e.Name
		switch {
		case e.HardLink:
			out = append(out, line+" = "+e.Linkname)
			continue
		case e.IsDir():
			line += "/"
		case e.Mode&archive.TypeMask == archive.TypeSymlink:
			line += " -> " + e.Linkname
		}
		if e.Mode&archive.TypeMask != archive.TypeSymlink {
			line += fmt.Sprintf(" %o", e.Mode&0o7777)
		}
		if e.UID != 0 || e.GID != 0 {
			line += fmt.Sprintf(" owner=%d:%d", e.UID, e.GID)
		}
		if e.Size > 0 {
			b := make([]byte, e.Size)
			if _, err := r.Read(b); err != nil && len(b) == 0 {
				t.Fatal(err)
			}
			line += " data=" + string(b)
		}
		out = append(out, line)
	}
}

// writeFiles makes files of the form of tarOf below dir.
func writeFiles(t testing.TB, dir string, entries ...string) {
	t.Helper()
	for _, e := range entries {
		n, data := parseEntry(t, e)
		p := filepath.Join(dir, n.path)
		if err := os.MkdirAll(filepath.Dir(p), 0o755); err != nil {
			t.Fatal(err)
		}
		var err error
		switch n.mode.Type() {
		case fs.ModeDir:
			err = os.MkdirAll(p, n.mode.Perm())
		case fs.ModeSymlink:
			err = os.Symlink(n.link, p)
		default:
			err = errors.Join(os.WriteFile(p, []byte(data), n.mode.Perm()), os.Chmod(p, n.mode.Perm()))
		}
		if err != nil {
			t.Fatal(err)
		}
	}
}

type copyCase struct {
	name    string
	stage   []string // the stage copied to
	context []string
	ignore  []string
	sources []string
	dest    string
	owner   string
	mode    string
	unpack  bool
	parents bool // what stands behind "/./" in a source is copied with its parents
	exclude []string
	want    []string
	err     string
}

var passwd = []string{
	"etc/", "etc/passwd data=root:x:0:0::/:/bin/sh\napp:x:1001:1002::/:/bin/sh\n", "etc/group data=staff:x:50:\n",
}

var copyCases = []copyCase{
	{
		name: "file to new name", context: []string{"a data=1"}, sources: []string{"a"}, dest: "/b",
		want: []string{"b 644 data=1"},
	},
	{
		name: "file into missing directory", context: []string{"a data=1"}, sources: []string{"a"}, dest: "/x/y/",
		want: []string{"x/ 755", "x/y/ 755", "x/y/a 644 data=1"},
	},
	{
		name: "file into existing directory without slash", stage: []string{"x/ mode=0700"}, context: []string{"a data=1"},
		sources: []string{"a"}, dest: "/x", want: []string{"x/ 700", "x/a 644 data=1"},
	},
	{
		name: "directory contents", context: []string{"d/ mode=0711", "d/f mode=0755 data=1", "d/e/", "d/l -> f"},
		sources: []string{"d"}, dest: "/x", want: []string{"x/ 755", "x/e/ 755", "x/f 755 data=1", "x/l -> f"},
	},
	{
		name: "existing destination keeps its mode, what is below it does not", stage: []string{"x/ mode=0700", "x/e/ mode=0700"},
		context: []string{"d/e/ mode=0750", "d/e/f"}, sources: []string{"d"}, dest: "/x",
		want: []string{"x/ 700", "x/e/ 750", "x/e/f 644"},
	},
	{
		name: "wildcards", context: []string{"a.go data=1", "b.go data=2", "c.txt", "d/e.go data=3"}, sources: []string{"*.go", "?/e.*"},
		dest: "/src/", want: []string{"src/ 755", "src/a.go 644 data=1", "src/b.go 644 data=2", "src/e.go 644 data=3"},
	},
	{
		name: "wildcard without match", context: []string{"a data=1"}, sources: []string{"a", "nothing*"}, dest: "/x/",
		want: []string{"x/ 755", "x/a 644 data=1"},
	},
	{name: "missing", context: []string{"a"}, sources: []string{"b"}, dest: "/", err: `"/b": not found`},
	{
		name: "missing because ignored", context: []string{"a"}, ignore: []string{"a"}, sources: []string{"a"}, dest: "/",
		err: `"/a": not found (excluded by .dockerignore)`,
	},
	{
		name: "ignore with exceptions", context: []string{"d/a", "d/b", "d/c/e", "f"}, ignore: []string{"d", "!d/c/e", "*f"},
		sources: []string{"."}, dest: "/", want: []string{"d/ 755", "d/c/ 755", "d/c/e 644"},
	},
	{
		name: "source leaves the context", context: []string{"a data=1"}, sources: []string{"../../a"}, dest: "/",
		want: []string{"a 644 data=1"},
	},
	{
		name: "named symlink is followed inside the context", context: []string{"d/real data=1", "l -> /d/real", "out -> /../../etc/passwd"},
		sources: []string{"l"}, dest: "/x/", want: []string{"x/ 755", "x/l 644 data=1"},
	},
	{
		name: "symlink out of the context is not followed", context: []string{"out -> ../../../../../../../../etc/passwd"},
		sources: []string{"out"}, dest: "/x", err: "not found",
	},
	{
		name: "destination through a symlink of the stage", stage: []string{"real/", "l -> /real", "up -> ../../../../../real"},
		context: []string{"a data=1"}, sources: []string{"a"}, dest: "/up/sub/",
		want: []string{"real/ 755", "real/sub/ 755", "real/sub/a 644 data=1"},
	},
	{
		name: "file over symlink replaces it", stage: []string{"x/", "x/a -> /etc/passwd"}, context: []string{"a data=1"},
		sources: []string{"a"}, dest: "/x/", want: []string{"x/ 755", "x/a 644 data=1"},
	},
	{
		name: "file over directory", stage: []string{"x/", "x/a/"}, context: []string{"a"}, sources: []string{"a"}, dest: "/x/",
		err: "cannot replace to directory /x/a with file",
	},
	{
		name: "directory over file", stage: []string{"x/", "x/a data=1"}, context: []string{"d/a/f"}, sources: []string{"d"}, dest: "/x/",
		err: "cannot copy to non-directory: /x/a",
	},
	{
		name: "owner by name", stage: passwd, context: []string{"d/a"}, sources: []string{"d"}, dest: "/n/x", owner: "app:staff",
		want: []string{"n/ 755 owner=1001:50", "n/x/ 755 owner=1001:50", "n/x/a 644 owner=1001:50"},
	},
	{name: "owner without group", stage: passwd, context: []string{"a"}, sources: []string{"a"}, dest: "/a", owner: "app", want: []string{"a 644 owner=1001:1002"}},
	{name: "numeric owner", context: []string{"a"}, sources: []string{"a"}, dest: "/a", owner: "7", want: []string{"a 644 owner=7:7"}},
	{name: "owner out of range", context: []string{"a"}, sources: []string{"a"}, dest: "/a", owner: "4294967296", err: "out of range"},
	{
		name: "passwd is a symlink out", stage: []string{"etc/", "etc/passwd -> ../../../../../../etc/passwd-of-the-host"},
		context: []string{"a"}, sources: []string{"a"}, dest: "/a", owner: "daemon", want: []string{"a 644"},
	},
	{
		name: "chmod", context: []string{"d/a mode=0600", "d/l -> a", "d/e/"}, sources: []string{"d"}, dest: "/x", mode: "4751",
		want: []string{"x/ 751", "x/a 4751", "x/e/ 4751", "x/l -> a"},
	},
	{
		name: "symbolic chmod", context: []string{"d/a mode=0600", "d/x mode=0700", "d/e/ mode=0700"}, sources: []string{"d"}, dest: "/x",
		mode: "u=rwX,go=rX", want: []string{"x/ 755", "x/a 644", "x/e/ 755", "x/x 755"},
	},
	{
		name: "several sources, the last wins", context: []string{"d/a data=1", "e/a data=2"}, sources: []string{"d", "e"}, dest: "/x/",
		want: []string{"x/ 755", "x/a 644 data=2"},
	},
	{
		name: "all of the context", context: []string{"hidden data=1", ".hidden data=2", "d/.x data=3"}, sources: []string{"."}, dest: "/",
		want: []string{".hidden 644 data=2", "d/ 755", "d/.x 644 data=3", "hidden 644 data=1"},
	},
	{
		name: "parents", context: []string{"a/ mode=0700", "a/b/ mode=0711", "a/b/c data=1", "a/b/d", "e"}, sources: []string{"/./a/b/c"},
		parents: true, dest: "/x/", want: []string{"x/ 755", "x/a/ 700", "x/a/b/ 711", "x/a/b/c 644 data=1"},
	},
	{
		name: "parents from a pivot with wildcards", context: []string{"m/1/n/x/f data=1", "m/2/n/f data=2", "m/2/n/g"},
		sources: []string{"m/*/./n/**/f"}, parents: true, dest: "/x/",
		want: []string{"x/ 755", "x/n/ 755", "x/n/f 644 data=2", "x/n/x/ 755", "x/n/x/f 644 data=1"},
	},
	{
		name: "parents of a directory", context: []string{"a/b/c/f", "a/b/g", "a/h"}, sources: []string{"a/./b"},
		parents: true, dest: "/", want: []string{"b/ 755", "b/c/ 755", "b/c/f 644", "b/g 644"},
	},
	{
		name: "parents that are there keep their owner", stage: []string{"a/ mode=0700 owner=5:6"}, context: []string{"a/ mode=0750", "a/f"},
		sources: []string{"/./a/f"}, parents: true, owner: "7:8", dest: "/", want: []string{"a/ 750 owner=5:6", "a/f 644 owner=7:8"},
	},
	{
		name: "parents missing", context: []string{"a/b"}, sources: []string{"a/./c"}, parents: true, dest: "/", err: `"/a/c": not found`,
	},
	{
		name: "parents of a missing pivot", context: []string{"a/b"}, sources: []string{"z/./c"}, parents: true, dest: "/", err: `"/z/c": not found`,
	},
	{
		name: "parents without match", context: []string{"a/b"}, sources: []string{"a/./c*"}, parents: true, dest: "/x/", want: []string{"x/ 755"},
	},
	{
		name: "exclude", context: []string{"d/a.go", "d/a.txt", "d/e/b.txt", "d/e/b.go", "d/.git/f"}, sources: []string{"d"}, dest: "/x/",
		exclude: []string{"*.txt", "**/.git"}, want: []string{"x/ 755", "x/a.go 644", "x/e/ 755", "x/e/b.go 644", "x/e/b.txt 644"},
	},
	{
		name: "exclude with exceptions", context: []string{"d/e/ mode=0711", "d/e/a", "d/e/b"}, sources: []string{"."}, dest: "/x/",
		exclude: []string{"d/e", "!d/e/b"}, want: []string{"x/ 755", "x/d/ 755", "x/d/e/ 711", "x/d/e/b 644"},
	},
	{
		name: "exclude does not touch a file that is named", context: []string{"a.txt", "d/a.txt"}, sources: []string{"a.txt", "d"}, dest: "/x/",
		exclude: []string{"*.txt"}, want: []string{"x/ 755", "x/a.txt 644"},
	},
	{
		name: "named owner where nothing is", context: []string{"a"}, sources: []string{"a"}, dest: "/a", owner: "app", err: `invalid user "app": this step starts from nothing`,
	},
	{
		name: "through a symlink to what is missing", stage: []string{"l -> /no/where"}, context: []string{"a data=1"}, sources: []string{"a"},
		dest: "/l", want: []string{"no/ 755", "no/where 644 data=1"},
	},
	{name: "no whiteouts", context: []string{".wh.etc"}, sources: []string{".wh.etc"}, dest: "/", err: "cannot hold a file of this name"},
}

func TestCopy(t *testing.T) {
	for _, tc := range copyCases {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			s := newDirStore(t)
			dir := t.TempDir()
			writeFiles(t, dir, tc.context...)
			res, err := runCopy(t, s, dir, tc)
			if tc.err != "" {
				if err == nil || !strings.Contains(err.Error(), tc.err) {
					t.Fatalf("got error %v, want %q", err, tc.err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			got := contents(t, s, res.Layers[len(res.Layers)-1])
			slices.Sort(tc.want)
			slices.Sort(got)
			if diff := cmp.Diff(tc.want, got); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// runCopy solves one Copy from a directory.
func runCopy(t *testing.T, s *dirStore, dir string, tc copyCase) (Result, error) {
	t.Helper()
	solver := NewSolver(Options{Store: s})
	paths := tc.sources
	if tc.parents {
		paths = nil
	}
	c, err := LoadContext(t.Context(), ContextOptions{Dir: dir, Ignore: tc.ignore, Paths: paths, Index: s})
	if err != nil {
		return Result{}, err
	}
	t.Cleanup(func() {
		if err := errors.Join(c.Close(), solver.Close()); err != nil {
			t.Error(err)
		}
	})
	base := &Base{}
	if tc.stage != nil {
		base.Layers = []digest.Digest{tarOf(t, s, tc.stage...)}
	}
	op := &Copy{Dest: tc.dest, Owner: tc.owner, Mode: tc.mode, Exclude: tc.exclude, Instruction: "COPY " + tc.dest}
	for _, src := range tc.sources {
		parents := ""
		if tc.parents {
			src, parents, _ = strings.Cut(src, "/./")
		}
		op.Sources = append(op.Sources, Source{
			Context: func(context.Context) (*Context, error) { return c, nil }, Path: src, Parents: parents, Unpack: tc.unpack,
		})
	}
	return solver.Solve(t.Context(), &Vertex{Op: op, Inputs: []*Vertex{{Op: base}}, Name: "COPY"})
}
