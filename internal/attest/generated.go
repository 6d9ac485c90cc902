package attest

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path"
	"slices"
	"strings"
)

// Bounds of what a generator of SBOMs may write.
const (
	maxGenerated      = 80 << 20  // of one statement, bytes; BuildKit's bound
	maxGeneratedTotal = 256 << 20 // of all, bytes
	maxGeneratedFiles = 1000
)

// Generated reads the statements that a generator of SBOMs wrote: every file of a
// directory is one, of TypeSPDX. That of core, named core.spdx.json or alike, comes
// first, the others in the order of their names. Nothing is believed of the files:
// what is no regular file, too large or no statement fails, and so does a directory that is none.
// One that is not there has no statements.
func Generated(files fs.FS, dir, core string) ([]Predicate, error) {
	info, err := fs.Lstat(files, dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err == nil && !info.IsDir() {
		return nil, fmt.Errorf("the generator's /%s is no directory", dir)
	}
	var entries []fs.DirEntry
	if err == nil {
		entries, err = fs.ReadDir(files, dir)
	}
	if err != nil {
		return nil, fmt.Errorf("read what the generator wrote: %w", err)
	}
	if len(entries) > maxGeneratedFiles {
		return nil, fmt.Errorf("the generator wrote more than %d files", maxGeneratedFiles)
	}
	var first, rest []Predicate
	total := int64(0)
	for _, e := range entries {
		p, size, err := generated(files, path.Join(dir, e.Name()))
		if err != nil {
			return nil, fmt.Errorf("the generator's %q: %w", e.Name(), err)
		}
		if total += size; total > maxGeneratedTotal {
			return nil, fmt.Errorf("the generator wrote more than %d bytes", maxGeneratedTotal)
		}
		if name, _, _ := strings.Cut(e.Name(), "."); name == core {
			first = append(first, p)
		} else {
			rest = append(rest, p)
		}
	}
	return slices.Concat(first, rest), nil
}

// generated reads one statement, and tells its size in bytes.
func generated(files fs.FS, name string) (p Predicate, size int64, err error) {
	info, err := fs.Lstat(files, name)
	if err != nil {
		return p, 0, err
	}
	if !info.Mode().IsRegular() {
		return p, 0, errors.New("it is not a regular file")
	}
	if info.Size() > maxGenerated {
		return p, 0, fmt.Errorf("it is larger than %d bytes", maxGenerated)
	}
	f, err := files.Open(name)
	if err != nil {
		return p, 0, err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	b, err := io.ReadAll(io.LimitReader(f, maxGenerated))
	if err != nil {
		return p, 0, err
	}
	var s Statement
	if err := json.Unmarshal(b, &s); err != nil {
		return p, 0, fmt.Errorf("it is no in-toto statement: %w", err)
	}
	if s.PredicateType != TypeSPDX {
		return p, 0, fmt.Errorf("its predicate type is %q, not %q", s.PredicateType, TypeSPDX)
	}
	if len(s.Predicate) == 0 {
		return p, 0, errors.New("it has no predicate")
	}
	return Predicate{Type: s.PredicateType, JSON: s.Predicate, Subjects: s.Subject, File: path.Base(name)}, int64(len(b)), nil
}
