package dockerfile

import (
	"path"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"sync"

	"github.com/containerd/platforms"
	"github.com/moby/buildkit/frontend/dockerfile/instructions"
	"github.com/moby/buildkit/frontend/dockerfile/linter"
	"github.com/moby/buildkit/frontend/dockerfile/parser"
	"github.com/moby/buildkit/util/suggest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"strake/internal/build"
)

// Warning is what a check has to say about a place in the Dockerfile.
type Warning struct {
	Rule        string
	Description string // of the rule
	URL         string // a page about the rule; may be ""
	Detail      string
	Excerpt     string // the lines that it is about with those around them; "" for none

	at []parser.Range
}

// String is the warning in one line.
func (w Warning) String() string { return linter.LintFormatShort(w.Rule, w.Detail, firstLine(w.at)) }

// Lines are the first and the last line of each place that it is about.
func (w Warning) Lines() (list [][2]int) {
	for _, r := range w.at {
		list = append(list, [2]int{r.Start.Line, r.End.Line})
	}
	return list
}

// newLint makes the checks as the file's check directive says, or as asked where
// that is not "".
func (f *File) newLint(asked string) error {
	what := "BUILDKIT_DOCKERFILE_CHECK"
	if asked == "" {
		what = "check options"
		asked, _, _, _ = parser.ParseDirective("check", f.source)
	}
	config, err := linter.ParseLintOptions(asked)
	if err != nil {
		return &checkOptionsError{what, err}
	}
	config.Warn = func(rule, description, url, detail string, at []parser.Range) {
		f.warned = append(f.warned, Warning{
			Rule: rule, Description: description, URL: url, Detail: detail, Excerpt: f.excerpt(linesOf(at)), at: at,
		})
	}
	f.lint = linter.New(config)
	return nil
}

type checkOptionsError struct {
	what string
	err  error
}

func (e *checkOptionsError) Error() string { return "failed to parse " + e.what + ": " + e.err.Error() }

func (e *checkOptionsError) Unwrap() error { return e.err }

// checkNames runs the checks on the names of stages and the case of instructions.
func (f *File) checkNames() {
	seen := map[string]bool{}
	for _, st := range f.stages {
		if st.Name == "context" || st.Name == scratch {
			f.lint.Run(&linter.RuleReservedStageName, st.Location, linter.RuleReservedStageName.Format(st.Name))
		}
		if st.Name != "" && seen[st.Name] {
			f.lint.Run(&linter.RuleDuplicateStageName, st.Location, linter.RuleDuplicateStageName.Format(st.Name))
		}
		seen[st.Name] = true
	}
	lower, upper := 0, 0
	each := func(fn func(name string, at []parser.Range)) {
		for _, st := range f.stages {
			fn(st.OrigCmd, st.Location)
			for _, cmd := range st.Commands {
				fn(cmd.Name(), cmd.Location())
			}
		}
	}
	each(func(name string, _ []parser.Range) {
		switch name {
		case strings.ToLower(name):
			lower++
		case strings.ToUpper(name):
			upper++
		}
	})
	want, wanted := strings.ToUpper, "uppercase"
	if lower > upper {
		want, wanted = strings.ToLower, "lowercase"
	}
	each(func(name string, at []parser.Range) {
		if want(name) != name {
			f.lint.Run(&linter.RuleConsistentInstructionCasing, at, linter.RuleConsistentInstructionCasing.Format(name, wanted))
		}
	})
}

// checks are those of a stage, as far as it is compiled.
type checks struct {
	lint       *linter.Linter            // as the comments before the instruction have it
	last       map[string][]parser.Range // where CMD, ENTRYPOINT and HEALTHCHECK are
	workdirSet bool                      // by this file
}

// checkBase checks that the image is for the platform that was asked for.
func (s *stage) checkBase(lint *linter.Linter, name string, asked ocispec.Platform) {
	got := s.image.Platform
	if got.OS == asked.OS && got.Architecture == asked.Architecture {
		return
	}
	format := func(p ocispec.Platform) string { return platforms.FormatAll(platforms.Normalize(p)) }
	lint.Run(&linter.RuleInvalidBaseImagePlatform, s.Location, linter.RuleInvalidBaseImagePlatform.Format(name, format(asked), format(got)))
}

// checkVars tells of variables that nothing has set.
func (s *stage) checkVars(cmd instructions.Command, unmatched map[string]struct{}) {
	for _, name := range sortedKeys(unmatched) {
		declared := slices.ContainsFunc(s.args, func(a instructions.KeyValuePairOptional) bool { return a.Key == name })
		if declared || strings.HasPrefix(name, "BUILDKIT_SBOM_SCAN_") {
			continue
		}
		near, _ := suggest.Search(name, s.env.Keys(), runtime.GOOS != "windows")
		s.lint.Run(&linter.RuleUndefinedVar, cmd.Location(), linter.RuleUndefinedVar.Format(name, near))
	}
}

// checkOnce tells of an instruction that a later one of its kind makes useless.
func (s *checks) checkOnce(cmd instructions.Command) {
	kind := strings.ToUpper(cmd.Name())
	if at, ok := s.last[kind]; ok {
		s.lint.Run(&linter.RuleMultipleInstructionsDisallowed, at, linter.RuleMultipleInstructionsDisallowed.Format(cmd.Name()))
	}
	if s.last == nil {
		s.last = map[string][]parser.Range{}
	}
	s.last[kind] = cmd.Location()
}

// checkShellForm tells of a CMD or ENTRYPOINT that a shell wraps.
func (s *stage) checkShellForm(cmd instructions.Command, line instructions.ShellDependantCmdLine) {
	s.checkOnce(cmd)
	if line.PrependShell && len(s.image.Config.Shell) == 0 {
		s.lint.Run(&linter.RuleJSONArgsRecommended, cmd.Location(), linter.RuleJSONArgsRecommended.Format(cmd.Name()))
	}
}

func (s *stage) checkWorkdir(in *instructions.WorkdirCommand) {
	if !s.workdirSet && !strings.HasPrefix(in.Path, "/") {
		s.lint.Run(&linter.RuleWorkdirRelativePath, in.Location(), linter.RuleWorkdirRelativePath.Format(in.Path))
	}
	s.workdirSet = true
}

func (s *checks) checkPair(cmd instructions.Command, legacy bool) {
	if legacy {
		s.lint.Run(&linter.RuleLegacyKeyValueFormat, cmd.Location(), linter.RuleLegacyKeyValueFormat.Format(cmd.Name()))
	}
}

// secretNames finds the names of variables that hold secrets, as a whole word
// of them, and what makes them none.
var secretNames = sync.OnceValue(func() (re struct{ secret, harmless *regexp.Regexp }) {
	word := func(list string) *regexp.Regexp { return regexp.MustCompile(`(?i)(?:_|^)(?:` + list + `)(?:_|$)`) }
	re.secret = word("apikey|auth|credential|credentials|key|password|pword|passwd|secret|token")
	re.harmless = word("public|file|version")
	return re
})

// checkSecret tells of a variable that seems to hold a secret.
func (s *checks) checkSecret(cmd instructions.Command, verb, name string) {
	if re := secretNames(); re.secret.MatchString(name) && !re.harmless.MatchString(name) {
		s.lint.Run(&linter.RuleSecretsUsedInArgOrEnv, cmd.Location(), linter.RuleSecretsUsedInArgOrEnv.Format(verb, name))
	}
}

func sortedKeys(m map[string]struct{}) []string {
	keys := make([]string, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}

// checkIgnored tells of sources that the ignore file leaves out.
func (s *checks) checkIgnored(files *build.LazyContext, cmd command, verb string, sources []string) error {
	if cmd.from != nil || files == nil {
		return nil
	}
	for _, src := range sources {
		if _, git, _ := addedGit(src); git || isURL(src) {
			continue
		}
		name := path.Clean(src)
		left, err := files.LeavesOut(name)
		if err != nil {
			return err
		}
		if left {
			s.lint.Run(&linter.RuleCopyIgnoredFile, cmd.Location(), linter.RuleCopyIgnoredFile.Format(verb, name))
		}
	}
	return nil
}
