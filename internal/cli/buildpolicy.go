package cli

import (
	"encoding/csv"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strconv"
	"strings"

	"strake/internal/engine"
)

// policyLevels are the levels of a policy's log.
var policyLevels = []string{"panic", "fatal", "error", "warn", "warning", "info", "debug", "trace"}

// parsePolicies reads values of --policy.
func parsePolicies(values []string) (list []engine.BuildPolicy, err error) {
	for _, text := range values {
		fields, err := csv.NewReader(strings.NewReader(text)).Read()
		if err != nil && !errors.Is(err, io.EOF) {
			return nil, fmt.Errorf("policy %q: %w", text, err)
		}
		var p engine.BuildPolicy
		for _, field := range fields {
			if err := setPolicyField(&p, field); err != nil {
				return nil, err
			}
		}
		list = append(list, p)
	}
	return list, nil
}

func setPolicyField(p *engine.BuildPolicy, field string) (err error) {
	key, value, ok := strings.Cut(field, "=")
	switch strings.TrimSpace(strings.ToLower(key)) {
	case "filename":
		ok = value != ""
		p.Files = append(p.Files, value)
	case "reset":
		p.Reset, err = strconv.ParseBool(value)
	case "disabled":
		p.Disabled, err = strconv.ParseBool(value)
	case "strict":
		strict, parseErr := strconv.ParseBool(value)
		p.Strict, err = &strict, parseErr
	case "log-level":
		p.LogLevel = strings.ToLower(value)
		ok = slices.Contains(policyLevels, p.LogLevel)
	default:
		ok = false
	}
	switch {
	case !ok:
		return fmt.Errorf("invalid value %s", field)
	case err != nil:
		return fmt.Errorf("invalid value %s: %w", field, err)
	}
	return nil
}

// defaultPolicy reports whether the policy that is built into docker buildx is asked.
func defaultPolicy() bool {
	on, err := strconv.ParseBool(os.Getenv("BUILDX_DEFAULT_POLICY"))
	return on && err == nil
}

// bakePolicies reads the values of bake's --policy, which are for all targets; disabled
// takes the place of what those say.
func bakePolicies(values []string) (disabled bool, err error) {
	list, err := parsePolicies(values)
	if err != nil {
		return false, err
	}
	for _, p := range list {
		switch {
		case len(p.Files) > 0:
			return false, errors.New("--policy does not accept filename; define policy files in the bake definition")
		case p.Reset:
			return false, errors.New("--policy does not accept reset; define policy composition in the bake definition")
		case p.Disabled && (len(list) > 1 || p.Strict != nil || p.LogLevel != ""):
			return false, errors.New("disabled policy cannot be combined with other policy flags")
		}
		disabled = disabled || p.Disabled
	}
	return disabled, nil
}

// policyLines are what a policy says of why it denies a source.
func policyLines(err error) (lines string) {
	for _, m := range engine.PolicyMessages(err) {
		lines += "Policy: " + m + "\n"
	}
	return lines
}
