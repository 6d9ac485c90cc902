// Package sourcepolicy decides over what a build reads, as BuildKit's source policies do.
//
// A source is what a step reads that no step made: an image, a file that is downloaded, a
// commit of a repository, a directory of this machine. Its identifier is BuildKit's:
// docker-image://docker.io/library/alpine:latest, https://host/file,
// git://host/path#ref:subdir, local://context. Its attributes say more of it
// (http.checksum, git.fullurl).
//
// Rules are a policy as EXPERIMENTAL_BUILDKIT_SOURCE_POLICY names one: a list of rules, each
// of which allows the sources that its selector matches, denies them, or converts them to
// others (moby/buildkit, sourcepolicy/pb/policy.proto). BuildKit's own engine is of the same
// size as this one and costs each start of a program half a millisecond, for its protocol
// buffers.
//
// An Evaluator asks policies in Rego, as those of docker buildx, of a program of its own.
package sourcepolicy

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"regexp"
	"strings"
	"sync"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// Schemes of identifiers, before "://".
const (
	SchemeImage  = "docker-image"
	SchemeLayout = "oci-layout"
	SchemeGit    = "git"
	SchemeLocal  = "local"
)

// Attributes of sources.
const (
	AttrImageChecksum = "image.checksum" // a digest

	AttrHTTPChecksum = "http.checksum" // a digest
	AttrHTTPFilename = "http.filename"

	AttrGitFullURL        = "git.fullurl"  // with scheme and user
	AttrGitChecksum       = "git.checksum" // of the commit, or the beginning of it
	AttrGitKeepDir        = "git.keepgitdir"
	AttrGitSkipSubmodules = "git.skipsubmodules"
	AttrGitTimes          = "git.mtime" // "commit"
	AttrGitFetchByCommit  = "git.fetchbycommit"
)

// Source is what a step reads that no step made.
type Source struct {
	Identifier string
	Attrs      map[string]string
	Platform   *ocispec.Platform // of an image
	// Learn looks at a source of this kind, for a policy that asks; nil: nobody can.
	Learn func(context.Context, Source, Look) (Facts, error)
}

// Scheme is what the identifier begins with; "" where it has none.
func (s Source) Scheme() string {
	scheme, _, ok := strings.Cut(s.Identifier, "://")
	if !ok {
		return ""
	}
	return scheme
}

// Rest is the identifier without its scheme.
func (s Source) Rest() string {
	_, rest, _ := strings.Cut(s.Identifier, "://")
	return rest
}

// ErrDenied is of a source that a rule denies.
var ErrDenied = errors.New("source denied by policy")

// maxConversions is how often one source is converted, as for BuildKit, and maxIdentifier how
// long it may become by that: rules that double a name do so each time.
const (
	maxConversions = 20
	maxIdentifier  = 4096
)

// Apply makes of a source what the rules make of it. Whenever one was converted, all rules
// are asked again. Of the rules that allow and deny, the last that matches wins. It fails
// with ErrDenied. It may be called by several goroutines at once.
func (r *Rules) Apply(src Source) (Source, error) {
	src.Attrs = maps.Clone(src.Attrs)
	for range maxConversions + 1 {
		changed, err := r.once(&src)
		if err != nil || !changed {
			return src, err
		}
	}
	return src, errors.New("too many mutations on a single source: too many operations")
}

// once asks the rules until one converts the source.
func (r *Rules) once(src *Source) (changed bool, err error) {
	deny := false
	for _, rule := range r.rules {
		matched, err := rule.Selector.matches(*src)
		if err != nil {
			return false, fmt.Errorf("error matching source policy: %w", err)
		}
		if !matched {
			continue
		}
		switch rule.Action {
		case allow:
			deny = false
		case denied:
			deny = true
		case convert:
			changed, err := rule.convert(src)
			if err != nil || changed {
				return changed, err
			}
		}
	}
	if deny {
		return false, fmt.Errorf("source %q denied by policy: %w", src.Identifier, ErrDenied)
	}
	return false, nil
}

// convert updates a source that the selector matches, and reports whether it is another now.
func (r *rule) convert(src *Source) (changed bool, err error) {
	if r.Updates == nil {
		return false, errors.New("error mutating source policy: missing destination for convert rule")
	}
	to := r.Updates.Identifier
	if to == "" {
		to = r.Selector.Identifier
	}
	if to, err = r.Selector.expand(src.Identifier, to); err != nil {
		return false, fmt.Errorf("error mutating source policy: error formatting destination: %w", err)
	}
	if len(to) > maxIdentifier {
		return false, fmt.Errorf("error mutating source policy: a source of more than %d bytes", maxIdentifier)
	}
	if to != "" && to != src.Identifier {
		src.Identifier, changed = to, true
	}
	for k, v := range r.Updates.Attrs {
		if src.Attrs == nil {
			src.Attrs = map[string]string{}
		}
		if src.Attrs[k] != v {
			src.Attrs[k], changed = v, true
		}
	}
	return changed, nil
}

// matches reports whether the selector is of the source.
func (s *selector) matches(src Source) (bool, error) {
	for _, c := range s.Constraints {
		ok, err := c.holds(src.Attrs[c.Key])
		if err != nil || !ok {
			return false, err
		}
	}
	if s.Identifier == src.Identifier {
		return true, nil
	}
	if s.match() == exact {
		return false, nil
	}
	re, err := s.pattern()
	if err != nil {
		return false, err
	}
	return re.MatchString(src.Identifier), nil
}

// holds reports whether an attribute has a value that the constraint asks for.
func (c *constraint) holds(value string) (bool, error) {
	switch c.Condition {
	case notEqual:
		return value != c.Value, nil
	case matches:
		ok, err := regexp.MatchString(c.Value, value)
		if err != nil {
			return false, fmt.Errorf("invalid regex %q: %w", c.Value, err)
		}
		return ok, nil
	}
	return value == c.Value, nil
}

// expand puts what the selector's pattern found in an identifier into another: ${1} is what
// the first wildcard or group stood for.
func (s *selector) expand(found, to string) (string, error) {
	if s.match() == exact {
		return to, nil
	}
	re, err := s.pattern()
	if err != nil {
		return "", err
	}
	if s.match() == expression {
		return re.ReplaceAllString(found, to), nil
	}
	at := re.FindStringSubmatchIndex(found)
	if at == nil {
		return found, nil
	}
	return string(re.ExpandString(nil, to, found, at)), nil
}

// compile makes the expression of a selector that is no exact one.
func (s *selector) compile() (*regexp.Regexp, error) {
	if s.match() == expression {
		return regexp.Compile(s.Identifier)
	}
	text := regexp.QuoteMeta(s.Identifier)
	if strings.Contains(text, `\*\*`) {
		return nil, fmt.Errorf("failed to translate wildcard %q to regexp: invalid wildcard: \"**\"", s.Identifier)
	}
	return regexp.Compile("^" + strings.ReplaceAll(text, `\*`, "(.*)") + "$")
}

// prepare makes the selector's expression one that is compiled once, when it is needed.
func (s *selector) prepare() { s.pattern = sync.OnceValues(s.compile) }
