// Command strake-policy evaluates policies in Rego for strake: see package sourcepolicy.
//
// It is a module of its own: Docker's implementation, which it uses, requires a hundred
// modules that nothing else here needs.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"testing/fstest"

	"strake/internal/sourcepolicy"
)

func main() {
	err := errors.New("it is started by strake")
	switch {
	case len(os.Args) == 1:
		err = serve(context.Background(), os.Stdin, os.Stdout)
	case len(os.Args) == 5 && os.Args[1] == "test":
		err = test(context.Background(), os.Stdout, os.Args[2], os.Args[3], os.Args[4])
	}
	if err != nil {
		if !errors.Is(err, errFailed) {
			fmt.Fprintln(os.Stderr, "ERROR:", err)
		}
		os.Exit(1)
	}
}

// serve answers until there are no more questions.
func serve(ctx context.Context, in io.Reader, out io.Writer) error {
	read, write := json.NewDecoder(in), json.NewEncoder(out)
	var begin sourcepolicy.Begin
	if err := read.Decode(&begin); err != nil {
		return err
	}
	s := newServer(begin, &asker{read: read, write: write, had: map[string]sourcepolicy.FileData{}})
	a, err := sourcepolicy.Answer{}, s.check(ctx)
	for {
		if err != nil {
			a = sourcepolicy.Answer{Failure: err.Error()}
		}
		a.Log, s.log = s.log, nil
		if err := write.Encode(a); err != nil {
			return err
		}
		var q sourcepolicy.Question
		if err := read.Decode(&q); errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return err
		}
		a, err = s.answer(ctx, q)
	}
}

// asker is the files that policies read: strake is asked for each of them, once.
type asker struct {
	read  *json.Decoder
	write *json.Encoder
	had   map[string]sourcepolicy.FileData
}

// Open is fs.FS's.
func (a *asker) Open(name string) (fs.File, error) {
	f, err := a.file(name)
	if err != nil {
		return nil, &fs.PathError{Op: "open", Path: name, Err: err}
	}
	return fstest.MapFS{"file": {Data: f.Data}}.Open("file")
}

// Stat is fs.StatFS's.
func (a *asker) Stat(name string) (info fs.FileInfo, err error) {
	f, err := a.Open(name)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	return f.Stat()
}

func (a *asker) file(name string) (f sourcepolicy.FileData, err error) {
	f, ok := a.had[name]
	if !ok {
		if err := a.write.Encode(sourcepolicy.Answer{Read: name}); err != nil {
			return f, err
		}
		if err := a.read.Decode(&f); err != nil {
			return f, err
		}
		a.had[name] = f
	}
	switch {
	case f.Missing:
		return f, fs.ErrNotExist
	case f.Failure != "":
		return f, errors.New(f.Failure)
	}
	return f, nil
}
