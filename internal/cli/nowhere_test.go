package cli

import (
	"bytes"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"

	"github.com/rogpeppe/go-internal/testscript"
)

// nowhere fails where a text is in a file, or in any file below a directory: nowhere TEXT PATH...
func nowhere(ts *testscript.TestScript, _ bool, args []string) {
	files := 0
	for _, path := range args[1:] {
		err := filepath.WalkDir(ts.MkAbs(path), func(path string, d fs.DirEntry, err error) error {
			if errors.Is(err, fs.ErrPermission) && os.Geteuid() != 0 {
				return fs.SkipDir // overlayfs's own, which is empty
			}
			if err != nil || !d.Type().IsRegular() {
				return err
			}
			files++
			b, err := os.ReadFile(path)
			if bytes.Contains(b, []byte(args[0])) {
				ts.Fatalf("%q is in %s", args[0], path)
			}
			return err
		})
		ts.Check(err)
	}
	if files < len(args)-1 {
		ts.Fatalf("%d files were looked at", files)
	}
}

// fill makes a file of some bytes: fill FILE BYTES.
func fill(ts *testscript.TestScript, _ bool, args []string) {
	size, err := strconv.Atoi(args[1])
	ts.Check(err)
	ts.Check(os.WriteFile(ts.MkAbs(args[0]), bytes.Repeat([]byte{'x'}, size), 0o600))
}
