package cli

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"strake/internal/bake"
	"strake/internal/engine"
	"strake/internal/progress"
)

type bakeOptions struct {
	files []string
	set   []string
	vars  []string
	allow []string

	load, push, noCache, pull bool
	sbom, provenance          string

	print bool
	list  string // what; "" is nothing
	call  string
	check bool

	progress     string
	metadataFile string
	policies     []string
}

func newBakeCommand(s *session) *cobra.Command {
	var opts bakeOptions
	cmd := &cobra.Command{
		Use:   "bake [OPTIONS] [TARGET...]",
		Short: "Build from a file",
		Long: "Build the targets of bake files: those of the working directory, or, where the first argument is the address of a git repository,\n" +
			"of an archive or of a file, those that are there. A second address is BAKE_CMD_CONTEXT.",
		RunE: func(cmd *cobra.Command, targets []string) error {
			for name, value := range map[string]bool{"no-cache": opts.noCache, "pull": opts.pull} {
				if cmd.Flags().Changed(name) {
					opts.set = append(opts.set, fmt.Sprintf("*.%s=%t", name, value))
				}
			}
			return runBake(cmd.Context(), s, opts, targets)
		},
		DisableFlagsInUseLine: true,
	}
	flags := cmd.Flags()
	flags.StringArrayVarP(&opts.files, "file", "f", nil, "Build definition file")
	flags.BoolVar(&opts.load, "load", false, `Shorthand for "--set=*.output=type=docker". Conditional.`)
	flags.BoolVar(&opts.push, "push", false, `Shorthand for "--set=*.output=type=registry". Conditional.`)
	flags.StringVar(&opts.sbom, "sbom", "", `Shorthand for "--set=*.attest=type=sbom"`)
	flags.StringVar(&opts.provenance, "provenance", "", `Shorthand for "--set=*.attest=type=provenance"`)
	flags.StringArrayVar(&opts.set, "set", nil, `Override target value (e.g., "targetpattern.key=value")`)
	flags.StringArrayVar(&opts.vars, "var", nil, `Set a variable value (e.g., "name=value")`)
	flags.StringVar(&opts.call, "call", "build", `Set method for evaluating build ("check", "outline", "targets")`)
	flags.BoolVar(&opts.check, "check", false, `Shorthand for "--call=check"`)
	flags.StringArrayVar(&opts.allow, "allow", nil, "Allow build to access specified resources")
	flags.StringArrayVar(&opts.policies, "policy", nil, `Global policy evaluation options (format: "[disabled=true|false][,strict=true|false][,log-level=level]")`)
	flags.BoolVar(&opts.print, "print", false, "Print the options without building")
	flags.StringVar(&opts.list, "list", "", "List targets or variables")
	flags.BoolVar(&opts.noCache, "no-cache", false, "Do not use cache when building the image")
	flags.BoolVar(&opts.pull, "pull", false, "Always attempt to pull all referenced images")
	flags.StringVar(&opts.progress, "progress", cmp.Or(os.Getenv("BUILDKIT_PROGRESS"), "auto"),
		`Set type of progress output ("auto", "none", "plain", "quiet", "rawjson", "tty"). Use plain to show container output`)
	flags.StringVar(&opts.metadataFile, "metadata-file", "", "Write build result metadata to a file")
	return cmd
}

func runBake(ctx context.Context, s *session, opts bakeOptions, targets []string) error {
	if opts.print && opts.list != "" {
		return errors.New("ERROR: --print and --list are mutually exclusive")
	}
	call, err := opts.asked()
	if err != nil {
		return fmt.Errorf("ERROR: %w", err)
	}
	noPolicy, err := bakePolicies(opts.policies)
	if err != nil {
		return fmt.Errorf("ERROR: %w", err)
	}
	if noPolicy {
		opts.policies = nil
	}
	from, targets := bakeOrigin(targets)
	req, err := opts.request(targets, from.context)
	if err != nil {
		return fmt.Errorf("ERROR: %w", err)
	}
	if from.address != "" {
		if _, err := s.contained(ctx); err != nil {
			return err
		}
	}
	if err := opts.define(ctx, s, &from, &req); err != nil {
		return fmt.Errorf("ERROR: %w", err)
	}
	answer, err := bake.Ask(ctx, req)
	if err != nil {
		return bakeError(err)
	}
	switch {
	case opts.list != "":
		return listBake(s.Out, opts.list, answer)
	case opts.print:
		_, err := s.Out.Write(answer.Print)
		return err
	}
	for name, t := range answer.Targets {
		if noPolicy {
			t.Policies = []string{"disabled=true"}
			answer.Targets[name] = t
		}
	}
	if err := opts.checkPrivileges(s, answer, req.Foreign); err != nil {
		return err
	}
	return opts.bakeTargets(ctx, s, call, answer, from.at)
}

// asked is what is done with all targets in place of building them.
func (o bakeOptions) asked() (buildCall, error) {
	if o.check && o.call == "build" {
		o.call = "check"
	}
	return parseCall(o.call)
}

// request is what the flags ask of the files. The directory of the command, context, is "cwd://" or an address.
func (o bakeOptions) request(targets []string, context string) (req bake.Request, err error) {
	if len(targets) == 0 {
		targets = []string{"default"}
	}
	req = bake.Request{
		Targets: targets, Set: o.overrides(), List: o.list != "", Vars: map[string]string{},
		Builtin: map[string]string{"BAKE_CMD_CONTEXT": context, "BAKE_LOCAL_PLATFORM": engine.LocalPlatform()},
	}
	for _, v := range o.vars {
		key, value, ok := strings.Cut(v, "=")
		switch {
		case v == "":
			continue
		case !ok:
			return req, fmt.Errorf("invalid variable %q, expected key=value", v)
		case key == "":
			return req, fmt.Errorf("invalid variable %q, key is empty", v)
		}
		req.Vars[key] = value
	}
	const relative = "BUILDX_BAKE_FILE_RELATIVE_PATHS"
	if v := strings.TrimSpace(os.Getenv(relative)); v != "" {
		if req.FileRelative, err = strconv.ParseBool(v); err != nil {
			return req, fmt.Errorf("failed to parse %s value %q: %w", relative, v, err)
		}
	}
	return req, nil
}

// overrides are --set, and the flags that stand for it.
func (o bakeOptions) overrides() []string {
	set := slices.Clone(o.set)
	if o.push {
		set = append(set, "*.push=true")
	}
	if o.load {
		set = append(set, "*.load=true")
	}
	for _, value := range o.policies {
		set = append(set, "*.policy+="+value)
	}
	for kind, value := range map[string]string{"sbom": o.sbom, "provenance": o.provenance} {
		if value == "" {
			continue
		}
		if on, err := strconv.ParseBool(value); err == nil {
			value = fmt.Sprintf("disabled=%t", !on)
		}
		set = append(set, fmt.Sprintf("*.attest=type=%s,%s", kind, value))
	}
	return set
}

// bakeError tells what is wrong with a file, with its lines.
func bakeError(err error) error {
	var f *bake.Failure
	if !errors.As(err, &f) || f.File == "" {
		return fmt.Errorf("ERROR: %w", err)
	}
	return fmt.Errorf("%sERROR: %w", engine.Excerpt(f.File, f.Source, f.First, f.Last), err)
}

// checkPrivileges fails where the files, which may be another's, ask for what is not allowed.
func (o bakeOptions) checkPrivileges(s *session, answer bake.Answer, foreign bool) error {
	granted, err := bake.ParsePrivileges(o.allow)
	if err != nil {
		return fmt.Errorf("ERROR: %w", err)
	}
	missing, err := granted.Missing(answer, foreign)
	if err != nil {
		return fmt.Errorf("ERROR: %w", err)
	}
	if len(missing.Allow) == 0 {
		return nil
	}
	fmt.Fprintf(s.Err, "Your build is requesting privileges for following possibly insecure capabilities:\n\n")
	var flags []string
	for i, what := range missing.What {
		fmt.Fprintf(s.Err, " - %s\n", what)
		flags = append(flags, "--allow="+missing.Allow[i])
	}
	fmt.Fprintf(s.Err, "\nPass %q to grant requested privileges.\n\n", strings.Join(flags, " "))
	if missing.OfFiles() && os.Getenv("BUILDX_BAKE_ENTITLEMENTS_FS") == "" {
		fmt.Fprintf(s.Err, "To disable filesystem entitlements checks, you can set BUILDX_BAKE_ENTITLEMENTS_FS=0 .\n\n")
	}
	return errors.New("ERROR: additional privileges requested")
}

// listBake shows the targets or the variables: "targets", "type=variables,format=json".
func listBake(out io.Writer, what string, answer bake.Answer) error {
	kind, format := what, "table"
	if strings.Contains(what, "=") || strings.Contains(what, ",") {
		kind = ""
		for field := range strings.SplitSeq(what, ",") {
			key, value, ok := strings.Cut(field, "=")
			switch key = strings.TrimSpace(strings.ToLower(key)); {
			case !ok:
				return fmt.Errorf("ERROR: invalid value %s", field)
			case key == "type":
				kind = value
			case key == "format":
				format = value
			default:
				return fmt.Errorf("ERROR: unexpected key '%s' in '%s'", key, field)
			}
		}
	}
	if format != "table" && format != "json" {
		return fmt.Errorf("ERROR: invalid list format %q", format)
	}
	switch kind {
	case "targets":
		return writeBakeList(out, format, "TARGET\tDESCRIPTION", answer.Listed, func(l bake.Listed) []string {
			return []string{l.Name, l.Description}
		})
	case "variables":
		return writeBakeList(out, format, "VARIABLE\tTYPE\tVALUE\tDESCRIPTION", answer.Variables, func(v bake.Variable) []string {
			value := "<null>"
			if v.Value != nil {
				value = *v.Value
			}
			return []string{v.Name, v.Type, value, v.Description}
		})
	}
	return fmt.Errorf("ERROR: invalid list type %q", kind)
}

// writeBakeList writes a list as JSON or as a table.
func writeBakeList[T any](out io.Writer, format, head string, list []T, row func(T) []string) error {
	if format == "json" {
		enc := json.NewEncoder(out)
		enc.SetIndent("", "  ")
		return enc.Encode(list)
	}
	tw := tabwriter.NewWriter(out, 1, 8, 1, '\t', 0)
	fmt.Fprintln(tw, head)
	for _, l := range list {
		fmt.Fprintln(tw, strings.Join(row(l), "\t"))
	}
	return tw.Flush()
}

// targetOptions are the flags of build that say what a target says.
func targetOptions(t bake.Target) buildOptions {
	pairs := func(m map[string]string) (list []string) {
		for _, k := range slices.Sorted(maps.Keys(m)) {
			list = append(list, k+"="+m[k])
		}
		return list
	}
	opts := buildOptions{
		context: t.Context, file: t.Dockerfile, contexts: pairs(t.Contexts), tags: t.Tags, buildArgs: pairs(t.Args), labels: pairs(t.Labels),
		target: t.Stage, platforms: t.Platforms, noCache: t.NoCache, pull: t.Pull, annotations: t.Annotations,
		outputs: t.Outputs, cacheFrom: t.CacheFrom, cacheTo: t.CacheTo, attests: t.Attest,
		buildRunOptions: buildRunOptions{network: t.Network, addHosts: t.ExtraHosts, secrets: t.Secrets, ssh: t.SSH, resources: t.Resources},
		allow:           t.Entitlements, policies: t.Policies,
	}
	if !t.NoCache {
		opts.noStages = t.NoCacheFilter
	}
	if t.Deletes {
		opts.allow = append(opts.allow, allowDelete) // it was granted
	}
	return opts
}

// targetBuild turns a target into a build.
func targetBuild(ctx context.Context, s *session, t bake.Target) (engine.BuildOptions, error) {
	opts := targetOptions(t)
	for _, text := range t.Ulimits {
		if err := opts.ulimits.Set(text); err != nil {
			return engine.BuildOptions{}, err
		}
	}
	if t.ShmSize != "" {
		if err := opts.shmSize.Set(t.ShmSize); err != nil {
			return engine.BuildOptions{}, fmt.Errorf("invalid value %s for membytes key shm-size", t.ShmSize)
		}
	}
	build, err := buildInput(ctx, s, opts)
	build.Origin = t.Origin
	if strings.HasPrefix(t.Context, bake.OriginScheme) || strings.EqualFold(gitHost(t.Context), gitHost(t.Origin)) {
		build.Run.Secrets = append(build.Run.Secrets, gitSecrets(t.Origin)...)
	}
	if t.Inline != "" {
		build.Source = []byte(t.Inline)
	}
	return build, err
}

// bakeTargets builds all targets, or asks about them.
func (o bakeOptions) bakeTargets(ctx context.Context, s *session, call buildCall, answer bake.Answer, at *engine.GitRef) error {
	if err := canWrite(o.metadataFile); err != nil {
		return fmt.Errorf("ERROR: the metadata file cannot be written: %w", err)
	}
	env, err := s.contained(ctx)
	if err != nil {
		return err
	}
	var builds []engine.NamedBuild
	var questions []bakeQuestion
	for _, name := range slices.Sorted(maps.Keys(answer.Targets)) {
		t, asked := answer.Targets[name], call
		build, err := targetBuild(ctx, s, t)
		build.At = at
		if err == nil && call.question == "" && t.Call != "" {
			asked, err = parseCall(t.Call)
		}
		if err != nil {
			return fmt.Errorf("ERROR: target %s: %w", name, err)
		}
		build.Provenance = o.metadataFile != ""
		if one := (engine.NamedBuild{Name: name, BuildOptions: build}); asked.question == "" {
			builds = append(builds, one)
		} else if !t.Linked {
			questions = append(questions, bakeQuestion{one, asked, t})
		}
	}
	results, err := o.build(ctx, s, env, builds)
	if err == nil {
		err = o.writeMetadata(builds, results)
	}
	if err != nil {
		return err
	}
	return o.ask(ctx, s, env, questions, answer, call.json)
}

// build builds the targets, with one display of all.
func (o bakeOptions) build(ctx context.Context, s *session, env *engine.Env, builds []engine.NamedBuild) ([]engine.BuildResult, error) {
	if len(builds) == 0 {
		return nil, nil
	}
	show, err := progress.New(progress.Options{Out: s.Err, Mode: o.progress})
	if err != nil {
		return nil, fmt.Errorf("ERROR: %w", err)
	}
	for i := range builds {
		builds[i].Progress = show.Handle
	}
	results, err := engine.BuildTogether(ctx, env, builds)
	if closeErr := show.Close(); err == nil {
		err = closeErr
	}
	tellBaked(s, o, results, err)
	if failed := (*engine.BuildError)(nil); errors.As(err, &failed) {
		return nil, fmt.Errorf("%s%sERROR: %w", policyLines(err), failed.Excerpt, err)
	}
	if err != nil {
		return nil, fmt.Errorf("ERROR: %w", err)
	}
	return results, nil
}

// tellBaked shows the warnings of all builds.
func tellBaked(s *session, opts bakeOptions, results []engine.BuildResult, err error) {
	var warnings []engine.Warning
	if failed := (*engine.BuildError)(nil); errors.As(err, &failed) {
		warnings = failed.Warnings
	}
	for _, r := range results {
		warnings = append(warnings, r.Warnings...)
		if r.Unrecorded != nil {
			fmt.Fprintf(s.Err, "WARNING: %v\n", r.Unrecorded)
		}
	}
	if opts.progress != progress.ModeQuiet && opts.progress != progress.ModeRawJSON {
		tellWarnings(s, warnings)
	}
}

// writeMetadata writes what was built, by target.
func (o bakeOptions) writeMetadata(builds []engine.NamedBuild, results []engine.BuildResult) error {
	if o.metadataFile == "" {
		return nil
	}
	all := map[string]any{}
	for i, b := range builds {
		all[b.Name] = buildMetadata(results[i])
	}
	return writeJSONFile(o.metadataFile, all)
}
