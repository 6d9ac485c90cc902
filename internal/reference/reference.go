// Package reference reads and writes the names of images as docker does: the grammar and the short forms of
// github.com/distribution/reference, which its tests compare with, without the millisecond of regular expressions at every start.
package reference

import (
	"errors"
	"fmt"
	"strings"

	"github.com/opencontainers/go-digest"
)

const (
	hub         = "docker.io"       // the domain of names without one
	legacyHub   = "index.docker.io" // an older name of hub
	official    = "library/"        // the namespace of the hub's names without one
	maxPath     = 255               // bytes
	maxTag      = 128               // bytes
	minEncoded  = 32                // hexadecimal digits of a digest
	identifiers = 64                // hexadecimal digits of an image ID
)

// What is wrong with a name, in docker's words.
var (
	ErrInvalidFormat       = errors.New("invalid reference format")
	ErrInvalidTag          = errors.New("invalid tag format")
	ErrInvalidDigest       = errors.New("invalid digest format")
	ErrNameContainsCapital = errors.New("repository name must be lowercase")
	ErrNameTooLong         = fmt.Errorf("repository name must not be more than %d characters", maxPath)
)

// A Named is the full name of a repository, or of an image in it by tag, by digest or by both. The zero Named names nothing. Named
// values are equal when they name the same.
type Named struct {
	domain, path, tag string
	digest            digest.Digest
}

// Parse reads a name in its full or its familiar form: "debian" is docker.io/library/debian.
func Parse(s string) (Named, error) {
	if IsIdentifier(s) {
		return Named{}, fmt.Errorf("invalid repository name (%s), cannot specify 64-byte hexadecimal strings", s)
	}
	domain, rest := splitDomain(s)
	if remote, _, _ := strings.Cut(rest, ":"); strings.ToLower(remote) != remote {
		return Named{}, fmt.Errorf("invalid reference format: repository name (%s) must be lowercase", remote)
	}
	full := domain + "/" + rest
	n, ok := parse(full)
	switch {
	case !ok:
		if _, lower := parse(strings.ToLower(full)); lower {
			return Named{}, ErrNameContainsCapital
		}
		return Named{}, ErrInvalidFormat
	case len(n.path) > maxPath:
		return Named{}, ErrNameTooLong
	case n.digest != "":
		return n, n.digest.Validate()
	}
	return n, nil
}

// IsIdentifier reports whether s is a whole image ID without its algorithm, which no name may be.
func IsIdentifier(s string) bool {
	return len(s) == identifiers && all(s, func(c byte) bool { return isDigit(c) || 'a' <= c && c <= 'f' })
}

// splitDomain parts the registry from the rest of a name: what is before the first slash is one if it looks like one.
func splitDomain(s string) (domain, rest string) {
	first, after, found := strings.Cut(s, "/")
	switch {
	case !found:
		return hub, official + s
	case first == legacyHub:
		domain, rest = hub, after
	case first == "localhost", strings.ContainsAny(first, ".:"), strings.ToLower(first) != first:
		domain, rest = first, after
	default:
		domain, rest = hub, s
	}
	if domain == hub && !strings.Contains(rest, "/") {
		rest = official + rest
	}
	return domain, rest
}

// parse reads [domain/]path[:tag][@digest] without completing anything.
func parse(s string) (n Named, ok bool) {
	name, encoded, digested := strings.Cut(s, "@")
	if digested && !isDigest(encoded) {
		return n, false
	}
	n.digest = digest.Digest(encoded)
	if slash := strings.LastIndexByte(name, '/'); strings.Contains(name[slash+1:], ":") {
		colon := strings.LastIndexByte(name, ':')
		name, n.tag = name[:colon], name[colon+1:]
		if !isTag(n.tag) {
			return n, false
		}
	}
	n.path = name
	if domain, path, found := strings.Cut(name, "/"); found && isDomain(domain) {
		n.domain, n.path = domain, path
	}
	for component := range strings.SplitSeq(n.path, "/") {
		if !isComponent(component) {
			return n, false
		}
	}
	return n, true
}

// IsZero reports whether n names nothing.
func (n Named) IsZero() bool { return n == Named{} }

// Domain returns the host, with its port, of the registry.
func (n Named) Domain() string { return n.domain }

// Path returns the name of the repository in its registry.
func (n Named) Path() string { return n.path }

// Tag returns the tag, or nothing.
func (n Named) Tag() string { return n.tag }

// Digest returns the digest, or nothing.
func (n Named) Digest() digest.Digest { return n.digest }

// TagOrDigest returns what names the image in its repository: the digest, or else the tag, or else "latest".
func (n Named) TagOrDigest() string {
	if n.digest != "" {
		return n.digest.String()
	}
	return n.OrLatest().tag
}

// Name returns the name of the repository with its domain.
func (n Named) Name() string {
	if n.domain == "" {
		return n.path
	}
	return n.domain + "/" + n.path
}

// String returns the name with its tag and its digest.
func (n Named) String() string {
	s := n.Name()
	if n.tag != "" {
		s += ":" + n.tag
	}
	if n.digest != "" {
		s += "@" + n.digest.String()
	}
	return s
}

// Repository returns the name without tag and digest.
func (n Named) Repository() Named { return Named{domain: n.domain, path: n.path} }

// IsNameOnly reports whether n has neither a tag nor a digest.
func (n Named) IsNameOnly() bool { return n.tag == "" && n.digest == "" }

// OrLatest returns n, with the tag "latest" if it is the name of a repository only.
func (n Named) OrLatest() Named {
	if n.IsNameOnly() {
		n.tag = "latest"
	}
	return n
}

// Familiar returns the name as people write it, without what [Parse] adds.
func (n Named) Familiar() Named {
	if n.domain == hub {
		n.domain = ""
		if name, ok := strings.CutPrefix(n.path, official); ok && !strings.Contains(name, "/") {
			n.path = name
		}
	}
	return n
}

// WithTag returns n with another tag.
func (n Named) WithTag(tag string) (Named, error) {
	if !isTag(tag) {
		return Named{}, ErrInvalidTag
	}
	n.tag = tag
	return n, nil
}

// WithDigest returns n with another digest.
func (n Named) WithDigest(d digest.Digest) (Named, error) {
	if !isDigest(d.String()) {
		return Named{}, ErrInvalidDigest
	}
	n.digest = d
	return n, nil
}
