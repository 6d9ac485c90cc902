package dockerfile

import (
	"slices"
	"strings"

	"github.com/containerd/platforms"
	"github.com/moby/buildkit/frontend/dockerfile/instructions"
	"github.com/moby/buildkit/frontend/dockerfile/linter"
	"github.com/moby/buildkit/frontend/dockerfile/parser"
	"github.com/moby/buildkit/frontend/dockerfile/shell"
	"github.com/moby/buildkit/util/suggest"

	"strake/internal/reference"
)

// globals is the scope of the ARGs before the first FROM, in which the words of
// FROM are expanded.
type globals struct {
	envList
	args map[string]argInfo
	lex  *shell.Lex
	lint *linter.Linter
}

// declare adds the ARGs, with the values that are given.
func (g *globals) declare(list []instructions.ArgCommand, given map[string]string) error {
	g.args = map[string]argInfo{}
	for _, cmd := range list {
		for _, arg := range cmd.Args {
			info := argInfo{doc: arg.DocComment, at: cmd.Location()}
			if v, ok := given[arg.Key]; ok {
				info.value = v
				g.set(arg.Key, v)
			} else if arg.Value != nil {
				if err := checkExpansion(*arg.Value, &g.envList); err != nil {
					return parser.WithLocation(err, cmd.Location())
				}
				res, err := g.lex.ProcessWordWithMatches(*arg.Value, g)
				if err != nil {
					return parser.WithLocation(err, cmd.Location())
				}
				info.value, info.deps = res.Result, res.Matched
				g.set(arg.Key, res.Result)
			}
			g.args[arg.Key] = info
		}
	}
	return nil
}

// mean adds which argument may have been meant by one that is not declared.
func (g *globals) mean(err error, unmatched map[string]struct{}) error {
	for _, name := range sortedKeys(unmatched) {
		if ok, err := suggest.WrapErrorMaybe(err, name, g.Keys(), true); ok {
			return err
		}
	}
	return err
}

// checkBases checks that base images have names without build arguments.
func (g *globals) checkBases(stages []instructions.Stage) {
	for _, st := range stages {
		name, err := expandWord(g.lex, st.BaseName, &g.envList)
		if err != nil {
			return
		}
		if _, err := reference.Parse(name); err != nil {
			g.lint.Run(&linter.RuleInvalidDefaultArgInFrom, st.Location, linter.RuleInvalidDefaultArgInFrom.Format(st.BaseName))
		}
	}
}

// expand replaces the variables of a word of FROM. It reports which it found
// and which it did not.
func (g *globals) expand(st instructions.Stage, word string) (shell.ProcessWordResult, error) {
	if err := checkExpansion(word, &g.envList); err != nil {
		return shell.ProcessWordResult{}, err
	}
	res, err := g.lex.ProcessWordWithMatches(word, g)
	known := slices.Clone(g.Keys())
	for name := range g.args {
		known = append(known, name)
	}
	slices.Sort(known)
	for _, name := range sortedKeys(res.Unmatched) {
		if slices.Contains(known, name) {
			continue
		}
		near, _ := suggest.Search(name, known, true)
		lint := g.lint.WithMergedConfigFromComments(st.Comments)
		lint.Run(&linter.RuleUndefinedArgInFrom, st.Location, linter.RuleUndefinedArgInFrom.Format(name, near))
	}
	return res, err
}

// checkPlatform checks the --platform of a FROM.
func (g *globals) checkPlatform(st instructions.Stage, res shell.ProcessWordResult) {
	lint := g.lint.WithMergedConfigFromComments(st.Comments)
	switch {
	case len(res.Matched) == 1 && len(res.Unmatched) == 0:
		target, _ := g.Get("TARGETPLATFORM")
		if _, ok := res.Matched["TARGETPLATFORM"]; ok && res.Result == target {
			lint.Run(&linter.RuleRedundantTargetPlatform, st.Location, linter.RuleRedundantTargetPlatform.Format(st.Platform))
		}
	case len(res.Matched) == 0 && len(res.Unmatched) == 0:
		p, err := platforms.Parse(res.Result)
		if err == nil && !strings.Contains(st.Name, p.OS) && !strings.Contains(st.Name, p.Architecture) {
			lint.Run(&linter.RuleFromPlatformFlagConstDisallowed, st.Location, linter.RuleFromPlatformFlagConstDisallowed.Format(res.Result))
		}
	}
}
