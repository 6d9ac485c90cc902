package bakefile

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/tonistiigi/go-csvvalue"
	"github.com/zclconf/go-cty/cty"
	"github.com/zclconf/go-cty/cty/convert"
	"github.com/zclconf/go-cty/cty/gocty"
)

// What the commands of a target are given: secrets, agents, resources; and the policy
// over its sources.

type secret struct {
	ID   string `json:"id,omitempty"`
	File string `json:"src,omitempty"`
	Env  string `json:"env,omitempty"`
}

type secrets []*secret

func parseSecret(in string) (*secret, error) {
	fields, err := csvvalue.Fields(in, nil)
	if err != nil {
		return nil, fmt.Errorf("failed to parse csv secret: %w", err)
	}
	s, kind := &secret{}, ""
	for _, field := range fields {
		key, value, ok := strings.Cut(field, "=")
		if !ok {
			return nil, fmt.Errorf("invalid field '%s' must be a key=value pair", field)
		}
		switch key = strings.ToLower(key); key {
		case "type":
			if value != "file" && value != "env" {
				return nil, fmt.Errorf("unsupported secret type %q", value)
			}
			kind = value
		case "id":
			s.ID = value
		case "source", "src":
			s.File = value
		case "env":
			s.Env = value
		default:
			return nil, fmt.Errorf("unexpected key '%s' in '%s'", key, field)
		}
	}
	if kind == "env" && s.Env == "" {
		s.Env, s.File = s.File, ""
	}
	return s, nil
}

func parseSecrets(in []string) (secrets, error) {
	list := secrets{}
	for _, text := range in {
		if text == "" {
			continue
		}
		s, err := parseSecret(text)
		if err != nil {
			return nil, err
		}
		list = append(list, s)
	}
	return list, nil
}

func (s secrets) merge(other secrets) secrets {
	if s == nil || other == nil {
		return append(s, other...)
	}
	return append(s, other...).normalize()
}

func (s secrets) normalize() secrets {
	return lastOf(s, func(e *secret) string { return e.ID })
}

func secretType() cty.Type {
	return cty.ObjectWithOptionalAttrs(map[string]cty.Type{"id": cty.String, "src": cty.String, "env": cty.String}, []string{"id", "src", "env"})
}

// FromCtyValue is hclparser's.
func (s *secrets) FromCtyValue(in cty.Value, p cty.Path) error {
	*s = secrets{}
	return elements(in, p, secretType(), func(v cty.Value) error {
		if v.Type() == cty.String {
			one, err := parseSecret(v.AsString())
			if err != nil {
				return p.NewError(err)
			}
			*s = append(*s, one)
			return nil
		}
		conv, err := convert.Convert(v, secretType())
		if err != nil {
			return err
		}
		one := &secret{}
		for name, field := range map[string]*string{"id": &one.ID, "src": &one.File, "env": &one.Env} {
			if value := conv.GetAttr(name); value.IsKnown() {
				*field = text(value)
			}
		}
		*s = append(*s, one)
		return nil
	})
}

// ToCtyValue is hclparser's.
func (s secrets) ToCtyValue() cty.Value {
	return list(s, secretType(), func(e *secret) cty.Value {
		return cty.ObjectVal(map[string]cty.Value{"id": cty.StringVal(e.ID), "src": cty.StringVal(e.File), "env": cty.StringVal(e.Env)})
	})
}

func (s secrets) flags() (list []string) {
	for _, one := range s {
		e := entry{Attrs: map[string]string{}}
		for key, value := range map[string]string{"id": one.ID, "src": one.File, "env": one.Env} {
			if value != "" {
				e.Attrs[key] = value
			}
		}
		list = append(list, e.pairs("id", "src", "env"))
	}
	return list
}

type sshKey struct {
	ID    string   `json:"id,omitempty" cty:"id"`
	Paths []string `json:"paths,omitempty" cty:"paths"`
}

type sshKeys []*sshKey

func parseSSH(in string) *sshKey {
	id, paths, given := strings.Cut(in, "=")
	k := &sshKey{ID: id}
	if given {
		k.Paths = strings.Split(paths, ",")
	}
	return k
}

func parseSSHs(in []string) sshKeys {
	list := sshKeys{}
	for _, text := range in {
		if text != "" {
			list = append(list, parseSSH(text))
		}
	}
	return list
}

func (s sshKeys) merge(other sshKeys) sshKeys {
	if s == nil || other == nil {
		return append(s, other...)
	}
	return append(s, other...).normalize()
}

func (s sshKeys) normalize() sshKeys {
	return lastOf(s, func(k *sshKey) string { return k.ID })
}

func (s sshKeys) sort() {
	slices.SortFunc(s, func(a, b *sshKey) int {
		if a.ID != b.ID {
			return strings.Compare(a.ID, b.ID)
		}
		return slices.Compare(a.Paths, b.Paths)
	})
}

func sshType() cty.Type {
	return cty.ObjectWithOptionalAttrs(map[string]cty.Type{"id": cty.String, "paths": cty.List(cty.String)}, []string{"id", "paths"})
}

// FromCtyValue is hclparser's.
func (s *sshKeys) FromCtyValue(in cty.Value, p cty.Path) error {
	*s = sshKeys{}
	return elements(in, p, sshType(), func(v cty.Value) error {
		if v.Type() == cty.String {
			*s = append(*s, parseSSH(v.AsString()))
			return nil
		}
		conv, err := convert.Convert(v, sshType())
		if err != nil {
			return err
		}
		k := &sshKey{}
		if id := conv.GetAttr("id"); id.IsKnown() {
			k.ID = text(id)
		}
		if paths := conv.GetAttr("paths"); !paths.IsNull() && paths.IsKnown() {
			if err := gocty.FromCtyValue(paths, &k.Paths); err != nil {
				return err
			}
		}
		*s = append(*s, k)
		return nil
	})
}

// ToCtyValue is hclparser's.
func (s sshKeys) ToCtyValue() cty.Value {
	return list(s, sshType(), func(k *sshKey) cty.Value {
		paths := list(k.Paths, cty.String, cty.StringVal)
		return cty.ObjectVal(map[string]cty.Value{"id": cty.StringVal(k.ID), "paths": paths})
	})
}

func (s sshKeys) flags() (list []string) {
	for _, k := range s {
		text := k.ID
		if len(k.Paths) > 0 {
			text += "=" + strings.Join(k.Paths, ",")
		}
		list = append(list, text)
	}
	return list
}

// resources bound the commands of a target.
type resources struct {
	Memory     *string `json:"memory,omitempty"`
	MemorySwap *string `json:"memory-swap,omitempty"`
	CPUShares  *int64  `json:"cpu-shares,omitempty"`
	CPUPeriod  *int64  `json:"cpu-period,omitempty"`
	CPUQuota   *int64  `json:"cpu-quota,omitempty"`
	CPUSetCPUs *string `json:"cpuset-cpus,omitempty"`
	CPUSetMems *string `json:"cpuset-mems,omitempty"`
}

func (r *resources) texts() map[string]**string {
	return map[string]**string{"memory": &r.Memory, "memory-swap": &r.MemorySwap, "cpuset-cpus": &r.CPUSetCPUs, "cpuset-mems": &r.CPUSetMems}
}

func (r *resources) numbers() map[string]**int64 {
	return map[string]**int64{"cpu-shares": &r.CPUShares, "cpu-period": &r.CPUPeriod, "cpu-quota": &r.CPUQuota}
}

// merge is r with what other says.
func (r *resources) merge(other *resources) *resources {
	merged := resources{}
	for _, from := range []*resources{r, other} {
		if from == nil {
			continue
		}
		texts, numbers := merged.texts(), merged.numbers()
		for name, value := range from.texts() {
			if *value != nil {
				*texts[name] = *value
			}
		}
		for name, value := range from.numbers() {
			if *value != nil {
				*numbers[name] = *value
			}
		}
	}
	return &merged
}

// set is for one field of --set.
func (r *resources) set(name, value string) error {
	if field, ok := r.texts()[name]; ok {
		*field = &value
		return nil
	}
	field, ok := r.numbers()[name]
	if !ok {
		return fmt.Errorf("unknown resources key %s", name)
	}
	n, err := strconv.ParseInt(value, 10, 64)
	if err != nil {
		return fmt.Errorf("invalid value %s for int64 key resources.%s", value, name)
	}
	*field = &n
	return nil
}

func resourcesType() cty.Type {
	var r resources
	types := map[string]cty.Type{}
	var names []string
	for name := range r.texts() {
		types[name] = cty.String
	}
	for name := range r.numbers() {
		types[name] = cty.Number
	}
	for name := range types {
		names = append(names, name)
	}
	return cty.ObjectWithOptionalAttrs(types, names)
}

// FromCtyValue is hclparser's.
func (r *resources) FromCtyValue(in cty.Value, p cty.Path) error {
	conv, err := convert.Convert(in, resourcesType())
	if err != nil {
		return p.NewError(err)
	}
	for name, field := range r.texts() {
		if v := conv.GetAttr(name); !v.IsNull() && v.IsKnown() {
			s := v.AsString()
			*field = &s
		}
	}
	for name, field := range r.numbers() {
		if v := conv.GetAttr(name); !v.IsNull() && v.IsKnown() {
			var n int64
			if err := gocty.FromCtyValue(v, &n); err != nil {
				return p.NewError(err)
			}
			*field = &n
		}
	}
	return nil
}

// ToCtyValue is hclparser's.
func (r *resources) ToCtyValue() cty.Value {
	if r == nil {
		return cty.NullVal(resourcesType())
	}
	vals := map[string]cty.Value{}
	for name, field := range r.texts() {
		vals[name] = cty.NullVal(cty.String)
		if *field != nil {
			vals[name] = cty.StringVal(**field)
		}
	}
	for name, field := range r.numbers() {
		vals[name] = cty.NullVal(cty.Number)
		if *field != nil {
			vals[name] = cty.NumberIntVal(**field)
		}
	}
	return cty.ObjectVal(vals)
}

// flags are those of build that say the same.
func (r *resources) flags() (list []string) {
	if r == nil {
		return nil
	}
	for name, field := range r.texts() {
		if *field != nil {
			list = append(list, name+"="+**field)
		}
	}
	for name, field := range r.numbers() {
		if *field != nil {
			list = append(list, name+"="+strconv.FormatInt(**field, 10))
		}
	}
	slices.Sort(list)
	return list
}
