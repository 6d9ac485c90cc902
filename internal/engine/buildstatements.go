package engine

import (
	"bytes"
	"context"
	"errors"
	"io/fs"
	"path"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"

	"strake/internal/archive"
	"strake/internal/attest"
	"strake/internal/build"
)

// A statementFile is what is said of files, to lie beside them.
type statementFile struct {
	name string
	data []byte
}

// files are what is said of the files of a result, where the user asked for it. Where the platforms are not apart, the names tell them.
func (x statements) files(ctx context.Context, b build.Built, part resultPart, prefix string, together bool) (list []statementFile, err error) {
	predicates, err := x.predicates(ctx, b, false)
	if err != nil || len(predicates) == 0 {
		return nil, err
	}
	subjects, err := fileSubjects(ctx, part)
	if err != nil {
		return nil, err
	}
	taken := map[string]bool{}
	for _, p := range predicates {
		f := statementFile{name: prefix + p.File}
		if x.multi && together {
			ext := path.Ext(f.name)
			f.name = strings.TrimSuffix(f.name, ext) + "." + part.dir() + ext
		}
		if taken[f.name] || !fs.ValidPath(f.name) || strings.Contains(f.name, "/") {
			return nil, invalid("the attestation %q has no name of its own: give another attestation-prefix or filename", f.name)
		}
		taken[f.name] = true
		if f.data, err = p.Indented(subjects); err != nil {
			return nil, err
		}
		list = append(list, f)
	}
	return list, nil
}

// fileSubjects are all regular files of a result, by their paths in it.
func fileSubjects(ctx context.Context, part resultPart) (list []attest.Subject, err error) {
	list = []attest.Subject{}
	if len(part.layers) == 0 {
		return list, nil
	}
	err = fs.WalkDir(part.files, ".", func(name string, d fs.DirEntry, err error) error {
		if err = errors.Join(err, context.Cause(ctx)); err != nil || !d.Type().IsRegular() {
			return err
		}
		f, err := part.files.Open(name)
		if err != nil {
			return err
		}
		defer closing(&err, f.Close)
		content, err := digest.FromReader(f)
		list = append(list, attest.FileSubject(name, content))
		return err
	})
	return list, err
}

// addStatements writes files below a directory of the tar. They come last, so that they take the place of the result's own.
func (t *resultTree) addStatements(dir string, list []statementFile) error {
	for _, f := range list {
		e := &archive.Entry{Name: path.Join(dir, f.name), Mode: archive.TypeRegular | 0o600, Size: int64(len(f.data)), ModTime: time.Now()}
		if t.at != nil {
			e.ModTime = *t.at
		}
		if err := t.tar.Write(e, bytes.NewReader(f.data)); err != nil {
			return err
		}
	}
	return nil
}
