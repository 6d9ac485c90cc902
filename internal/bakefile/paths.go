package bakefile

import (
	"errors"
	"os"
	"path"
	"path/filepath"
	"strings"

	"github.com/hashicorp/hcl/v2"
	"github.com/zclconf/go-cty/cty"
	"github.com/zclconf/go-cty/cty/convert"

	"strake/internal/dockerfile"
)

// bases are the directories that the paths of a target are relative to, where those of
// files are (BUILDX_BAKE_FILE_RELATIVE_PATHS). A nil one is the working directory.
type bases struct {
	implied *string // of a context that is not said
	use     bool    // the context is the implied one
	context *string
	ref     string // the target whose context it is
	named   map[string]string
}

// merge is target.Merge's.
func (b *bases) merge(t2 *target) {
	if t2.base.implied != nil {
		b.implied, b.use = t2.base.implied, t2.base.use
	}
	if t2.Context != nil {
		b.context, b.ref = t2.base.context, t2.base.ref
	}
	for k := range t2.Contexts {
		if base, ok := t2.base.named[k]; ok {
			b.set(k, base)
		} else {
			delete(b.named, k)
		}
	}
}

func (b *bases) set(name, base string) {
	if b.named == nil {
		b.named = map[string]string{}
	}
	b.named[name] = base
}

// SetBlockSource is hclparser's.
func (t *target) SetBlockSource(block *hcl.Block) {
	base := fileDir(block.DefRange.Filename)
	t.base.implied = &base
	attrs, diags := attribute(block, "context", "contexts")
	if diags != nil {
		return
	}
	if attr := attrs["context"]; attr != nil {
		t.base.context, t.base.ref = &base, contextOf(attr.Expr)
	}
	if attrs["contexts"] != nil {
		for k := range t.Contexts {
			t.base.set(k, base)
		}
	}
}

// contextOf is the target of an expression target.NAME.context.
func contextOf(expr hcl.Expression) string {
	steps, diags := hcl.AbsTraversalForExpr(expr)
	if diags.HasErrors() || len(steps) != 3 || steps.RootName() != "target" {
		return ""
	}
	if field, ok := steps[2].(hcl.TraverseAttr); !ok || field.Name != "context" {
		return ""
	}
	switch step := steps[1].(type) {
	case hcl.TraverseAttr:
		return step.Name
	case hcl.TraverseIndex:
		if key, err := convert.Convert(step.Key, cty.String); err == nil && !key.IsNull() && key.IsKnown() {
			return key.AsString()
		}
	}
	return ""
}

// fileDir is the directory of a file here, or "".
func fileDir(name string) string {
	if name == "" || name == "-" || isRemote(name) {
		return ""
	}
	return filepath.Dir(name)
}

// rebase makes the paths of all targets relative to their files.
func (c *config) rebase() {
	for _, t := range c.Targets {
		if ref := c.find(t.base.ref); ref != nil {
			switch {
			case ref.base.context != nil:
				t.base.context = ref.base.context
			case ref.base.implied != nil:
				t.base.context = ref.base.implied
			}
		}
		switch {
		case t.Context != nil && t.base.context != nil:
			at := under(*t.base.context, *t.Context)
			t.Context = &at
		case t.Context == nil && t.base.implied != nil:
			t.base.use = true
		}
		for k, v := range t.Contexts {
			if base, ok := t.base.named[k]; ok {
				t.Contexts[k] = under(base, v)
			}
		}
	}
}

func under(base, p string) string {
	if base == "" || p == "" || filepath.IsAbs(p) || isRemote(p) {
		return p
	}
	for _, scheme := range []string{here, "target:", "docker-image:", "oci-layout://"} {
		if strings.HasPrefix(p, scheme) {
			return p
		}
	}
	return filepath.Join(base, p)
}

// here begins a path that is of the working directory, wherever the files are from.
const here = "cwd://"

// isRemote reports whether a path is the address of a repository or of a file.
func isRemote(p string) bool {
	if strings.HasPrefix(p, "https://") || strings.HasPrefix(p, "http://") {
		return true
	}
	_, is, err := dockerfile.ParseGit(p)
	return is && err == nil
}

// places are where a target's context and Dockerfile are.
type places struct {
	dockerfile string
	contexts   map[string]string
}

// place settles the paths of a target, and cleans its context.
func (t *target) place() (p places, err error) {
	context, file := *t.Context, *t.Dockerfile
	if context == "-" {
		return p, errors.New("context from stdin not allowed in bake")
	}
	if file == "-" {
		return p, errors.New("dockerfile from stdin not allowed in bake")
	}
	if local, ok := strings.CutPrefix(context, here); ok {
		context = path.Clean(local)
	} else if !isRemote(context) {
		context = path.Clean(context)
	}
	switch local, ok := strings.CutPrefix(file, here); {
	case ok:
		if file, err = filepath.Abs(path.Clean(local)); err != nil {
			return p, err
		}
	case isRemote(file):
	default:
		if file = path.Clean(file); !isRemote(context) && !filepath.IsAbs(file) {
			file = filepath.Join(context, file)
		}
	}
	p.dockerfile, p.contexts = file, map[string]string{}
	for k, v := range t.Contexts {
		if local, ok := strings.CutPrefix(v, here); ok {
			v = path.Clean(local)
		}
		p.contexts[k] = v
	}
	t.Context = &context
	return p, t.placeOutputs()
}

// placeOutputs writes - for an archive that goes to standard output.
func (t *target) placeOutputs() error {
	stdout := 0
	for _, out := range t.Outputs {
		archive := out.Type == "tar" || (out.Type == "oci" || out.Type == "docker") && !strings.EqualFold(out.Attrs["tar"], "false")
		if archive && out.Attrs["dest"] == "" && out.Type != "docker" {
			out.Attrs["dest"] = "-"
		}
		if archive && out.Attrs["dest"] == "-" {
			stdout++
		}
		if out.Type == "local" && out.Attrs["dest"] == "" {
			return errors.New("dest is required for local exporter")
		}
	}
	if stdout > 1 {
		return errors.New("multiple outputs configured to write to stdout")
	}
	return nil
}

// withEpoch gives a target the time of the environment, unless it has one.
func (t *target) withEpoch() {
	const name = "SOURCE_DATE_EPOCH"
	if _, ok := t.Args[name]; ok {
		return
	}
	if value := os.Getenv(name); value != "" {
		put(&t.Args, map[string]*string{name: &value})
	}
}
