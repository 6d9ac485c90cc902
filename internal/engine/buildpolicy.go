package engine

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

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
	eval  *sourcepolicy.Evaluator // nil: there are no sets, or it was not started
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
	if p.begin.Sets, err = policySets(opts); err != nil {
		return nil, err
	}
	if p.rules == nil && len(p.begin.Sets) == 0 {
		return nil, nil
	}
	p.begin.Env = sourcepolicy.Env{Args: opts.BuildArgs, Labels: opts.Labels, Filename: "Dockerfile", Target: opts.Target}
	if base := filepath.Base(filepath.Clean(opts.Dockerfile)); base != "." && base != "/" {
		p.begin.Env.Filename = base
	}
	return p, nil
}

// policy is what steps ask; nil where there are no policies.
func (p *policing) policy() build.Policy {
	if p == nil {
		return nil
	}
	return p.admit
}

// start starts what evaluates Rego, shown as a step.
func (p *policing) start(ctx context.Context, solver *build.Solver) (err error) {
	if p == nil || len(p.begin.Sets) == 0 {
		return nil
	}
	var names []string
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
	p.eval, err = sourcepolicy.Start(ctx, p.begin, tell)
	return step.End(ctx, err)
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
	if err != nil || len(p.begin.Sets) == 0 {
		return src, err
	}
	if p.eval == nil {
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

// policySets reads the modules that are asked, in buildx's order: that of the Dockerfile,
// then those that were named. What is said without a file is for the one before.
func policySets(opts BuildOptions) ([]sourcepolicy.Set, error) {
	for _, c := range opts.Policies {
		if !c.Disabled {
			continue
		}
		if c.Reset || c.Strict != nil || c.LogLevel != "" || len(c.Files) > 0 || len(opts.Policies) > 1 {
			return nil, invalid("disabled policy cannot be combined with other policy flags")
		}
		return nil, nil
	}
	root := ""
	if info, err := os.Stat(opts.Context); err == nil && info.IsDir() {
		root = opts.Context
	}
	sets, err := besideDockerfile(opts, root)
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
			set := sourcepolicy.Set{Root: root, LogLevel: level}
			for _, name := range c.Files {
				f, err := readPolicy(name, root)
				if err != nil {
					return nil, err
				}
				set.Files = append(set.Files, f)
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

// besideDockerfile reads <Dockerfile>.rego, where the Dockerfile is a file here.
func besideDockerfile(opts BuildOptions, root string) ([]sourcepolicy.Set, error) {
	name := localFile(opts.Dockerfile)
	if opts.Source != nil || opts.Dockerfile != "" && name == "" || root == "" && !filepath.IsAbs(name) {
		return nil, nil
	}
	if name == "" {
		name = filepath.Join(root, "Dockerfile")
	}
	if _, err := os.Stat(name); errors.Is(err, fs.ErrNotExist) && filepath.Base(name) == "Dockerfile" {
		name = filepath.Join(filepath.Dir(name), "dockerfile") // as it is read
	}
	f, err := os.Open(name + policySuffix)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	var data []byte
	if err == nil {
		data, err = readModule(f)
		err = errors.Join(err, f.Close())
	}
	if err != nil {
		return nil, fmt.Errorf("failed to read policy file: %w", err)
	}
	return []sourcepolicy.Set{{Files: []sourcepolicy.File{{Name: name + policySuffix, Data: data}}, Root: root}}, nil
}

// policySuffix ends the name of the policy that lies beside a Dockerfile.
const policySuffix = ".rego"

// readPolicy reads a module from below the context, or the working directory.
func readPolicy(name, root string) (f sourcepolicy.File, err error) {
	local, here := strings.CutPrefix(name, "cwd://")
	switch {
	case here:
		root = "."
	case root == "":
		return f, invalid("policy file %s: the context is no directory here: give cwd://FILE", name)
	case filepath.IsAbs(name):
		abs, err := filepath.Abs(root)
		if err != nil {
			return f, err
		}
		if local, err = filepath.Rel(abs, name); err != nil {
			return f, err
		}
	}
	dir, err := os.OpenRoot(root)
	if err != nil {
		return f, err
	}
	defer closing(&err, dir.Close)
	f = sourcepolicy.File{Name: name}
	file, err := dir.Open(filepath.Clean(local))
	if errors.Is(err, fs.ErrNotExist) {
		return f, invalid("policy file %s not found", name)
	}
	if err != nil {
		return f, err
	}
	defer closing(&err, file.Close)
	f.Data, err = readModule(file)
	return f, err
}

// maxModule bounds what is read of a policy in Rego, in bytes.
const maxModule = 16 << 20

// readModule reads a policy, all of it or none.
func readModule(r io.Reader) ([]byte, error) {
	data, err := io.ReadAll(io.LimitReader(r, maxModule+1))
	if err == nil && len(data) > maxModule {
		err = invalid("a policy of more than %d bytes", maxModule)
	}
	return data, err
}
