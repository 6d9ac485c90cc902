// Package bake asks the program strake-bake what bake files say.
//
// A bake file (HCL, its JSON, or a compose file) defines targets, each of which is a
// build, and groups of them. What reads it, package bakefile, costs every start of a
// program several milliseconds, so it is a program of its own, which lies beside strake:
// it takes a Request on standard input and writes an Answer. It reads neither the network
// nor any file but .env and what compose files name.
package bake

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/containerd/errdefs"
)

// Program is the name of the program that reads bake files.
const Program = "strake-bake"

// File is a bake file.
type File struct {
	Name string // as it was given; - is standard input
	Data []byte
}

// Request is what is to be read, and what is asked of it.
type Request struct {
	Files        []File
	FileRelative bool              // paths are relative to the file, not to the working directory
	Vars         map[string]string // before those of the environment
	Builtin      map[string]string // that no file changes
	Origin       string            // the repository or archive that the paths are in; "": this machine
	Foreign      bool              // files are another's: those of compose read no further files here

	List    bool     // no target is resolved
	Targets []string // names or patterns of targets and groups
	Set     []string // as PATTERN.KEY=VALUE
}

// Answer is what the files say.
type Answer struct {
	Failure *Failure `json:",omitempty"` // nothing else is there

	Listed    []Listed   `json:",omitempty"` // of a list
	Variables []Variable `json:",omitempty"`

	Print   []byte            `json:",omitempty"` // as --print shows it, to the byte
	Groups  json.RawMessage   `json:",omitempty"` // as in Print
	Targets map[string]Target `json:",omitempty"`
	Granted Granted           // what the request itself asks for
}

// Failure is why the files cannot be read, and where.
type Failure struct {
	Text        string
	File        string `json:",omitempty"` // "": nowhere
	First, Last int    `json:",omitempty"` // lines
	Source      []byte `json:",omitempty"`
}

func (f *Failure) Error() string { return f.Text }

// Listed is a target or a group.
type Listed struct {
	Name        string `json:"name"`
	Description string `json:"description,omitempty"`
	Group       bool   `json:"group,omitempty"`
}

// Variable is a variable and its value; nil is null.
type Variable struct {
	Name        string  `json:"name"`
	Description string  `json:"description,omitempty"`
	Type        string  `json:"type,omitempty"`
	Value       *string `json:"value,omitempty"`
}

// Granted is what a user who names it with --set allows.
type Granted struct {
	Read, Write       []string // paths
	Network, Insecure bool
}

// Target is a build. Its lists are written as the values of build's flags.
type Target struct {
	Description string
	Linked      bool // it is only a context of others

	Origin     string // as in the request
	Context    string // a directory, an address, or a directory of Origin: OriginScheme and its path
	Dockerfile string // likewise; a relative one is in the context or below the working directory
	Inline     string // the Dockerfile itself
	Contexts   map[string]string
	Remote     []string // those of the above that are addresses, not paths

	Reads, Writes []string // further paths, of this machine
	Agent         bool     // the SSH agent is lent
	Deletes       bool     // an output removes files

	Args, Labels map[string]string
	Tags         []string
	Stage        string
	Platforms    []string
	Outputs      []string
	CacheFrom    []string
	CacheTo      []string
	Attest       []string
	Annotations  []string

	Pull, NoCache bool
	NoCacheFilter []string

	Network, ShmSize string
	Secrets, SSH     []string
	Ulimits          []string
	ExtraHosts       []string
	Entitlements     []string
	Resources        []string

	Call string

	Policies []string

	Define json.RawMessage // as in Answer.Print
}

// Here begins a path that is of the working directory, wherever the files are from.
const Here = "cwd://"

// OriginScheme begins a context that is a directory of Target.Origin: origin:DIR.
const OriginScheme = "origin:"

// DefaultFiles are looked for where no file is named, and all that are there are read.
var DefaultFiles = []string{
	"compose.yaml", "compose.yml", "docker-compose.yml", "docker-compose.yaml",
	"docker-bake.json", "docker-bake.hcl", "docker-bake.override.json", "docker-bake.override.hcl",
}

// MaxFile bounds a bake file, in bytes.
const MaxFile = 16 << 20

// ReadFiles reads the files of these names, or those of DefaultFiles that are there. The
// name - is standard input.
func ReadFiles(names []string, stdin io.Reader) (files []File, err error) {
	implied := len(names) == 0
	if implied {
		names = DefaultFiles
	}
	for _, name := range names {
		f := File{Name: name}
		if name == "-" {
			f.Data, err = readAll(stdin, name)
		} else {
			f.Data, err = readFile(name)
		}
		if implied && errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, err
		}
		files = append(files, f)
	}
	return files, nil
}

func readFile(name string) (b []byte, err error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	return readAll(f, name)
}

func readAll(r io.Reader, name string) ([]byte, error) {
	b, err := io.ReadAll(io.LimitReader(r, MaxFile+1))
	if err == nil && len(b) > MaxFile {
		err = fmt.Errorf("%s is larger than %d bytes", name, MaxFile)
	}
	return b, err
}

// Ask runs the program. It fails with a *Failure for what is wrong with the files or the
// request, and with errdefs.ErrNotFound where there is no program.
func Ask(ctx context.Context, req Request) (Answer, error) {
	path, err := find()
	if err != nil {
		return Answer{}, err
	}
	in, err := json.Marshal(req)
	if err != nil {
		return Answer{}, err
	}
	var stderr bytes.Buffer
	cmd := exec.CommandContext(ctx, path)
	cmd.Stdin, cmd.Stderr = bytes.NewReader(in), &stderr
	out, err := cmd.Output()
	if err != nil {
		first, _, _ := strings.Cut(stderr.String(), "\n")
		return Answer{}, fmt.Errorf("%s: %w: %s", path, err, first)
	}
	var a Answer
	if err := json.Unmarshal(out, &a); err != nil {
		return Answer{}, fmt.Errorf("%s: %w", path, err)
	}
	if a.Failure != nil {
		return Answer{}, a.Failure
	}
	return a, nil
}

// find finds the program beside this one, or in PATH.
func find() (string, error) {
	if self, err := os.Executable(); err == nil {
		beside := filepath.Join(filepath.Dir(self), Program)
		if path, err := exec.LookPath(beside); err == nil {
			return path, nil
		}
	}
	path, err := exec.LookPath(Program)
	if err != nil {
		return "", fmt.Errorf("the program %s, which reads bake files, is neither beside strake nor in PATH: %w", Program, errdefs.ErrNotFound)
	}
	return path, nil
}
