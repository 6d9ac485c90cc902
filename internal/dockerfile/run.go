package dockerfile

import (
	"errors"
	"fmt"
	"path"
	"slices"
	"strings"

	"github.com/moby/buildkit/frontend/dockerfile/instructions"
	"github.com/moby/buildkit/frontend/dockerfile/parser"

	"strake/internal/build"
	"strake/internal/executor"
)

// run adds a RUN.
func (c *compiler) run(s *stage, cmd command, in *instructions.RunCommand) error {
	op := &build.Run{
		Platform: s.image.Platform, Env: s.env.list(), Cwd: s.image.Config.WorkingDir, User: s.image.Config.User,
		Hostname: c.opts.BuildArgs["BUILDKIT_SANDBOX_HOSTNAME"], Hidden: s.undeclared(c.proxies), ExtraHosts: c.opts.ExtraHosts,
		Limits: c.opts.Limits, CgroupParent: c.opts.CgroupParent, Resources: c.opts.Resources, ShmSize: c.opts.ShmSize,
	}
	s.outline.mounts(in)
	if err := c.opts.runFlags(op, in); err != nil {
		return err
	}
	from, err := cmd.runMounts(&c.opts, s, in, op)
	if err != nil {
		return err
	}
	args, name := in.CmdLine, in.String()
	if len(in.Files) > 0 {
		if args, name, err = heredoc(op, in, name, s.image.OS); err != nil {
			return err
		}
	}
	if in.PrependShell {
		args = s.withShell(args)
	}
	op.Args, op.Shell = args, s.withShell(nil)[:1]
	lex := *c.lex
	lex.RawQuotes, lex.SkipUnsetEnv = true, true
	c.advance(s, cmd, op, s.stepNameIn(s.masked(op), cmd, &lex, name), from...)
	s.record("RUN "+s.runText(args)+" # buildkit", true)
	return nil
}

// What a build may be allowed besides, as for buildx.
const (
	EntitlementNetwork  = "network.host"
	EntitlementInsecure = "security.insecure"
	EntitlementDevice   = "device" // alone all, else "device=name[,alias=name]"
)

// allowed fails unless the build has an entitlement.
func (o *Options) allowed(entitlement string) error {
	if slices.Contains(o.Allow, entitlement) {
		return nil
	}
	return fmt.Errorf("%s is not allowed: allow it by --allow %s", entitlement, entitlement)
}

// devices are the names of those that a RUN asks for and gets. An optional one that this machine has not is left out.
func (o *Options) devices(asked []*instructions.Device) (names []string, err error) {
	if o.Devices == nil || len(asked) == 0 {
		return nil, nil
	}
	list, broken := o.Devices()
	granted, aliases := o.granted(list)
	var forbidden []string
	for _, want := range asked {
		name := want.Name
		meant, alias := aliases[name]
		if alias {
			name = meant
		}
		found := executor.FindDevices(list, name)
		if len(found) == 0 && want.Required {
			return nil, errors.Join(fmt.Errorf("required device %q is not registered", name), broken)
		}
		for _, d := range found {
			switch {
			case slices.Contains(names, d.Name):
			case alias || granted == nil || granted[d.Name] || d.ForAll():
				names = append(names, d.Name)
			default:
				forbidden = append(forbidden, d.Name)
			}
		}
	}
	switch len(forbidden) {
	case 0:
		return names, nil
	case 1:
		return nil, fmt.Errorf("device %s is requested by the build but not allowed: allow it by --allow %s=%[1]s", forbidden[0], EntitlementDevice)
	}
	return nil, fmt.Errorf("devices %s are requested by the build but not allowed: allow them by --allow %s", strings.Join(forbidden, ", "), EntitlementDevice)
}

// granted are the names of the devices that the build was allowed, nil for all, and what the aliases stand for.
func (o *Options) granted(list []executor.Device) (names map[string]bool, aliases map[string]string) {
	names, aliases = map[string]bool{}, map[string]string{}
	for _, e := range o.Allow {
		name, one := strings.CutPrefix(e, EntitlementDevice+"=")
		if e == EntitlementDevice || one && name == "" {
			return nil, aliases
		}
		if !one {
			continue
		}
		name, option, _ := strings.Cut(name, ",")
		if alias, ok := strings.CutPrefix(option, "alias="); ok {
			aliases[alias] = name
			continue
		}
		for _, d := range executor.FindDevices(list, name) {
			names[d.Name] = true
		}
	}
	return names, aliases
}

// CheckEntitlement fails for what no build can be allowed.
func CheckEntitlement(e string) error {
	key, config, _ := strings.Cut(e, "=")
	if key == EntitlementDevice {
		_, option, more := strings.Cut(config, ",")
		if option, value, ok := strings.Cut(option, "="); more && (!ok || value == "" || strings.Contains(value, ",")) {
			return fmt.Errorf("invalid device config %q", option)
		} else if more && option != "alias" {
			return fmt.Errorf("unknown device config key %q", option)
		}
		return nil
	}
	if e != EntitlementNetwork && e != EntitlementInsecure {
		return fmt.Errorf("unknown entitlement %s", e)
	}
	return nil
}

// runFlags takes the flags over and refuses those that are not supported, or not allowed.
func (o *Options) runFlags(op *build.Run, in *instructions.RunCommand) error {
	devices, err := o.devices(instructions.GetDevices(in))
	if err != nil {
		return err
	}
	op.Devices = devices
	if instructions.GetSecurity(in) == instructions.SecurityInsecure {
		if err := o.allowed(EntitlementInsecure); err != nil {
			return err
		}
		op.Insecure = true
	}
	op.Network = executor.NetworkHost
	if o.Network == executor.NetworkNone {
		op.Network = executor.NetworkNone
	}
	switch instructions.GetNetwork(in) {
	case instructions.NetworkNone:
		op.Network = executor.NetworkNone
	case instructions.NetworkHost:
		op.Network = executor.NetworkHost
		if o.Network != executor.NetworkHost {
			return o.allowed(EntitlementNetwork)
		}
	}
	return nil
}

// undeclared is those variables of env that the stage has not set itself.
func (s *stage) undeclared(env []string) []string {
	var out []string
	for _, kv := range env {
		k, _, _ := strings.Cut(kv, "=")
		if _, ok := s.env.Get(k); !ok {
			out = append(out, kv)
		}
	}
	return out
}

// heredoc makes a RUN with inline documents a command line, as BuildKit does: a
// single document is the script, and runs by itself where it has a "#!"; of
// others the shell takes care.
func heredoc(op *build.Run, in *instructions.RunCommand, name, system string) ([]string, string, error) {
	args := in.CmdLine
	if len(args) != 1 || !in.PrependShell {
		return nil, "", fmt.Errorf("parsing produced an invalid run command: %v", args)
	}
	if parser.MustParseHeredoc(args[0]) == nil {
		var b strings.Builder
		b.WriteString(args[0])
		for _, f := range in.Files {
			b.WriteByte('\n')
			b.WriteString(f.Data)
			b.WriteString(f.Name)
		}
		return []string{b.String()}, name, nil
	}
	f := in.Files[0]
	name += fmt.Sprintf(" (%s)", summary(f.Data))
	data := f.Data
	if f.Chomp {
		data = parser.ChompHeredocContent(data)
	}
	if system == "windows" || !strings.HasPrefix(data, "#!") {
		return []string{data}, name, nil
	}
	base := path.Base("/" + f.Name)
	op.Scripts = append(op.Scripts, build.Inline{Name: base, Data: []byte(data)})
	return []string{path.Join(build.ScriptDir, base)}, name, nil
}

func summary(doc string) string {
	first, _, more := strings.Cut(strings.ReplaceAll(strings.TrimSpace(doc), "\r\n", "\n"), "\n")
	if more {
		first += "..."
	}
	return first
}

// runText is the command in the history: build arguments first, counted.
func (s *stage) runText(args []string) string {
	var text []string
	at := map[string]int{}
	for _, a := range s.args {
		v, ok := s.env.Get(a.Key)
		if !ok {
			v = a.ValueString()
		}
		kv := a.Key + "=" + v
		if i, ok := at[a.Key]; ok {
			text[i] = kv
			continue
		}
		at[a.Key] = len(text)
		text = append(text, kv)
	}
	if len(text) > 0 {
		text = slices.Insert(text, 0, fmt.Sprintf("|%d", len(text)))
	}
	return strings.Join(append(text, args...), " ")
}
