package bakefile

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/tonistiigi/go-csvvalue"
	"github.com/zclconf/go-cty/cty"
	"github.com/zclconf/go-cty/cty/convert"
)

// policy is a policy over the sources of a target, as it is written: what it says is for
// who builds.
type policy struct {
	Files    []policyFile
	Reset    bool
	Disabled bool
	Strict   *bool
	LogLevel *string
}

type policyFile struct {
	Filename string
	Data     []byte
}

type policies []policy

var logLevels = []string{"panic", "fatal", "error", "warning", "info", "debug", "trace"}

func parsePolicy(in string) (policy, error) {
	fields, err := csvvalue.Fields(in, nil)
	if err != nil {
		return policy{}, err
	}
	return policyOf(fields)
}

func policyOf(fields []string) (p policy, err error) {
	for _, field := range fields {
		key, value, ok := strings.Cut(field, "=")
		if !ok {
			return policy{}, fmt.Errorf("invalid value %s", field)
		}
		switch key = strings.TrimSpace(strings.ToLower(key)); key {
		case "filename":
			ok = value != ""
			p.Files = append(p.Files, policyFile{Filename: value})
		case "reset":
			p.Reset, err = strconv.ParseBool(value)
		case "disabled":
			p.Disabled, err = strconv.ParseBool(value)
		case "strict":
			var strict bool
			strict, err = strconv.ParseBool(value)
			p.Strict = &strict
		case "log-level":
			level := strings.ToLower(value)
			if level == "warn" {
				level = "warning"
			}
			ok = slices.Contains(logLevels, level)
			p.LogLevel = &level
		default:
			ok = false
		}
		if !ok {
			return policy{}, fmt.Errorf("invalid value %s", field)
		}
		if err != nil {
			return policy{}, fmt.Errorf("invalid value %s: %w", field, err)
		}
	}
	return p, nil
}

// FromCtyValue is hclparser's.
func (p *policies) FromCtyValue(in cty.Value, path cty.Path) error {
	*p = policies{}
	return elements(in, path, cty.Map(cty.String), func(v cty.Value) (err error) {
		var one policy
		switch {
		case v.Type() == cty.String:
			one, err = parsePolicy(v.AsString())
		case v.Type().IsObjectType() || v.Type().IsMapType():
			one, err = policyFrom(v)
		default:
			err = path.NewErrorf("%s", convert.MismatchMessage(v.Type(), cty.Map(cty.String)))
		}
		*p = append(*p, one)
		return err
	})
}

func policyFrom(in cty.Value) (policy, error) {
	var fields []string
	for key, v := range in.AsValueMap() {
		if v.IsNull() || !v.IsKnown() {
			continue
		}
		conv, err := convert.Convert(v, cty.String)
		if err != nil {
			return policy{}, err
		}
		if value := conv.AsString(); value != "" {
			fields = append(fields, key+"="+value)
		}
	}
	return policyOf(fields)
}

// ToCtyValue is hclparser's.
func (p policies) ToCtyValue() cty.Value {
	return list(p, cty.Map(cty.String), func(one policy) cty.Value {
		vals := map[string]cty.Value{}
		if len(one.Files) > 0 {
			vals["filename"] = cty.StringVal(one.Files[0].Filename)
		}
		if one.Reset {
			vals["reset"] = cty.StringVal("true")
		}
		if one.Disabled {
			vals["disabled"] = cty.StringVal("true")
		}
		if one.Strict != nil {
			vals["strict"] = cty.StringVal(strconv.FormatBool(*one.Strict))
		}
		if one.LogLevel != nil {
			vals["log-level"] = cty.StringVal(*one.LogLevel)
		}
		if len(vals) == 0 {
			return cty.MapValEmpty(cty.String)
		}
		return cty.MapVal(vals)
	})
}

// flags are the policies as values of --policy.
func (p policies) flags() (list []string) {
	for _, one := range p {
		var fields []string
		for _, f := range one.Files {
			fields = append(fields, "filename="+f.Filename)
		}
		for key, set := range map[string]bool{"reset": one.Reset, "disabled": one.Disabled} {
			if set {
				fields = append(fields, key+"=true")
			}
		}
		if one.Strict != nil {
			fields = append(fields, "strict="+strconv.FormatBool(*one.Strict))
		}
		if one.LogLevel != nil {
			fields = append(fields, "log-level="+*one.LogLevel)
		}
		for i, f := range fields {
			if strings.ContainsAny(f, ",\"\n") {
				fields[i] = `"` + strings.ReplaceAll(f, `"`, `""`) + `"`
			}
		}
		list = append(list, strings.Join(fields, ","))
	}
	return list
}
