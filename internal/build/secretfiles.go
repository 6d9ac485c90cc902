package build

import (
	"errors"
	"fmt"
	"io"
	"strings"

	"strake/internal/secret"
)

// maxLook is how much of a file is looked at for secrets, in bytes.
const maxLook = 64 << 10

// maxTold bounds the files that one step tells of.
const maxTold = 5

// SecretFileError tells that files with secrets are copied into the image.
type SecretFileError struct{ Files []string }

func (e *SecretFileError) Error() string {
	return "secrets are copied into the image: " + strings.Join(e.Files, ", ") +
		": leave them out by .dockerignore, and give them to RUN by --mount=type=secret"
}

// secretsCopied tells of files of the context that hold secrets; it fails where builds are strict.
func (w *Work) secretsCopied(o *opened) error {
	found := &SecretFileError{}
	more := 0
	for _, m := range o.matches {
		resolved, err := follow(o.tree.lstat, m)
		if err != nil {
			return err
		}
		err = o.tree.walk(resolved, func(n node) error {
			what, err := secretIn(o.tree, n)
			switch {
			case err != nil || what == "":
			case len(found.Files) == maxTold:
				more++
			default:
				found.Files = append(found.Files, fmt.Sprintf("%s (%s)", n.path, what))
			}
			return err
		})
		if err != nil {
			return err
		}
	}
	if more > 0 {
		found.Files = append(found.Files, fmt.Sprintf("%d more", more))
	}
	switch {
	case len(found.Files) == 0:
		return nil
	case w.solver.opts.Strict:
		return found
	}
	if p, ok := w.Log.(*Reporter); ok {
		p.Warn("%v\n", found)
	}
	return nil
}

// secretIn says what secret a file holds; "" is none that is known.
func secretIn(t tree, n node) (string, error) {
	if !n.mode.IsRegular() || n.size == 0 {
		return "", nil
	}
	kinds := secret.Named(n.path)
	if len(kinds) == 0 {
		return "", nil
	}
	b, err := beginning(t, n)
	for _, k := range kinds {
		if err == nil && k.Holds(b) {
			return k.What, nil
		}
	}
	return "", err
}

// beginning reads as much of a file as is looked at.
func beginning(t tree, n node) (b []byte, err error) {
	f, err := t.open(n.path)
	if err != nil {
		return nil, fmt.Errorf("read %q: %w", n.path, err)
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	return io.ReadAll(io.LimitReader(f, maxLook))
}
