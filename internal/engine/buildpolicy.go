package engine

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"

	"strake/internal/build"
	"strake/internal/sourcepolicy"
)

// BuildPolicy is a policy in Rego over what a build reads, or says how those are asked that
// were named before it.
type BuildPolicy struct {
	Files    []string // in the context; cwd://NAME in the working directory
	Reset    bool     // those before it are not asked, the Dockerfile's neither
	Disabled bool     // none is asked; nothing else is given
	Strict   *bool    // a policy that cannot be asked fails the build; here it always does
	LogLevel string   // what is told of the evaluation; "" is nothing
}

// PolicyDenial is why a policy does not allow a source.
type PolicyDenial = sourcepolicy.Denial

// PolicyMessages are what a policy says of why it denies a source; none where err is of
// something else.
func PolicyMessages(err error) []string {
	var denial *sourcepolicy.Denial
	if errors.As(err, &denial) {
		return denial.Messages
	}
	return nil
}

// policing asks the policies of a build.
type policing struct {
	rules *sourcepolicy.Rules
	begin sourcepolicy.Begin
	files sourcepolicy.Files      // of the context
	eval  *sourcepolicy.Evaluator // nil: there are no policies in Rego, or it was not started

	// The policies of a context that is elsewhere are known once it is here: they are asked
	// then about what was read until then.
	waits  bool
	mu     sync.Mutex
	before []sourcepolicy.Source
}

// newPolicing reads the policies of a build; nil where there are none.
func newPolicing(opts BuildOptions) (p *policing, err error) {
	p = &policing{}
	if opts.SourcePolicy != "" {
		data, err := os.ReadFile(opts.SourcePolicy)
		if err != nil {
			return nil, fmt.Errorf("failed to read policy file: %w", err)
		}
		if p.rules, err = sourcepolicy.Parse(data); err != nil {
			return nil, fmt.Errorf("%s: %w", opts.SourcePolicy, err)
		}
	}
	disabled, err := policiesDisabled(opts.Policies)
	if err != nil {
		return nil, err
	}
	if !disabled {
		p.begin.Default = opts.DefaultPolicy
		if info, statErr := os.Stat(opts.Context); statErr == nil && info.IsDir() {
			p.files = localFiles(opts.Context)
			p.begin.Sets, err = p.sets(&opts)
		} else {
			p.waits = true
		}
	}
	if err != nil || p.rules == nil && !p.waits && !p.asks() {
		return nil, err
	}
	p.begin.Env = sourcepolicy.Env{Args: opts.BuildArgs, Labels: opts.Labels, Filename: "Dockerfile", Target: opts.Target}
	if base := filepath.Base(filepath.Clean(opts.Dockerfile)); base != "." && base != "/" {
		p.begin.Env.Filename = base
	}
	return p, nil
}

// policiesDisabled reports whether none is asked.
func policiesDisabled(list []BuildPolicy) (bool, error) {
	for _, c := range list {
		if c.Disabled && (c.Reset || c.Strict != nil || c.LogLevel != "" || len(c.Files) > 0 || len(list) > 1) {
			return false, invalid("disabled policy cannot be combined with other policy flags")
		}
	}
	return len(list) == 1 && list[0].Disabled, nil
}

// asks reports whether there are policies in Rego.
func (p *policing) asks() bool { return p.begin.Default || len(p.begin.Sets) > 0 }

// policy is what steps ask; nil where there are no policies.
func (p *policing) policy() build.Policy {
	if p == nil {
		return nil
	}
	return p.admit
}

// start starts what evaluates Rego, unless its policies are not here yet.
func (p *policing) start(ctx context.Context, solver *build.Solver) error {
	if p == nil || p.waits || !p.asks() {
		return nil
	}
	return p.load(ctx, solver)
}

// load starts what evaluates Rego, shown as a step.
func (p *policing) load(ctx context.Context, solver *build.Solver) (err error) {
	var names []string
	if p.begin.Default {
		names = append(names, "buildx_default_policy.rego")
	}
	for _, set := range p.begin.Sets {
		for _, f := range set.Files {
			names = append(names, f.Name)
		}
	}
	title := "loading policies " + strings.Join(names, ", ")
	tell := func(line string) {
		step := solver.Begin(title)
		_, logErr := io.WriteString(step, line+"\n")
		_ = step.End(ctx, logErr) // a display that fails says so at its end
	}
	step := solver.Begin(title)
	p.eval, err = sourcepolicy.Start(ctx, p.begin, p.files, tell)
	return step.End(ctx, err)
}

// arrived reads the policies of a context that was elsewhere, and asks them about what was
// read before.
func (p *policing) arrived(ctx context.Context, solver *build.Solver, opts *BuildOptions, files sourcepolicy.Files) (err error) {
	if p == nil || !p.waits {
		return nil
	}
	p.files = files
	if p.begin.Sets, err = p.sets(opts); err != nil {
		return err
	}
	if p.asks() {
		if err := p.load(ctx, solver); err != nil {
			return err
		}
	}
	p.mu.Lock()
	p.waits = false
	before := p.before
	p.mu.Unlock()
	if p.eval == nil {
		return nil
	}
	for _, src := range before {
		got, err := p.eval.Apply(ctx, src, p.apply)
		if err == nil && got.Identifier != src.Identifier {
			err = fmt.Errorf("source %q was read before it was to be converted to %q", src.Identifier, got.Identifier)
		}
		if err != nil {
			return &build.PolicyError{Err: err}
		}
	}
	return nil
}

func (p *policing) close() error {
	if p == nil || p.eval == nil {
		return nil
	}
	return p.eval.Close()
}

// admit is a build.Policy: the rules first, then the policies in Rego.
func (p *policing) admit(ctx context.Context, src sourcepolicy.Source) (sourcepolicy.Source, error) {
	src, err := p.apply(src)
	if err != nil {
		return src, err
	}
	p.mu.Lock()
	if p.waits {
		p.before = append(p.before, src)
	}
	ask := !p.waits && p.asks()
	p.mu.Unlock()
	switch {
	case !ask:
		return src, nil
	case p.eval == nil:
		return src, errors.New("the policies were not loaded")
	}
	return p.eval.Apply(ctx, src, p.apply)
}

func (p *policing) apply(src sourcepolicy.Source) (sourcepolicy.Source, error) {
	if p.rules == nil {
		return src, nil
	}
	return p.rules.Apply(src)
}

// sets reads the modules that are asked, in buildx's order: that of the Dockerfile, then
// those that were named. What is said without a file is for the one before.
func (p *policing) sets(opts *BuildOptions) ([]sourcepolicy.Set, error) {
	sets, err := p.besideDockerfile(opts)
	if err != nil {
		return nil, err
	}
	level := "" // of the next, where there is none yet
	for _, c := range opts.Policies {
		if c.Reset {
			sets = nil
		}
		switch {
		case len(c.Files) > 0:
			set := sourcepolicy.Set{LogLevel: level}
			for _, name := range c.Files {
				data, err := p.files(name)
				if errors.Is(err, fs.ErrNotExist) {
					err = invalid("policy file %s not found", name)
				}
				if err != nil {
					return nil, err
				}
				set.Files = append(set.Files, sourcepolicy.File{Name: name, Data: data})
			}
			sets = append(sets, set)
		case len(sets) == 0:
			level = c.LogLevel
		}
		if c.LogLevel != "" && len(sets) > 0 {
			sets[len(sets)-1].LogLevel = c.LogLevel
		}
	}
	return sets, nil
}

// besideDockerfile reads <Dockerfile>.rego, where the Dockerfile is a file, here or in the
// context.
func (p *policing) besideDockerfile(opts *BuildOptions) ([]sourcepolicy.Set, error) {
	name, read := opts.Dockerfile, readModuleFile
	info, err := os.Stat(opts.Context)
	here := err == nil && info.IsDir()
	switch {
	case opts.Source != nil || name == "-" || isHTTP(name):
		return nil, nil
	case here && name == "":
		name = filepath.Join(opts.Context, "Dockerfile")
	case !here && !filepath.IsAbs(name):
		name, read = cmp.Or(name, "Dockerfile"), p.files
	}
	if _, err := read(name); errors.Is(err, fs.ErrNotExist) && filepath.Base(name) == "Dockerfile" {
		name = filepath.Join(filepath.Dir(name), "dockerfile") // as it is read
	}
	data, err := read(name + policySuffix)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("failed to read policy file: %w", err)
	}
	return []sourcepolicy.Set{{Files: []sourcepolicy.File{{Name: name + policySuffix, Data: data}}}}, nil
}

// policySuffix ends the name of the policy that lies beside a Dockerfile.
const policySuffix = ".rego"

// cwdScheme begins the name of a file of the working directory.
const cwdScheme = "cwd://"

// localFiles reads files of a directory, or with cwd:// of the working directory; "" is no
// directory.
func localFiles(dir string) sourcepolicy.Files {
	return func(name string) (data []byte, err error) {
		at := dir
		if local, here := strings.CutPrefix(name, cwdScheme); here {
			name, at = local, "."
		}
		if at == "" {
			return nil, &fs.PathError{Op: "open", Path: name, Err: fs.ErrNotExist}
		}
		if filepath.IsAbs(name) {
			abs, err := filepath.Abs(at)
			if err != nil {
				return nil, err
			}
			if name, err = filepath.Rel(abs, name); err != nil {
				return nil, err
			}
		}
		root, err := os.OpenRoot(at)
		if err != nil {
			return nil, err
		}
		defer closing(&err, root.Close)
		f, err := root.Open(filepath.Clean(name))
		if err != nil {
			return nil, err
		}
		defer closing(&err, f.Close)
		return readModule(f)
	}
}

// maxModule bounds what is read of a file for policies, in bytes.
const maxModule = 16 << 20

func readModuleFile(name string) (data []byte, err error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer closing(&err, f.Close)
	return readModule(f)
}

// readModule reads a file for policies, all of it or none.
func readModule(r io.Reader) ([]byte, error) {
	data, err := io.ReadAll(io.LimitReader(r, maxModule+1))
	if err == nil && len(data) > maxModule {
		err = invalid("a policy of more than %d bytes", maxModule)
	}
	return data, err
}
