package sqldb

import (
	"bytes"
	"fmt"
	"io/fs"
	"path"
	"strings"

	"github.com/containerd/errdefs"
)

// Steps are the migrations in the directory "migrations" of files, for Migrate. A
// line of theirs
//
//	-- include vuln/0001_vulns.sql
//
// stands for that file of packages["vuln"]: tables that several databases have are
// defined once.
func Steps(files fs.FS, packages map[string]fs.FS) fs.FS { return steps{files, packages} }

type steps struct {
	files    fs.FS
	packages map[string]fs.FS
}

const include = "-- include "

// Open is fs.FS's; what it opens is the file as it is written.
func (s steps) Open(name string) (fs.File, error) {
	if !fs.ValidPath(name) {
		return nil, &fs.PathError{Op: "open", Path: name, Err: fs.ErrInvalid}
	}
	return s.files.Open(path.Join("migrations", name))
}

// ReadFile is fs.ReadFileFS's, with what the file includes.
func (s steps) ReadFile(name string) ([]byte, error) {
	b, err := fs.ReadFile(s.files, "migrations/"+name)
	if err != nil {
		return nil, err
	}
	var whole []byte
	for line := range bytes.Lines(b) {
		if from, ok := strings.CutPrefix(string(line), include); ok {
			if line, err = s.included(strings.TrimSpace(from)); err != nil {
				return nil, fmt.Errorf("%s: %w", name, err)
			}
		}
		whole = append(whole, line...)
	}
	return whole, nil
}

// included is the file of a package, as "vuln/0001_vulns.sql".
func (s steps) included(from string) ([]byte, error) {
	of, file, _ := strings.Cut(from, "/")
	if s.packages[of] == nil {
		return nil, fmt.Errorf("include %s: no package of that name: %w", from, errdefs.ErrNotFound)
	}
	b, err := fs.ReadFile(s.packages[of], file)
	if err != nil {
		return nil, fmt.Errorf("include %s: %w", from, err)
	}
	return b, nil
}
