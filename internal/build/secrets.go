package build

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strings"

	"strake/internal/executor"
)

// minSecret is the length from which a secret can be told from other text, in bytes: a shorter one would hide half a log.
const minSecret = 4

// minLine is that of one line of several, and of what is looked for in layers.
const minLine = 8

// maxLines bounds the lines that are looked for of one secret, as each is in every write; one that has more is hidden as a whole.
const maxLines = 64

// logged runs a command whose output goes to log, with secrets hidden.
func logged(ctx context.Context, e executor.Executor, spec executor.Spec, log io.Writer, secrets [][]byte) (code int, err error) {
	// Each stream has its mask: both are written at once, and what is held of one does not go on in the other.
	texts := masked(secrets)
	stdout, stderr := &mask{w: log, texts: texts}, &mask{w: log, texts: texts}
	spec.Stdout, spec.Stderr = stdout, stderr
	code, err = e.Run(ctx, spec)
	return code, errors.Join(err, stdout.Flush(), stderr.Flush())
}

// masked are the texts to hide of secrets: their lines, for a log is shown by lines.
func masked(secrets [][]byte) [][]byte {
	var out [][]byte
	for _, s := range secrets {
		s = bytes.TrimSpace(s)
		if bytes.Count(s, []byte("\n")) >= maxLines {
			out = append(out, s)
			continue
		}
		least := minSecret
		if bytes.ContainsRune(s, '\n') {
			least = minLine
		}
		for line := range bytes.Lines(s) {
			if line = bytes.TrimSpace(line); len(line) >= least {
				out = append(out, line)
			}
		}
	}
	return out
}

// mask is a writer that writes **** where a secret was written. What may be the beginning of one waits for the next write, or for
// Flush.
type mask struct {
	w     io.Writer
	texts [][]byte
	held  []byte
}

// Write is io.Writer's.
func (m *mask) Write(b []byte) (int, error) {
	if err := m.write(append(m.held, b...), false); err != nil {
		return 0, err
	}
	return len(b), nil
}

// Flush writes what was held back.
func (m *mask) Flush() error { return m.write(m.held, true) }

// write writes b; nothing comes after the last one.
func (m *mask) write(b []byte, last bool) error {
	var out []byte
	for {
		at, length := m.find(b)
		if at < 0 || !last && m.begun(b[at:]) == len(b)-at {
			break // none, or it may become a longer one
		}
		out = append(append(out, b[:at]...), "****"...)
		b = b[at+length:]
	}
	keep := 0
	if !last {
		keep = m.begun(b)
	}
	out = append(out, b[:len(b)-keep]...)
	m.held = bytes.Clone(b[len(b)-keep:])
	if len(out) == 0 {
		return nil
	}
	_, err := m.w.Write(out)
	return err
}

// find finds the first of the texts in b, the longest at its place.
func (m *mask) find(b []byte) (at, length int) {
	at = -1
	for _, t := range m.texts {
		if i := bytes.Index(b, t); i >= 0 && (at < 0 || i < at || i == at && len(t) > length) {
			at, length = i, len(t)
		}
	}
	return at, length
}

// begun is how many bytes at the end of b may be the beginning of a text.
func (m *mask) begun(b []byte) int {
	longest := 0
	for _, t := range m.texts {
		for n := min(len(t)-1, len(b)); n > longest; n-- {
			if bytes.HasSuffix(b, t[:n]) {
				longest = n
			}
		}
	}
	return longest
}

// finder is a writer that looks for texts in what it passes on.
type finder struct {
	w     io.Writer
	texts [][]byte
	tail  []byte // the last bytes, shorter than the longest text
	found bool
}

// Write is io.Writer's.
func (f *finder) Write(b []byte) (int, error) {
	if !f.found && len(f.texts) > 0 {
		f.look(b)
	}
	return f.w.Write(b)
}

func (f *finder) look(b []byte) {
	longest := 0
	seen := append(f.tail, b...)
	for _, t := range f.texts {
		longest = max(longest, len(t))
		f.found = f.found || bytes.Contains(seen, t)
	}
	f.tail = bytes.Clone(seen[max(0, len(seen)-longest+1):])
}

// whole are the secrets that are long enough to be found by.
func whole(secrets [][]byte) (out [][]byte) {
	for _, s := range secrets {
		if s = bytes.TrimSpace(s); len(s) >= minLine {
			out = append(out, s)
		}
	}
	return out
}

// leaked says which files below dir hold one of the texts.
func leaked(dir string, texts [][]byte) (err error) {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, root.Close()) }()
	var names []string
	err = fs.WalkDir(root.FS(), ".", func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		f, err := root.Open(path)
		if err != nil {
			return err
		}
		look := &finder{w: io.Discard, texts: texts}
		_, err = io.Copy(look, f)
		if look.found {
			names = append(names, "/"+path)
		}
		return errors.Join(err, f.Close())
	})
	if err != nil {
		return err
	}
	const most = 3
	if len(names) > most {
		names = append(names[:most], fmt.Sprintf("%d more", len(names)-most))
	}
	return &SecretError{Files: names}
}

// SecretError tells that a layer holds the value of a secret.
type SecretError struct {
	Files []string `json:"files,omitempty"`
}

func (e *SecretError) Error() string {
	where := "a name or an attribute"
	if len(e.Files) > 0 {
		where = strings.Join(e.Files, ", ")
	}
	return "the value of a secret is in the image: the step left it in " + where
}

// secretFound warns of a secret that was found, or fails where builds are strict. The step's record keeps it.
func (w *Work) secretFound(err error) error {
	found := (*SecretError)(nil)
	if !errors.As(err, &found) || w.solver.opts.Strict {
		return err
	}
	w.leak = found
	if p, ok := w.Log.(*Reporter); ok {
		p.Warn("%v\n", found)
	}
	return nil
}
