package bakefile

import (
	"encoding/json"
	"errors"
	"maps"
	"slices"
	"strings"

	"github.com/hashicorp/hcl/v2"
	"github.com/zclconf/go-cty/cty"
	"github.com/zclconf/go-cty/cty/convert"
)

// config is what all files say together.
type config struct {
	Groups  []*group  `json:"group" hcl:"group,block" cty:"group"`
	Targets []*target `json:"target" hcl:"target,block" cty:"target"`
}

type group struct {
	Name        string   `json:"-" hcl:"name,label" cty:"name"`
	Description string   `json:"description,omitempty" hcl:"description,optional" cty:"description"`
	Targets     []string `json:"targets" hcl:"targets" cty:"targets"`
}

// target has its attributes in the order in which --print shows them.
type target struct {
	Name        string `json:"-" hcl:"name,label" cty:"name"`
	Description string `json:"description,omitempty" hcl:"description,optional" cty:"description"`

	Inherits []string `json:"inherits,omitempty" hcl:"inherits,optional" cty:"inherits"`

	Annotations      []string           `json:"annotations,omitempty" hcl:"annotations,optional" cty:"annotations"`
	Attest           attests            `json:"attest,omitempty" hcl:"attest,optional" cty:"attest"`
	Context          *string            `json:"context,omitempty" hcl:"context,optional" cty:"context"`
	Contexts         map[string]string  `json:"contexts,omitempty" hcl:"contexts,optional" cty:"contexts"`
	Dockerfile       *string            `json:"dockerfile,omitempty" hcl:"dockerfile,optional" cty:"dockerfile"`
	DockerfileInline *string            `json:"dockerfile-inline,omitempty" hcl:"dockerfile-inline,optional" cty:"dockerfile-inline"`
	Args             map[string]*string `json:"args,omitempty" hcl:"args,optional" cty:"args"`
	Labels           map[string]*string `json:"labels,omitempty" hcl:"labels,optional" cty:"labels"`
	Tags             []string           `json:"tags,omitempty" hcl:"tags,optional" cty:"tags"`
	CacheFrom        caches             `json:"cache-from,omitempty" hcl:"cache-from,optional" cty:"cache-from"`
	CacheTo          caches             `json:"cache-to,omitempty" hcl:"cache-to,optional" cty:"cache-to"`
	Target           *string            `json:"target,omitempty" hcl:"target,optional" cty:"target"`
	Secrets          secrets            `json:"secret,omitempty" hcl:"secret,optional" cty:"secret"`
	SSH              sshKeys            `json:"ssh,omitempty" hcl:"ssh,optional" cty:"ssh"`
	Platforms        []string           `json:"platforms,omitempty" hcl:"platforms,optional" cty:"platforms"`
	Outputs          outputs            `json:"output,omitempty" hcl:"output,optional" cty:"output"`
	Pull             *bool              `json:"pull,omitempty" hcl:"pull,optional" cty:"pull"`
	NoCache          *bool              `json:"no-cache,omitempty" hcl:"no-cache,optional" cty:"no-cache"`
	NetworkMode      *string            `json:"network,omitempty" hcl:"network,optional" cty:"network"`
	NoCacheFilter    []string           `json:"no-cache-filter,omitempty" hcl:"no-cache-filter,optional" cty:"no-cache-filter"`
	ShmSize          *string            `json:"shm-size,omitempty" hcl:"shm-size,optional" cty:"shm-size"`
	Ulimits          []string           `json:"ulimits,omitempty" hcl:"ulimits,optional" cty:"ulimits"`
	Resources        *resources         `json:"resources,omitempty" hcl:"resources,optional" cty:"resources"`
	Call             *string            `json:"call,omitempty" hcl:"call,optional" cty:"call"`
	Entitlements     []string           `json:"entitlements,omitempty" hcl:"entitlements,optional" cty:"entitlements"`
	ExtraHosts       map[string]*string `json:"extra-hosts,omitempty" hcl:"extra-hosts,optional" cty:"extra-hosts"`
	Policy           policies           `json:"policy,omitempty" hcl:"policy,optional" cty:"policy"`

	linked bool // it is only built for others, which name it as a context

	base bases
}

// escape is how a text is written in HCL so that it stays as it is.
var escape = strings.NewReplacer("${", "$${", "%{", "%%{")

func escaped(m map[string]*string) map[string]*string {
	out := maps.Clone(m)
	for k, v := range m {
		if v != nil {
			text := escape.Replace(*v)
			out[k] = &text
		}
	}
	return out
}

// MarshalJSON makes what is printed a bake file again.
func (t *target) MarshalJSON() ([]byte, error) {
	type plain target // without this method
	out := plain(*t)
	out.Annotations = slices.Clone(t.Annotations)
	for i, v := range out.Annotations {
		out.Annotations[i] = escape.Replace(v)
	}
	if t.DockerfileInline != nil {
		text := escape.Replace(*t.DockerfileInline)
		out.DockerfileInline = &text
	}
	out.Labels, out.Args, out.ExtraHosts = escaped(t.Labels), escaped(t.Args), escaped(t.ExtraHosts)
	return json.Marshal(out)
}

// set takes a value that is given.
func set[T any](to **T, from *T) {
	if from != nil {
		*to = from
	}
}

// put takes the values of a map that are given.
func put(to *map[string]*string, from map[string]*string) {
	for k, v := range from {
		if v == nil {
			continue
		}
		if *to == nil {
			*to = map[string]*string{}
		}
		(*to)[k] = v
	}
}

// Merge takes over what t2 says; hclparser calls it for a block that is there again.
func (t *target) Merge(t2 *target) {
	t.base.merge(t2)
	set(&t.Context, t2.Context)
	set(&t.Dockerfile, t2.Dockerfile)
	set(&t.DockerfileInline, t2.DockerfileInline)
	set(&t.Target, t2.Target)
	set(&t.Call, t2.Call)
	set(&t.Pull, t2.Pull)
	set(&t.NoCache, t2.NoCache)
	set(&t.NetworkMode, t2.NetworkMode)
	set(&t.ShmSize, t2.ShmSize)
	put(&t.Args, t2.Args)
	put(&t.Labels, t2.Labels)
	put(&t.ExtraHosts, t2.ExtraHosts)
	for k, v := range t2.Contexts {
		if t.Contexts == nil {
			t.Contexts = map[string]string{}
		}
		t.Contexts[k] = v
	}
	if t2.Description != "" {
		t.Description = t2.Description
	}
	t.replaceLists(t2)
	t.Annotations = append(t.Annotations, t2.Annotations...)
	t.Attest = t.Attest.merge(t2.Attest)
	t.Policy = append(t.Policy, t2.Policy...)
	t.Secrets = t.Secrets.merge(t2.Secrets)
	t.SSH = t.SSH.merge(t2.SSH)
	t.CacheFrom = t.CacheFrom.merge(t2.CacheFrom)
	t.NoCacheFilter = append(t.NoCacheFilter, t2.NoCacheFilter...)
	t.Ulimits = append(t.Ulimits, t2.Ulimits...)
	t.Entitlements = append(t.Entitlements, t2.Entitlements...)
	t.Inherits = append(t.Inherits, t2.Inherits...)
	if t2.Resources != nil {
		t.Resources = t.Resources.merge(t2.Resources)
	}
}

// replaceLists takes over the lists that are not added to.
func (t *target) replaceLists(t2 *target) {
	if t2.Tags != nil {
		t.Tags = t2.Tags
	}
	if t2.Platforms != nil {
		t.Platforms = t2.Platforms
	}
	if t2.CacheTo != nil {
		t.CacheTo = t2.CacheTo
	}
	if t2.Outputs != nil {
		t.Outputs = t2.Outputs
	}
}

// normalize removes what is said twice, and nothing.
func (t *target) normalize() {
	t.Annotations = once(t.Annotations)
	t.Attest = t.Attest.normalize()
	t.Tags = once(t.Tags)
	t.Secrets = t.Secrets.normalize()
	t.SSH = t.SSH.normalize()
	t.Platforms = once(t.Platforms)
	t.CacheFrom = t.CacheFrom.normalize()
	t.CacheTo = t.CacheTo.normalize()
	t.Outputs = t.Outputs.normalize()
	t.NoCacheFilter = once(t.NoCacheFilter)
	t.Ulimits = once(t.Ulimits)
	if t.NetworkMode != nil && *t.NetworkMode == "host" {
		t.Entitlements = append(t.Entitlements, "network.host")
	}
	t.Entitlements = once(t.Entitlements)
	maps.DeleteFunc(t.Contexts, func(_, v string) bool { return v == "" })
	if len(t.Contexts) == 0 {
		t.Contexts = nil
	}
}

// once leaves the first of each text that is not empty.
func once(s []string) []string {
	var out []string
	for _, v := range s {
		if v != "" && !slices.Contains(out, v) {
			out = append(out, v)
		}
	}
	return out
}

// dedup leaves the first of each.
func dedup(s []string) []string {
	var out []string
	for _, v := range s {
		if !slices.Contains(out, v) {
			out = append(out, v)
		}
	}
	return out
}

// attribute is an attribute of a block, or nil.
func attribute(block *hcl.Block, names ...string) (map[string]*hcl.Attribute, hcl.Diagnostics) {
	schema := &hcl.BodySchema{}
	for _, name := range names {
		schema.Attributes = append(schema.Attributes, hcl.AttributeSchema{Name: name})
	}
	content, _, diags := block.Body.PartialContent(schema)
	if diags.HasErrors() {
		return nil, diags
	}
	return content.Attributes, nil
}

// evaluator evaluates what an expression depends on.
type evaluator = func(hcl.Expression) hcl.Diagnostics

// GetEvalContexts is hclparser's.
func (*group) GetEvalContexts(ectx *hcl.EvalContext, block *hcl.Block, _ func(hcl.Expression) hcl.Diagnostics) ([]*hcl.EvalContext, error) {
	attrs, diags := attribute(block, "matrix")
	if diags != nil {
		return nil, diags
	}
	if attrs["matrix"] != nil {
		return nil, errors.New("matrix is not supported for groups")
	}
	return []*hcl.EvalContext{ectx}, nil
}

// GetName is hclparser's.
func (*group) GetName(_ *hcl.EvalContext, block *hcl.Block, _ func(hcl.Expression) hcl.Diagnostics) (string, error) {
	attrs, diags := attribute(block, "name", "matrix")
	switch {
	case diags != nil:
		return "", diags
	case attrs["name"] != nil:
		return "", errors.New("name is not supported for groups")
	case attrs["matrix"] != nil:
		return "", errors.New("matrix is not supported for groups")
	}
	return block.Labels[0], nil
}

// maxMatrix bounds the targets that one block makes.
const maxMatrix = 10_000

// GetEvalContexts is hclparser's: one per element of the matrix.
func (*target) GetEvalContexts(ectx *hcl.EvalContext, block *hcl.Block, load func(hcl.Expression) hcl.Diagnostics) ([]*hcl.EvalContext, error) {
	attrs, diags := attribute(block, "matrix")
	if diags != nil {
		return nil, diags
	}
	attr := attrs["matrix"]
	if attr == nil {
		return []*hcl.EvalContext{ectx}, nil
	}
	value, err := evaluate(ectx, attr, load)
	if err != nil {
		return nil, err
	}
	if !value.Type().IsMapType() && !value.Type().IsObjectType() || value.IsNull() {
		return nil, errors.New("matrix must be a map")
	}
	made := []*hcl.EvalContext{ectx}
	matrix := value.AsValueMap()
	for _, key := range slices.Sorted(maps.Keys(matrix)) {
		values := matrix[key]
		if !values.CanIterateElements() {
			return nil, errors.New("matrix values must be a list")
		}
		var next []*hcl.EvalContext
		for _, v := range values.AsValueSlice() {
			for _, e := range made {
				child := ectx.NewChild()
				child.Variables = map[string]cty.Value{}
				if e != ectx {
					maps.Copy(child.Variables, e.Variables)
				}
				child.Variables[key] = v
				next = append(next, child)
			}
			if len(next) > maxMatrix {
				return nil, errors.New("the matrix makes more than 10000 targets")
			}
		}
		made = next
	}
	return made, nil
}

func evaluate(ectx *hcl.EvalContext, attr *hcl.Attribute, load evaluator) (cty.Value, error) {
	if diags := load(attr.Expr); diags.HasErrors() {
		return cty.NilVal, diags
	}
	value, diags := attr.Expr.Value(ectx)
	if diags.HasErrors() {
		return cty.NilVal, diags
	}
	return value, nil
}

// GetName is hclparser's.
func (*target) GetName(ectx *hcl.EvalContext, block *hcl.Block, load func(hcl.Expression) hcl.Diagnostics) (string, error) {
	attrs, diags := attribute(block, "name", "matrix")
	switch {
	case diags != nil:
		return "", diags
	case attrs["name"] == nil:
		return block.Labels[0], nil
	case attrs["matrix"] == nil:
		return "", errors.New("name requires matrix")
	}
	value, err := evaluate(ectx, attrs["name"], load)
	if err != nil {
		return "", err
	}
	if value, err = convert.Convert(value, cty.String); err != nil {
		return "", err
	}
	if value.IsNull() {
		return "", errors.New("name must not be null")
	}
	return value.AsString(), nil
}
