package bakefile

import (
	"errors"
	"fmt"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/docker/buildx/bake/hclparser"
	"github.com/hashicorp/hcl/v2"
	"github.com/hashicorp/hcl/v2/hclparse"

	"strake/internal/bake"
)

// environment reports whether variables may come from the environment.
func environment() bool {
	disabled, err := strconv.ParseBool(os.Getenv("BUILDX_BAKE_DISABLE_VARS_ENV_LOOKUP"))
	return err != nil || !disabled
}

// parsed is what the files say.
type parsed struct {
	config
	variables []*hclparser.Variable
}

// parse reads all files and merges them in their order, those of compose first.
func parse(req bake.Request) (*parsed, error) {
	p := &parsed{}
	composes, hcls, err := sortFiles(req)
	if err != nil {
		return nil, err
	}
	if len(composes) > 0 {
		from, err := parseCompose(composes, req)
		if err != nil {
			return nil, fmt.Errorf("failed to parse compose file: %w", err)
		}
		if req.FileRelative {
			from.baseOn(composes[0].Name)
		}
		p.Groups, p.Targets = append([]*group{}, from.Groups...), append([]*target{}, from.Targets...)
		p.dedupe()
	}
	if len(hcls) > 0 {
		if err := p.evaluate(req, hcls); err != nil {
			return nil, err
		}
	}
	if req.FileRelative {
		p.rebase()
	}
	return p, nil
}

// sortFiles tells files of compose from others, by their names or by what they hold.
func sortFiles(req bake.Request) (composes []bake.File, hcls []*hcl.File, err error) {
	for _, f := range req.Files {
		is, composeErr := isCompose(f, req)
		if is {
			if composeErr != nil {
				return nil, nil, composeErr
			}
			composes = append(composes, f)
			continue
		}
		hf, isHCL, err := parseHCL(f)
		if err != nil {
			if !isHCL && composeErr != nil {
				err = fmt.Errorf("failed to parse %s: parsing yaml: %w, parsing hcl: %w", f.Name, composeErr, err)
			}
			return nil, nil, err
		}
		hcls = append(hcls, hf)
	}
	return composes, hcls, nil
}

// parseHCL parses HCL or its JSON, by the name, else as whichever it is.
func parseHCL(f bake.File) (file *hcl.File, is bool, err error) {
	parser := hclparse.NewParser()
	var diags hcl.Diagnostics
	switch {
	case strings.HasSuffix(f.Name, ".json"):
		file, diags = parser.ParseJSON(f.Data, f.Name)
	case strings.HasSuffix(f.Name, ".hcl"):
		file, diags = parser.ParseHCL(f.Data, f.Name)
	default:
		if file, diags = parser.ParseHCL(f.Data, f.Name+".hcl"); diags.HasErrors() {
			file, asJSON := hclparse.NewParser().ParseJSON(f.Data, f.Name+".json")
			if !asJSON.HasErrors() {
				return file, true, nil
			}
			return nil, false, diags
		}
	}
	if diags.HasErrors() {
		return nil, true, diags
	}
	return file, true, nil
}

// evaluate adds what HCL says.
func (p *parsed) evaluate(req bake.Request, files []*hcl.File) error {
	lookup := func(key string) (string, bool) {
		if v, ok := req.Vars[key]; ok {
			return v, true
		}
		if environment() {
			return os.LookupEnv(key)
		}
		return "", false
	}
	meta, diags := hclparser.Parse(hclparser.MergeFiles(files), hclparser.Opt{
		LookupVar: lookup, Vars: req.Builtin, ValidateLabel: checkName,
	}, &p.config)
	if diags.HasErrors() {
		return diags
	}
	for _, renamed := range meta.Renamed {
		for name, made := range renamed { // of a matrix
			if made = dedup(made); len(made) != 1 || made[0] != name {
				p.Groups = append(p.Groups, &group{Name: name, Targets: made})
			}
		}
	}
	p.dedupe()
	p.variables = meta.AllVariables
	slices.SortFunc(p.variables, func(a, b *hclparser.Variable) int { return strings.Compare(a.Name, b.Name) })
	return nil
}

var targetName = regexp.MustCompile(`^[a-zA-Z0-9_-]+$`)

func checkName(name string) error {
	if !targetName.MatchString(name) {
		return fmt.Errorf("only %q are allowed", `[a-zA-Z0-9_-]+`)
	}
	return nil
}

// sanitize makes the name of a service that of a target.
func sanitize(name string) string { return strings.ReplaceAll(name, ".", "_") }

// dedupe merges targets of one name.
func (c *config) dedupe() {
	for _, g := range c.Groups {
		g.Targets = dedup(g.Targets)
	}
	var list []*target
	for _, t := range c.Targets {
		i := slices.IndexFunc(list, func(o *target) bool { return o.Name == t.Name })
		switch {
		case i < 0:
			list = append(list, t)
		case list[i] != t:
			list[i].Merge(t)
		}
	}
	c.Targets = list
}

// explain finds the place in a file that an error is about.
func explain(err error, files []bake.File) *bake.Failure {
	f := &bake.Failure{Text: err.Error()}
	var diags hcl.Diagnostics
	if !errors.As(err, &diags) {
		return f
	}
	for _, d := range diags {
		if d.Severity != hcl.DiagError || d.Subject == nil {
			continue
		}
		i := slices.IndexFunc(files, func(f bake.File) bool { return f.Name == d.Subject.Filename })
		if i >= 0 {
			f.File, f.First, f.Last = d.Subject.Filename, d.Subject.Start.Line, d.Subject.End.Line
			f.Source = files[i].Data
		}
		break
	}
	return f
}
