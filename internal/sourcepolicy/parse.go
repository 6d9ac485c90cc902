package sourcepolicy

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"regexp"
	"slices"
)

// Rules are a policy.
type Rules struct{ rules []*rule }

// rule is one of them, in the form of the file.
type rule struct {
	Action   action    `json:"action"`
	Selector *selector `json:"selector"`
	Updates  *update   `json:"updates"`
}

// selector says which sources a rule is about.
type selector struct {
	Identifier string    `json:"identifier"`
	Type       matchType `json:"match_type"`
	// TypeJSON is Type by the name that protocol buffers have for it in JSON, which buildx
	// passes over: the rule would be another than its author reads.
	TypeJSON    matchType     `json:"matchType"`
	Constraints []*constraint `json:"constraints"`

	pattern func() (*regexp.Regexp, error)
}

func (s *selector) match() matchType { return max(s.Type, s.TypeJSON) }

// constraint is on an attribute of the source.
type constraint struct {
	Key       string    `json:"key"`
	Value     string    `json:"value"`
	Condition condition `json:"condition"`
}

// update is what a rule converts to; an empty identifier is the selector's.
type update struct {
	Identifier string            `json:"identifier"`
	Attrs      map[string]string `json:"attrs"`
}

type action int

const (
	allow action = iota
	denied
	convert
)

type matchType int

const (
	wildcard matchType = iota
	exact
	expression
)

type condition int

const (
	equal condition = iota
	notEqual
	matches
)

// UnmarshalJSON is json.Unmarshaler's.
func (a *action) UnmarshalJSON(b []byte) error {
	return unmarshalName(b, a, "PolicyAction", "ALLOW", "DENY", "CONVERT")
}

// UnmarshalJSON is json.Unmarshaler's.
func (m *matchType) UnmarshalJSON(b []byte) error {
	return unmarshalName(b, m, "MatchType", "WILDCARD", "EXACT", "REGEX")
}

// UnmarshalJSON is json.Unmarshaler's.
func (c *condition) UnmarshalJSON(b []byte) error {
	return unmarshalName(b, c, "AttrMatch", "EQUAL", "NOTEQUAL", "MATCHES")
}

// unmarshalName reads one of the names, or its number.
func unmarshalName[T ~int](b []byte, to *T, kind string, names ...string) error {
	n := 0
	if len(b) > 0 && b[0] == '"' {
		var name string
		if err := json.Unmarshal(b, &name); err != nil {
			return err
		}
		if n = slices.Index(names, name); n < 0 {
			return fmt.Errorf("unrecognized enum %s value %q", kind, name)
		}
	} else if err := json.Unmarshal(b, &n); err != nil {
		return fmt.Errorf("cannot unmarshal %q into enum %s", b, kind)
	}
	if n < 0 || n >= len(names) {
		return fmt.Errorf("invalid %s value: %d", kind, n)
	}
	*to = T(n)
	return nil
}

// Parse reads a policy in JSON, and its patterns. An error that is of a place says its line.
func Parse(data []byte) (*Rules, error) {
	var file struct {
		Version int64   `json:"version"`
		Rules   []*rule `json:"rules"`
	}
	if err := json.Unmarshal(data, &file); err != nil {
		var syntax *json.SyntaxError
		var kind *json.UnmarshalTypeError
		switch {
		case errors.As(err, &syntax):
			err = fmt.Errorf("line %d: %w", lineOf(data, syntax.Offset), err)
		case errors.As(err, &kind):
			err = fmt.Errorf("line %d: %w", lineOf(data, kind.Offset), err)
		}
		return nil, fmt.Errorf("failed to parse source policy: %w", err)
	}
	for _, r := range file.Rules {
		if err := r.check(); err != nil {
			return nil, err
		}
	}
	return &Rules{rules: file.Rules}, nil
}

// lineOf is the line, from 1, of a byte.
func lineOf(data []byte, offset int64) int {
	return 1 + bytes.Count(data[:min(max(offset-1, 0), int64(len(data)))], []byte("\n"))
}

// check fails for a rule that cannot be asked.
func (r *rule) check() error {
	switch {
	case r == nil:
		return errors.New("invalid nil rule in policy")
	case r.Selector == nil:
		return errors.New("invalid nil selector in policy")
	}
	for _, c := range r.Selector.Constraints {
		if c == nil {
			return errors.New("invalid nil constraint in policy")
		}
	}
	r.Selector.prepare()
	if r.Selector.match() == exact {
		return nil
	}
	if _, err := r.Selector.pattern(); err != nil {
		return fmt.Errorf("error matching source policy: %w", err)
	}
	return nil
}
