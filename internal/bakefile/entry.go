package bakefile

import (
	"encoding/csv"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/tonistiigi/go-csvvalue"
	"github.com/zclconf/go-cty/cty"
	"github.com/zclconf/go-cty/cty/convert"
)

// entry is what an attribute such as output or cache-from lists: a type and its
// attributes. In a file it is a map of strings or comma-separated text.
type entry struct {
	Type  string
	Attrs map[string]string
}

func (e *entry) equal(other *entry) bool {
	return e.Type == other.Type && maps.Equal(e.Attrs, other.Attrs)
}

// pairs is the entry as comma-separated text, which a flag of build takes.
func (e *entry) pairs(first ...string) string {
	var list []string
	add := func(key, value string) {
		pair := key + "=" + value
		if strings.ContainsAny(pair, `,"`) {
			var quoted strings.Builder
			w := csv.NewWriter(&quoted)
			_ = w.Write([]string{pair}) // into memory
			w.Flush()
			pair = strings.TrimSpace(quoted.String())
		}
		list = append(list, pair)
	}
	if e.Type != "" {
		add("type", e.Type)
	}
	for _, key := range first {
		if value, ok := e.Attrs[key]; ok {
			add(key, value)
		}
	}
	for _, key := range slices.Sorted(maps.Keys(e.Attrs)) {
		if !slices.Contains(first, key) {
			add(key, e.Attrs[key])
		}
	}
	return strings.Join(list, ",")
}

// MarshalJSON is one object of the type and the attributes.
func (e *entry) MarshalJSON() ([]byte, error) {
	m := maps.Clone(e.Attrs)
	if m == nil {
		m = map[string]string{}
	}
	m["type"] = e.Type
	return json.Marshal(m)
}

func (e *entry) value(more ...string) cty.Value {
	vals := map[string]cty.Value{"type": cty.StringVal(e.Type)}
	for _, key := range more {
		vals[key] = cty.StringVal("")
	}
	for k, v := range e.Attrs {
		vals[k] = cty.StringVal(v)
	}
	return cty.MapVal(vals)
}

// fromMap reads an entry that is a map.
func (e *entry) fromMap(in cty.Value) error {
	conv, err := convert.Convert(in, cty.Map(cty.String))
	if err != nil {
		return err
	}
	e.Attrs = map[string]string{}
	for k, v := range conv.AsValueMap() {
		switch {
		case !v.IsKnown():
		case k == "type":
			e.Type = text(v)
		default:
			e.Attrs[k] = text(v)
		}
	}
	return nil
}

// text is a string that may be null.
func text(v cty.Value) string {
	if v.IsNull() {
		return ""
	}
	return v.AsString()
}

// elements calls each with the elements of a list that say something.
func elements(in cty.Value, p cty.Path, kind cty.Type, each func(cty.Value) error) error {
	if got := in.Type(); !got.IsTupleType() && !got.IsListType() {
		return p.NewErrorf("%s", convert.MismatchMessage(got, cty.List(kind)))
	}
	for it := in.ElementIterator(); it.Next(); {
		_, v := it.Element()
		if !v.IsKnown() || v.Type() == cty.String && text(v) == "" {
			continue
		}
		if err := each(v); err != nil {
			return err
		}
	}
	return nil
}

// list is a list of values, or the empty list of their type.
func list[T any](s []T, kind cty.Type, value func(T) cty.Value) cty.Value {
	if len(s) == 0 {
		return cty.ListValEmpty(kind)
	}
	vals := make([]cty.Value, len(s))
	for i, e := range s {
		vals[i] = value(e)
	}
	return cty.ListVal(vals)
}

// distinct removes what is listed twice, in the order that buildx leaves: the last of
// the list comes where one was.
func distinct(s []*entry) []*entry {
	for i := len(s) - 2; i >= 0; i-- {
		for j := i + 1; j < len(s); j++ {
			if s[i].equal(s[j]) {
				s[j] = s[len(s)-1]
				s = s[:len(s)-1]
				break
			}
		}
	}
	return s
}

// lastOf keeps the last of each name, in the place of the first.
func lastOf[T any](s []T, name func(T) string) []T {
	var res []T
	at := map[string]int{}
	for _, e := range s {
		if i, ok := at[name(e)]; ok {
			res[i] = e
			continue
		}
		at[name(e)] = len(res)
		res = append(res, e)
	}
	return res
}

// caches are cache-from and cache-to.
type caches []*entry

func parseCache(in string) (caches, error) {
	fields, err := csvvalue.Fields(in, nil)
	if err != nil {
		return nil, err
	}
	if !strings.Contains(in, "=") {
		var list caches
		for _, ref := range fields {
			list = append(list, &entry{Type: "registry", Attrs: map[string]string{"ref": ref}})
		}
		return list, nil
	}
	e, before := &entry{Attrs: map[string]string{}}, ""
	for _, field := range fields {
		key, value, ok := strings.Cut(field, "=")
		if !ok {
			return nil, fmt.Errorf("a cache has a field without \"=\", after %q", before) // perhaps what is behind a comma of a credential
		}
		before = key
		if key = strings.ToLower(key); key == "type" {
			e.Type = value
		} else {
			e.Attrs[key] = value
		}
	}
	if e.Type == "" {
		return nil, e.untyped()
	}
	return caches{e}, nil
}

// untyped is the error of a cache without a type. It has no values, which may be credentials.
func (e *entry) untyped() error {
	return fmt.Errorf("type required for a cache with %s", strings.Join(slices.Sorted(maps.Keys(e.Attrs)), ", "))
}

func parseCaches(in []string) (caches, error) {
	var all caches
	for _, s := range in {
		if s == "" {
			continue
		}
		list, err := parseCache(s)
		if err != nil {
			return nil, err
		}
		all = append(all, list...)
	}
	return all, nil
}

func (c caches) merge(other caches) caches { return append(c, other...).normalize() }

func (c caches) normalize() caches {
	if len(c) == 0 {
		return nil
	}
	return distinct(c)
}

// FromCtyValue is hclparser's.
func (c *caches) FromCtyValue(in cty.Value, p cty.Path) error {
	*c = caches{}
	return elements(in, p, cty.Map(cty.String), func(v cty.Value) error {
		if v.Type() == cty.String {
			list, err := parseCache(v.AsString())
			*c = append(*c, list...)
			return err
		}
		e := &entry{}
		if err := e.fromMap(v); err != nil {
			return err
		}
		if e.Type == "" {
			return e.untyped()
		}
		*c = append(*c, e)
		return nil
	})
}

// ToCtyValue is hclparser's.
func (c caches) ToCtyValue() cty.Value {
	return list(c, cty.Map(cty.String), func(e *entry) cty.Value { return e.value() })
}

func (c caches) flags() (list []string) {
	for _, e := range c {
		list = append(list, e.pairs())
	}
	return list
}

// outputs are where a target goes.
type outputs []*entry

func parseOutput(s string) (*entry, error) {
	fields, err := csvvalue.Fields(s, nil)
	if err != nil {
		return nil, err
	}
	e := &entry{Attrs: map[string]string{}}
	switch {
	case s == "-":
		e.Type, e.Attrs["dest"] = "tar", s
		return e, nil
	case len(fields) == 1 && fields[0] == s && !strings.HasPrefix(s, "type="):
		e.Type, e.Attrs["dest"] = "local", s
		return e, nil
	}
	for _, field := range fields {
		key, value, ok := strings.Cut(field, "=")
		if !ok {
			return nil, fmt.Errorf("invalid value %s", field)
		}
		if key = strings.TrimSpace(strings.ToLower(key)); key == "type" {
			e.Type = value
		} else {
			e.Attrs[key] = value
		}
	}
	return e, e.checkOutput()
}

func (e *entry) checkOutput() error {
	if e.Attrs["dest"] == "" {
		delete(e.Attrs, "dest")
	}
	if e.Type == "" {
		return fmt.Errorf("type is required for output")
	}
	return nil
}

func parseOutputs(in []string) (list outputs, err error) {
	list = outputs{}
	for _, s := range in {
		if s == "" {
			continue
		}
		e, err := parseOutput(s)
		if err != nil {
			return nil, err
		}
		list = append(list, e)
	}
	return list, nil
}

func (o outputs) merge(other outputs) outputs { return append(o, other...).normalize() }

func (o outputs) normalize() outputs {
	if len(o) == 0 {
		return nil
	}
	return distinct(o)
}

// FromCtyValue is hclparser's.
func (o *outputs) FromCtyValue(in cty.Value, p cty.Path) error {
	*o = outputs{}
	return elements(in, p, cty.Map(cty.String), func(v cty.Value) error {
		if v.Type() == cty.String {
			e, err := parseOutput(v.AsString())
			if err != nil {
				return p.NewError(err)
			}
			*o = append(*o, e)
			return nil
		}
		e := &entry{}
		if err := e.fromMap(v); err != nil {
			return err
		}
		*o = append(*o, e)
		return e.checkOutput()
	})
}

// ToCtyValue is hclparser's.
func (o outputs) ToCtyValue() cty.Value {
	return list(o, cty.Map(cty.String), func(e *entry) cty.Value { return e.value("dest") })
}

func (o outputs) flags() (list []string) {
	for _, e := range o {
		list = append(list, e.pairs("dest"))
	}
	return list
}

// attests are what is said of a target. A "disabled" attribute is "true" or none.
type attests []*attest

type attest struct{ entry }

// attestation is the value of a flag such as --sbom as an entry: a boolean, or
// attributes.
func attestation(kind, in string) string {
	if b, err := strconv.ParseBool(in); err == nil {
		return fmt.Sprintf("type=%s,disabled=%t", kind, !b)
	}
	return fmt.Sprintf("type=%s,%s", kind, in)
}

func parseAttest(in string) (*attest, error) {
	fields, err := csvvalue.Fields(in, nil)
	if err != nil {
		return nil, err
	}
	a := &attest{entry{Attrs: map[string]string{}}}
	for _, field := range fields {
		key, value, ok := strings.Cut(field, "=")
		if !ok {
			return nil, fmt.Errorf("invalid value %s", field)
		}
		switch name := strings.TrimSpace(strings.ToLower(key)); name {
		case "type":
			a.Type = value
		case "disabled":
			a.Attrs[name] = value
		default:
			a.Attrs[key] = value
		}
	}
	if a.Type == "" {
		return nil, fmt.Errorf("attestation type not specified")
	}
	return a, a.settle()
}

// settle makes "disabled" true or nothing.
func (a *attest) settle() error {
	value, ok := a.Attrs["disabled"]
	if !ok {
		return nil
	}
	disabled, err := strconv.ParseBool(value)
	if err != nil {
		return fmt.Errorf("invalid value disabled=%s: %w", value, err)
	}
	delete(a.Attrs, "disabled")
	if disabled {
		a.Attrs["disabled"] = "true"
	}
	return nil
}

// MarshalJSON has disabled as a boolean.
func (a *attest) MarshalJSON() ([]byte, error) {
	m := map[string]any{"type": a.Type}
	for k, v := range a.Attrs {
		m[k] = v
	}
	if a.Attrs["disabled"] != "" {
		m["disabled"] = true
	}
	return json.Marshal(m)
}

func parseAttests(in []string) (attests, error) {
	var all attests
	for _, s := range in {
		a, err := parseAttest(s)
		if err != nil {
			return nil, err
		}
		all = append(all, a)
	}
	return all, nil
}

// merge adds others; one of the same type takes the place of the first.
func (a attests) merge(other attests) attests { return append(a, other...).normalize() }

func (a attests) normalize() attests {
	return lastOf(a, func(e *attest) string { return e.Type })
}

// FromCtyValue is hclparser's.
func (a *attests) FromCtyValue(in cty.Value, p cty.Path) error {
	*a = attests{}
	return elements(in, p, cty.Map(cty.String), func(v cty.Value) error {
		if v.Type() == cty.String {
			e, err := parseAttest(v.AsString())
			if err != nil {
				return p.NewError(err)
			}
			*a = append(*a, e)
			return nil
		}
		e := &attest{}
		if err := e.fromMap(v); err != nil {
			return err
		}
		*a = append(*a, e)
		return e.settle()
	})
}

// ToCtyValue is hclparser's.
func (a attests) ToCtyValue() cty.Value {
	return list(a, cty.Map(cty.String), func(e *attest) cty.Value { return e.value() })
}

func (a attests) flags() (list []string) {
	for _, e := range a {
		list = append(list, e.pairs("disabled"))
	}
	return list
}
