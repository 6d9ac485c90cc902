package bakefile

import (
	"errors"
	"net/url"
	"os"
	"path"
	"path/filepath"
	"strings"

	"github.com/hashicorp/hcl/v2"
	"github.com/zclconf/go-cty/cty"
	"github.com/zclconf/go-cty/cty/convert"

	"strake/internal/bake"
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

const here = bake.Here

// isRemote reports whether a path is the address of a repository or of a file.
func isRemote(p string) bool {
	if strings.HasPrefix(p, "https://") || strings.HasPrefix(p, "http://") {
		return true
	}
	_, is, err := dockerfile.ParseGit(p)
	return is && err == nil
}

// bySSH reports whether an address is of a repository that is fetched by SSH.
func bySSH(p string) bool {
	git, is, err := dockerfile.ParseGit(p)
	return is && err == nil && (strings.HasPrefix(git.Remote, "ssh://") || !strings.Contains(git.Remote, "://"))
}

// places are where a target's context and Dockerfile are.
type places struct {
	context    string
	dockerfile string
	contexts   map[string]string
}

// place settles the paths of a target, and makes its context what is printed. Where origin is not "", they are paths in that
// repository or archive.
func (t *target) place(origin string) (p places, err error) {
	context, file := *t.Context, *t.Dockerfile
	if context == "-" {
		return p, errors.New("context from stdin not allowed in bake")
	}
	if file == "-" {
		return p, errors.New("dockerfile from stdin not allowed in bake")
	}
	local := origin == ""
	switch at, ok := strings.CutPrefix(context, here); {
	case ok:
		p.context, local = path.Clean(at), true
		t.Context = &p.context
	case isRemote(context):
		p.context, local = context, false
	case local:
		p.context = path.Clean(context)
		t.Context = &p.context
	default:
		shown := withSubdir(origin, context)
		p.context, t.Context = inOrigin(origin, context), &shown
	}
	if p.dockerfile, err = placeDockerfile(file, p.context, local); err != nil {
		return p, err
	}
	if local && origin != "" && t.DockerfileInline == nil && !strings.HasPrefix(file, here) && !isRemote(file) {
		if _, err := os.Stat(p.dockerfile); err == nil { // it would be taken for the one beside the definition
			return p, errors.New("reading a dockerfile for a remote build invocation is currently not supported")
		}
	}
	p.contexts = map[string]string{}
	for k, v := range t.Contexts {
		if local, ok := strings.CutPrefix(v, here); ok {
			v = path.Clean(local)
		} else if origin != "" && !isRemote(v) && !strings.HasPrefix(v, "target:") && !strings.HasPrefix(v, "docker-image:") {
			v = inOrigin(origin, v)
		}
		p.contexts[k] = v
	}
	return p, t.placeOutputs()
}

// placeDockerfile is where the Dockerfile of a context is; local says that the context is a directory here.
func placeDockerfile(file, context string, local bool) (string, error) {
	if at, ok := strings.CutPrefix(file, here); ok {
		return filepath.Abs(path.Clean(at))
	}
	if isRemote(file) {
		return file, nil
	}
	if file = path.Clean(file); local && !filepath.IsAbs(file) {
		file = filepath.Join(context, file)
	}
	return file, nil
}

// inOrigin is a directory of the repository or archive that defines the target, as a context of a build. All of a repository is its
// address.
func inOrigin(origin, dir string) string {
	if _, is, err := dockerfile.ParseGit(origin); is && err == nil && path.Clean(dir) == "." {
		return origin
	}
	return bake.OriginScheme + path.Clean(dir)
}

// withSubdir is a directory of a repository as an address, which is what is printed; of an archive it is that of the archive.
func withSubdir(origin, dir string) string {
	dir = path.Clean(dir)
	git, is, err := dockerfile.ParseGit(origin)
	if !is || err != nil || dir == "." {
		return origin
	}
	if git.Subdir != "" {
		dir = path.Join(git.Subdir, dir)
	}
	address, fragment, given := strings.Cut(origin, "#")
	if u, err := url.Parse(origin); !given && err == nil && u.Query().Has("subdir") {
		q := u.Query()
		q.Set("subdir", dir)
		u.RawQuery = q.Encode()
		return u.String()
	}
	ref, _, _ := strings.Cut(fragment, ":")
	return address + "#" + ref + ":" + dir
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
