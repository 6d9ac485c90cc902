package build

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path"
	"strings"
	"time"

	"strake/internal/archive"
)

// maxLinks bounds the symlinks that one path resolves through, as the kernel
// does.
const maxLinks = 255

// node is one file of a tree.
type node struct {
	path  string // slash-separated, relative to the root; "." is the root
	mode  fs.FileMode
	uid   int
	gid   int
	size  int64
	mtime time.Time
	link  string // of a symlink
	major uint32 // of a device
	minor uint32
	ino   uint64 // of a file with several names, else 0
	xattr []archive.Xattr
	sum   [32]byte // content of a regular file, where the tree knows it

	implied bool // a directory that is shown only for what is below it
}

// tree is what files are copied from, or to. A missing file is fs.ErrNotExist.
type tree interface {
	// lstat describes the file, symlinks not followed.
	lstat(name string) (node, error)
	// walk calls fn for name and for all below it: a directory before what is
	// in it, names in byte order.
	walk(name string, fn func(node) error) error
	// list returns the nodes directly in a directory, in byte order.
	list(name string) ([]node, error)
	// open opens a regular file.
	open(name string) (io.ReadCloser, error)
}

// comparePath orders paths as a walk does: as if "/" were the lowest byte.
func comparePath[T string | []byte](a T, b string) int {
	for i := 0; i < len(a) && i < len(b); i++ {
		if x, y := a[i], b[i]; x != y {
			if x == '/' {
				return -1
			}
			if y == '/' {
				return 1
			}
			return cmp.Compare(x, y)
		}
	}
	return cmp.Compare(len(a), len(b))
}

// lexical cleans p into a tree path: it cannot leave the root.
func lexical(p string) string {
	p = strings.TrimPrefix(path.Clean("/"+p), "/")
	if p == "" {
		return "."
	}
	return p
}

// follow resolves the symlinks of p inside the tree that lstat shows: a link to
// "/" is the tree's root, and nothing leads out of it. What is missing is kept
// as it is written. The last component is followed too.
func follow(lstat func(string) (node, error), p string) (string, error) {
	rest := strings.Split(lexical(p), "/")
	at := "."
	links := 0
	for len(rest) > 0 {
		part := rest[0]
		rest = rest[1:]
		switch part {
		case "", ".":
			continue
		case "..":
			at = path.Dir(at)
			continue
		}
		next := path.Join(at, part)
		n, err := lstat(next)
		if errors.Is(err, fs.ErrNotExist) {
			at = next
			continue
		}
		if err != nil {
			return "", err
		}
		if n.mode.Type() != fs.ModeSymlink {
			at = next
			continue
		}
		if links++; links > maxLinks {
			return "", &fs.PathError{Op: "resolve", Path: "/" + lexical(p), Err: errors.New("too many links")}
		}
		if path.IsAbs(n.link) {
			at = "."
		}
		rest = append(strings.Split(n.link, "/"), rest...)
	}
	return at, nil
}

// below is name as seen from root, a directory above it or name itself.
func below(root, name string) string {
	if root == "." {
		return name
	}
	return strings.TrimPrefix(strings.TrimPrefix(name, root), "/")
}

// memTree is a tree of one regular file: an inline document, or what was
// downloaded.
type memTree struct {
	node
	opener func() (io.ReadCloser, error)
}

func (t memTree) lstat(name string) (node, error) {
	switch name {
	case ".":
		return node{path: ".", mode: fs.ModeDir | 0o755}, nil
	case t.path:
		return t.node, nil
	}
	return node{}, fmt.Errorf("%q: %w", "/"+name, fs.ErrNotExist)
}

func (t memTree) walk(name string, fn func(node) error) error {
	n, err := t.lstat(name)
	if err != nil {
		return err
	}
	return fn(n)
}

func (t memTree) list(string) ([]node, error) { return []node{t.node}, nil }

func (t memTree) open(string) (io.ReadCloser, error) { return t.opener() }

// glob lists the paths that match pattern, in which a name may have wildcards
// as path.Match knows them. A directory that matches is not looked into.
// Without wildcards it is the pattern itself, whether that exists or not.
func glob(t tree, pattern string) ([]string, error) {
	pattern = lexical(pattern)
	if !hasWildcards(pattern) {
		return []string{unescape(pattern)}, nil
	}
	if _, err := path.Match(pattern, ""); err != nil {
		return nil, fmt.Errorf("pattern %q: %w", pattern, err)
	}
	at := []string{"."}
	for part := range strings.SplitSeq(pattern, "/") {
		var next []string
		for _, dir := range at {
			found, err := globIn(t, dir, part)
			if err != nil {
				return nil, err
			}
			next = append(next, found...)
		}
		at = next
	}
	return at, nil
}

// globIn matches one component in dir.
func globIn(t tree, dir, part string) ([]string, error) {
	if !hasWildcards(part) {
		name := path.Join(dir, unescape(part))
		if _, err := t.lstat(name); errors.Is(err, fs.ErrNotExist) {
			return nil, nil
		} else if err != nil {
			return nil, err
		}
		return []string{name}, nil
	}
	resolved, err := follow(t.lstat, dir)
	if err != nil {
		return nil, err
	}
	if n, err := t.lstat(resolved); err != nil || !n.mode.IsDir() {
		return nil, nil //nolint:nilerr // no directory, no match
	}
	nodes, err := t.list(resolved)
	if err != nil {
		return nil, err
	}
	var out []string
	for _, n := range nodes {
		base := path.Base(n.path)
		if ok, err := path.Match(part, base); err != nil {
			return nil, err
		} else if ok {
			out = append(out, path.Join(dir, base))
		}
	}
	return out, nil
}

func hasWildcards(name string) bool {
	for i := 0; i < len(name); i++ {
		switch name[i] {
		case '*', '?', '[':
			return true
		case '\\':
			i++
		}
	}
	return false
}

// unescape takes the backslashes out of a pattern without wildcards.
func unescape(p string) string {
	if !strings.Contains(p, `\`) {
		return p
	}
	var b strings.Builder
	for i := 0; i < len(p); i++ {
		if p[i] == '\\' && i+1 < len(p) {
			i++
		}
		b.WriteByte(p[i])
	}
	return b.String()
}
