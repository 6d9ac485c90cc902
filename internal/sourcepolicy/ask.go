package sourcepolicy

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"

	"github.com/containerd/errdefs"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// Program evaluates policies in Rego, as docker buildx --policy does: a program of its own,
// for what it is made of is larger than strake. It lies beside strake. It takes a Begin and
// then Questions on standard input, one JSON value each, and writes an Answer to each of
// them. It reads the directories that Begin names, and no network.
const Program = "strake-policy"

// Begin says which policies are asked. All of them have to allow a source.
type Begin struct {
	Sets []Set
	Env  Env
}

// Set is a policy: modules that are compiled together.
type Set struct {
	Files []File
	// Root is the directory that `import data.a.b` finds a/b.rego in; "" where there is none.
	Root string `json:",omitempty"`
	// LogLevel is what is told of the evaluation: "info", "debug" and so on; "" is nothing.
	LogLevel string `json:",omitempty"`
}

// File is a module.
type File struct {
	Name string
	Data []byte
}

// Env is input.env of a policy.
type Env struct {
	Args     map[string]string `json:",omitempty"`
	Labels   map[string]string `json:",omitempty"`
	Filename string            // of the Dockerfile
	Target   string            `json:",omitempty"`
}

// Facts are what is only known of a source once somebody looked.
type Facts struct {
	Image *ImageFacts `json:",omitempty"`
	Git   *GitFacts   `json:",omitempty"`
	HTTP  *HTTPFacts  `json:",omitempty"`
}

// ImageFacts are those of an image.
type ImageFacts struct {
	Digest string // of its index or manifest
	Config []byte
}

// GitFacts are those of a repository.
type GitFacts struct {
	Ref    string // such as refs/heads/main
	Object string // the commit, or the tag that names it
	Commit string
}

// HTTPFacts are those of a file.
type HTTPFacts struct{ Digest string }

// Question is asked of one source.
type Question struct {
	Identifier string
	Attrs      map[string]string `json:",omitempty"`
	Platform   *ocispec.Platform `json:",omitempty"`
	Facts      *Facts            `json:",omitempty"` // nil: nobody looked
}

// Answer is what the policies say.
type Answer struct {
	Failure string `json:",omitempty"` // nothing else is there

	Look     bool              `json:",omitempty"` // ask again, with facts
	Allow    bool              `json:",omitempty"`
	Messages []string          `json:",omitempty"` // of who denies
	Convert  string            `json:",omitempty"` // an identifier, to be asked about in turn
	Attrs    map[string]string `json:",omitempty"` // with Convert
	Log      []string          `json:",omitempty"`
}

// Denial is why policies do not allow a source.
type Denial struct {
	Identifier string
	Messages   []string
}

func (d *Denial) Error() string {
	return fmt.Sprintf("source %q not allowed by policy: action DENY", d.Identifier)
}

// Evaluator is the program, started.
type Evaluator struct {
	log    func(string)
	cmd    *exec.Cmd
	stderr bytes.Buffer
	cancel context.CancelFunc

	mu    sync.Mutex // of a question and its answer
	write *json.Encoder
	close func() error
	read  *json.Decoder
}

// Start starts the program, which compiles the policies. log is told of the evaluation, by
// one goroutine at a time. It fails where they do not compile, and with
// errdefs.ErrNotFound where there is no program. The caller closes the evaluator, and the
// program ends with ctx.
func Start(ctx context.Context, begin Begin, log func(string)) (*Evaluator, error) {
	path, err := Find()
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(ctx)
	e := &Evaluator{log: log, cmd: exec.CommandContext(ctx, path), cancel: cancel}
	e.cmd.Stderr = &e.stderr
	in, err := e.cmd.StdinPipe()
	if err == nil {
		e.write, e.close = json.NewEncoder(in), in.Close
		out, outErr := e.cmd.StdoutPipe()
		e.read, err = json.NewDecoder(out), outErr
	}
	if err == nil {
		err = e.cmd.Start()
	}
	if err != nil {
		cancel()
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	if _, err := e.ask(begin); err != nil {
		return nil, errors.Join(err, e.Close())
	}
	return e, nil
}

// Find finds the program beside this one, or in PATH.
func Find() (string, error) {
	if self, err := os.Executable(); err == nil {
		if path, err := exec.LookPath(filepath.Join(filepath.Dir(self), Program)); err == nil {
			return path, nil
		}
	}
	path, err := exec.LookPath(Program)
	if err != nil {
		return "", fmt.Errorf("the program %s, which evaluates policies, is neither beside strake nor in PATH: %w", Program, errdefs.ErrNotFound)
	}
	return path, nil
}

// Close ends the program.
func (e *Evaluator) Close() error {
	err := e.close()
	e.cancel()
	_ = e.cmd.Wait() // it was killed, or it said why it ended
	return err
}

// ask sends a value and takes the answer.
func (e *Evaluator) ask(v any) (a Answer, err error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if err = e.write.Encode(v); err == nil {
		err = e.read.Decode(&a)
	}
	for _, line := range a.Log {
		e.log(line)
	}
	switch {
	case err != nil:
		e.cancel()
		_ = e.cmd.Wait() // what it says on standard error is whole then
		first, _, _ := strings.Cut(e.stderr.String(), "\n")
		return a, fmt.Errorf("%s: %w: %s", Program, err, first)
	case a.Failure != "":
		return a, errors.New(a.Failure)
	}
	return a, nil
}

// maxQuestions bounds how often policies are asked about one source.
const maxQuestions = 10

// Apply makes of a source what the policies make of it. They are asked again about what
// they convert it to, and so are first. It fails with a *Denial. It may be called by several
// goroutines at once.
func (e *Evaluator) Apply(ctx context.Context, src Source, first func(Source) (Source, error)) (Source, error) {
	var facts *Facts
	for range maxQuestions {
		if err := ctx.Err(); err != nil {
			return src, err
		}
		a, err := e.ask(Question{Identifier: src.Identifier, Attrs: src.Attrs, Platform: src.Platform, Facts: facts})
		switch {
		case err != nil:
			return src, err
		case a.Look && (src.Learn == nil || facts != nil):
			return src, fmt.Errorf("the policy asks more of %q than is known", src.Identifier)
		case a.Look:
			learned, err := src.Learn(ctx, src)
			if err != nil {
				return src, fmt.Errorf("error resolving source metadata from policy request: %w", err)
			}
			facts = &learned
		case a.Convert != "":
			src.Identifier, src.Attrs, facts = a.Convert, a.Attrs, nil
			if src, err = first(src); err != nil {
				return src, err
			}
		case !a.Allow:
			return src, &Denial{src.Identifier, a.Messages}
		default:
			return src, nil
		}
	}
	return src, errors.New("too many policy requests")
}
