package dockerfile

import (
	"errors"
	"fmt"
	"path"
	"slices"
	"strings"

	"github.com/moby/buildkit/frontend/dockerfile/instructions"
	"github.com/moby/buildkit/frontend/dockerfile/shell"
	dockerspec "github.com/moby/docker-image-spec/specs-go/v1"

	"strake/internal/build"
)

// dispatch adds one instruction to its stage.
func (c *compiler) dispatch(s *stage, cmd command) error {
	s.lint = c.file.lint.WithMergedConfigFromComments(cmd.Comments())
	if err := c.expand(s, cmd); err != nil {
		return err
	}
	cfg := &s.image.Config
	switch in := cmd.Command.(type) {
	case *instructions.RunCommand:
		return c.run(s, cmd, in)
	case *instructions.CopyCommand:
		return c.copy(s, cmd, in)
	case *instructions.AddCommand:
		return c.addFiles(s, cmd, in)
	case *instructions.WorkdirCommand:
		s.checkWorkdir(in)
		c.workdir(s, cmd, in)
	case *instructions.ArgCommand:
		return c.arg(s, in)
	case *instructions.EnvCommand:
		text := "ENV"
		for _, e := range in.Env {
			s.checkPair(in, e.NoDelim)
			s.checkSecret(in, "ENV", e.Key)
			text += " " + e.String()
			s.env.set(e.Key, e.Value)
			cfg.Env = setEnv(cfg.Env, e.Key, e.Value)
		}
		s.record(text, false)
	case *instructions.LabelCommand:
		text := "LABEL"
		if cfg.Labels == nil {
			cfg.Labels = map[string]string{}
		}
		for _, l := range in.Labels {
			s.checkPair(in, l.NoDelim)
			text += " " + l.String()
			cfg.Labels[l.Key] = l.Value
		}
		s.record(text, false)
	case *instructions.ExposeCommand:
		return c.expose(s, in)
	case *instructions.VolumeCommand:
		return volume(s, in)
	default:
		return s.setting(cmd)
	}
	return nil
}

// setting adds an instruction that sets one field of the config.
func (s *stage) setting(cmd command) error {
	cfg := &s.image.Config
	switch in := cmd.Command.(type) {
	case *instructions.CmdCommand:
		s.checkShellForm(in, in.ShellDependantCmdLine)
		cfg.Cmd = s.shellForm(in.ShellDependantCmdLine)
		cfg.ArgsEscaped = true //nolint:staticcheck // docker's config has it
		s.record(fmt.Sprintf("CMD %q", cfg.Cmd), false)
	case *instructions.EntrypointCommand:
		s.checkShellForm(in, in.ShellDependantCmdLine)
		cfg.Entrypoint = s.shellForm(in.ShellDependantCmdLine)
		if s.last["CMD"] == nil {
			cfg.Cmd = nil
		}
		s.record(fmt.Sprintf("ENTRYPOINT %q", cfg.Entrypoint), false)
	case *instructions.HealthCheckCommand:
		s.checkOnce(in)
		cfg.Healthcheck = &dockerspec.HealthcheckConfig{
			Test: in.Health.Test, Interval: in.Health.Interval, Timeout: in.Health.Timeout,
			StartPeriod: in.Health.StartPeriod, StartInterval: in.Health.StartInterval, Retries: in.Health.Retries,
		}
		s.record(fmt.Sprintf("HEALTHCHECK %+v", *cfg.Healthcheck), false)
	case *instructions.UserCommand:
		cfg.User = in.User
		s.record("USER "+in.User, false)
	case *instructions.StopSignalCommand:
		if !validSignal(in.Signal) {
			return fmt.Errorf("invalid signal: %s", in.Signal)
		}
		cfg.StopSignal = in.Signal
		s.record("STOPSIGNAL "+in.Signal, false)
	case *instructions.ShellCommand:
		cfg.Shell = in.Shell
		s.record(fmt.Sprintf("SHELL %v", in.Shell), false)
	case *instructions.MaintainerCommand:
		s.image.Author = in.Maintainer
		s.record("MAINTAINER "+in.Maintainer, false)
	case *instructions.OnbuildCommand:
		cfg.OnBuild = append(cfg.OnBuild, in.Expression)
	default:
		return fmt.Errorf("instruction %s is not supported", strings.ToUpper(cmd.Name()))
	}
	return nil
}

// expand replaces variables in the words of an instruction that has it done.
func (c *compiler) expand(s *stage, cmd command) error {
	if _, isArg := cmd.Command.(*instructions.ArgCommand); isArg {
		return nil // its default may not be used
	}
	if ex, ok := cmd.Command.(instructions.SupportsSingleWordExpansion); ok {
		err := ex.Expand(func(word string) (string, error) {
			return s.expand(c.lex, cmd, word)
		})
		if err != nil {
			return err
		}
	}
	if ex, ok := cmd.Command.(instructions.SupportsSingleWordExpansionRaw); ok {
		return ex.ExpandRaw(func(word string) (string, error) {
			lex := shell.NewLex('\\')
			lex.SkipProcessQuotes = true
			return s.expand(lex, cmd, word)
		})
	}
	return nil
}

// expand replaces the variables of one word of an instruction, and tells of those
// that are not set.
func (s *stage) expand(lex *shell.Lex, cmd instructions.Command, word string) (string, error) {
	if err := checkExpansion(word, &s.env); err != nil {
		return "", err
	}
	w, unmatched, err := lex.ProcessWord(word, &s.env)
	s.checkVars(cmd, unmatched)
	return w, err
}

// maxExpansion bounds what one word may become, in bytes: a few lines of
// variables that name each other twice would fill any memory.
const maxExpansion = 16 << 20

// expandWord replaces the variables of one word.
func expandWord(lex *shell.Lex, word string, env *envList) (string, error) {
	if err := checkExpansion(word, env); err != nil {
		return "", err
	}
	w, _, err := lex.ProcessWord(word, env)
	return w, err
}

// checkExpansion refuses a word that could become larger than maxExpansion: each
// "$" the longest value, and with "${a//b/$c}" that for each byte of another.
func checkExpansion(word string, env *envList) error {
	longest := 1
	for _, v := range env.values {
		longest = max(longest, len(v))
	}
	if strings.Contains(word, "${") && strings.Contains(word, "/") && longest > 4<<10 {
		longest *= longest
	}
	if n := strings.Count(word, "$"); n > 0 && n > maxExpansion/longest {
		return fmt.Errorf("the variables of %.40q... are too large", word)
	}
	return nil
}

// arg declares build arguments: they are variables of the rest of the stage.
func (c *compiler) arg(s *stage, in *instructions.ArgCommand) error {
	text := "ARG"
	for _, a := range in.Args {
		s.checkSecret(in, "ARG", a.Key)
		v, given := c.opts.BuildArgs[a.Key]
		inherited := false
		switch {
		case given:
			a.Value = &v
		case a.Value != nil:
			w, err := s.expand(c.lex, in, *a.Value)
			if err != nil {
				return err
			}
			a.Value = &w
		default:
			if g, ok := c.globals.Get(a.Key); ok {
				a.Value, inherited = &g, true
			}
		}
		s.outline.declare(a, in.Location(), inherited)
		text += " " + a.Key
		if a.Value != nil {
			s.env.set(a.Key, *a.Value)
			text += "=" + *a.Value
		}
		s.args = append(s.args, a)
	}
	s.record(text, false)
	return nil
}

func (c *compiler) workdir(s *stage, cmd command, in *instructions.WorkdirCommand) {
	dir := absolute(s.image.Config.WorkingDir, in.Path)
	s.image.Config.WorkingDir = dir
	if path.IsAbs(in.Path) {
		s.image.Config.WorkingDir = in.Path // as it is written, for BuildKit
	}
	if dir == "/" {
		s.record("WORKDIR /", false)
		return
	}
	c.advance(s, cmd, &build.Mkdir{Path: dir, User: s.image.Config.User}, s.stepName(cmd, c.lex, in.String()))
	s.record("WORKDIR "+s.image.Config.WorkingDir, true)
}

// absolute is p as seen from dir, cleaned.
func absolute(dir, p string) string {
	if path.IsAbs(p) {
		return path.Clean(p)
	}
	return path.Join("/", dir, p)
}

func volume(s *stage, in *instructions.VolumeCommand) error {
	if s.image.Config.Volumes == nil {
		s.image.Config.Volumes = map[string]struct{}{}
	}
	for _, v := range in.Volumes {
		if v == "" {
			return errors.New("VOLUME specified can not be an empty string")
		}
		s.image.Config.Volumes[v] = struct{}{}
	}
	s.record(fmt.Sprintf("VOLUME %v", in.Volumes), false)
	return nil
}

// shellForm is the command line, with the stage's shell in front where the
// instruction was not in exec form.
func (s *stage) shellForm(l instructions.ShellDependantCmdLine) []string {
	if !l.PrependShell {
		return l.CmdLine
	}
	return s.withShell(l.CmdLine)
}

func (s *stage) withShell(args []string) []string {
	sh := []string{"/bin/sh", "-c"}
	if len(s.image.Config.Shell) > 0 {
		sh = slices.Clone(s.image.Config.Shell)
	} else if s.image.OS == "windows" {
		sh = []string{"cmd", "/S", "/C"}
	}
	return append(sh, strings.Join(args, " "))
}

func setEnv(env []string, k, v string) []string {
	for i, kv := range env {
		if key, _, _ := strings.Cut(kv, "="); key == k {
			env[i] = k + "=" + v
			return env
		}
	}
	return append(env, k+"="+v)
}
