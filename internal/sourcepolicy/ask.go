package sourcepolicy

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"strings"
	"sync"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// Program evaluates policies in Rego, as docker buildx --policy does: a program of its own,
// for what it is made of is larger than strake. It lies beside strake. It takes a Begin and
// then Questions on standard input, one JSON value each, and writes an Answer to each of
// them. It reads no files and no network: where it needs a file its answer is its name, and
// what it takes next is a FileData.
const Program = "strake-policy"

// Begin says which policies are asked. All of them have to allow a source.
type Begin struct {
	Default bool `json:",omitempty"` // the one that is built into docker buildx, first
	Sets    []Set
	Env     Env
}

// Set is a policy: modules that are compiled together.
type Set struct {
	Files []File
	// LogLevel is what is told of the evaluation: "info", "debug" and so on; "" is nothing.
	LogLevel string `json:",omitempty"`
}

// File is a module.
type File struct {
	Name string
	Data []byte
}

// FileData is a file that the program asked for. One that is missing has no data.
type FileData struct {
	Data    []byte
	Missing bool   `json:",omitempty"`
	Failure string `json:",omitempty"`
}

// Env is input.env of a policy.
type Env struct {
	Args     map[string]string `json:",omitempty"`
	Labels   map[string]string `json:",omitempty"`
	Filename string            // of the Dockerfile
	Target   string            `json:",omitempty"`
}

// Look is what is asked of a source beside what is known of each that somebody looked at.
type Look struct {
	Attested   bool `json:",omitempty"` // ImageFacts.Attested
	Signatures bool `json:",omitempty"` // of what is attested of an image
	Objects    bool `json:",omitempty"` // of a repository
	Sum        *Sum `json:",omitempty"` // of a file
}

// Sum is how a signature sums a file up: with a suffix that is the signature's.
type Sum struct {
	Algorithm digest.Algorithm
	Suffix    []byte
}

// with is what both ask, and whether that is more than l.
func (l Look) with(more Look) (both Look, grown bool) {
	both = Look{l.Attested || more.Attested, l.Signatures || more.Signatures, l.Objects || more.Objects, cmp.Or(more.Sum, l.Sum)}
	return both, !reflect.DeepEqual(both, l)
}

// Facts are what is only known of a source once somebody looked.
type Facts struct {
	Image *ImageFacts `json:",omitempty"`
	Git   *GitFacts   `json:",omitempty"`
	HTTP  *HTTPFacts  `json:",omitempty"`
}

// ImageFacts are those of an image.
type ImageFacts struct {
	Digest   string // of its index or manifest
	Config   []byte
	Attested *Attested `json:",omitempty"` // nil: nobody looked
}

// Attested is what an index says of one of its images.
type Attested struct {
	Manifest   string // digest; "" is none
	Statements []Statement
}

// Statement is an in-toto statement.
type Statement struct {
	Type string // of its predicate
	Data []byte
}

// GitFacts are those of a repository.
type GitFacts struct {
	Ref          string // such as refs/heads/main
	Object       string // the commit, or the tag that names it
	Commit       string
	CommitObject []byte `json:",omitempty"` // as git keeps it; none: nobody looked
	TagObject    []byte `json:",omitempty"` // where Object is a tag
}

// HTTPFacts are those of a file.
type HTTPFacts struct {
	Digest string
	Sum    *Sum   `json:",omitempty"`
	SumIs  string `json:",omitempty"` // with Sum: a digest
}

// Question is asked of one source.
type Question struct {
	Identifier string
	Attrs      map[string]string `json:",omitempty"`
	Platform   *ocispec.Platform `json:",omitempty"`
	Facts      *Facts            `json:",omitempty"` // nil: nobody looked
	// Print asks what policies see of the source, with these of its fields, in place of what
	// they say of it.
	Print  bool     `json:",omitempty"`
	Fields []string `json:",omitempty"`
}

// Answer is what the policies say.
type Answer struct {
	Failure string `json:",omitempty"` // nothing else is there
	Read    string `json:",omitempty"` // a file that is to be sent; the answer follows

	Look     *Look             `json:",omitempty"` // ask again, with facts
	Allow    bool              `json:",omitempty"`
	Messages []string          `json:",omitempty"` // of who denies
	Convert  string            `json:",omitempty"` // an identifier, to be asked about in turn
	Attrs    map[string]string `json:",omitempty"` // with Convert
	Input    json.RawMessage   `json:",omitempty"` // with Question.Print
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

// Files reads a file for the policies, all of it: what they import, keys, data. One that is
// not there is fs.ErrNotExist.
type Files func(name string) ([]byte, error)

// Evaluator is the program, started.
type Evaluator struct {
	files  Files
	log    func(string)
	cmd    *exec.Cmd
	stderr bytes.Buffer
	cancel context.CancelFunc

	mu    sync.Mutex // of a question and its answer
	write *json.Encoder
	close func() error
	read  *json.Decoder
}

// Start starts the program, which compiles the policies. log is told of the evaluation; it
// and files are called by one goroutine at a time, and may not ask the evaluator. It fails
// where the policies do not compile, and with errdefs.ErrNotFound where there is no program.
// The caller closes the evaluator, and the program ends with ctx.
func Start(ctx context.Context, begin Begin, files Files, log func(string)) (*Evaluator, error) {
	path, err := Find()
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(ctx)
	e := &Evaluator{files: files, log: log, cmd: exec.CommandContext(ctx, path), cancel: cancel}
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
	if errors.Is(err, os.ErrClosed) {
		err = nil // it ended before, which was told
	}
	e.cancel()
	_ = e.cmd.Wait() // it was killed, or it said why it ended
	return err
}

// ask sends a value and takes the answer.
func (e *Evaluator) ask(v any) (a Answer, err error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	for {
		a = Answer{}
		if err = e.write.Encode(v); err == nil {
			err = e.read.Decode(&a)
		}
		if err != nil || a.Read == "" {
			break
		}
		v = e.file(a.Read)
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

func (e *Evaluator) file(name string) FileData {
	data, err := e.files(name)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return FileData{Missing: true}
	case err != nil:
		return FileData{Failure: err.Error()}
	}
	return FileData{Data: data}
}

// maxQuestions bounds how often policies are asked about one source.
const maxQuestions = 10

// Apply makes of a source what the policies make of it. They are asked again about what
// they convert it to, and so are first. It fails with a *Denial. It may be called by several
// goroutines at once.
func (e *Evaluator) Apply(ctx context.Context, src Source, first func(Source) (Source, error)) (Source, error) {
	for range maxQuestions {
		a, err := e.inquire(ctx, src, Question{})
		switch {
		case err != nil:
			return src, err
		case a.Convert != "":
			src.Identifier, src.Attrs = a.Convert, a.Attrs
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

// Input is what policies see of a source, as JSON, with fields that somebody has to look
// for, such as image.labels.
func (e *Evaluator) Input(ctx context.Context, src Source, fields []string) (json.RawMessage, error) {
	a, err := e.inquire(ctx, src, Question{Print: true, Fields: fields})
	return a.Input, err
}

// inquire asks about a source, with all that is asked of it in turn.
func (e *Evaluator) inquire(ctx context.Context, src Source, q Question) (a Answer, err error) {
	q.Identifier, q.Attrs, q.Platform = src.Identifier, src.Attrs, src.Platform
	var look Look
	for range maxQuestions {
		if err := ctx.Err(); err != nil {
			return a, err
		}
		a, err = e.ask(q)
		if err != nil && ctx.Err() != nil {
			err = context.Cause(ctx) // which ended the program
		}
		if err != nil || a.Look == nil {
			return a, err
		}
		more, grown := look.with(*a.Look)
		if src.Learn == nil || q.Facts != nil && !grown {
			return a, fmt.Errorf("the policy asks more of %q than is known", src.Identifier)
		}
		look = more
		learned, err := src.Learn(ctx, src, look)
		if err != nil {
			return a, fmt.Errorf("error resolving source metadata from policy request: %w", err)
		}
		q.Facts = &learned
	}
	return a, errors.New("too many policy requests")
}
