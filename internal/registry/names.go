package registry

import (
	"cmp"
	"strings"

	"github.com/opencontainers/go-digest"
)

// maxNameLength bounds a repository's name, in bytes.
const maxNameLength = 255

// CheckName fails with NAME_INVALID unless repo is a repository name of the
// distribution specification.
func CheckName(repo string) error {
	if len(repo) == 0 || len(repo) > maxNameLength {
		return Errorf(NameInvalid, "invalid repository name: %d bytes", len(repo))
	}
	for part := range strings.SplitSeq(repo, "/") {
		if !validComponent(part) {
			return Errorf(NameInvalid, "invalid repository name %q", repo)
		}
	}
	return nil
}

func validName(repo string) bool { return CheckName(repo) == nil }

// validComponent matches [a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*.
func validComponent(s string) bool {
	if s == "" || !isAlnum(s[0]) || !isAlnum(s[len(s)-1]) {
		return false
	}
	for i := 0; i < len(s); {
		if isAlnum(s[i]) {
			i++
			continue
		}
		j := i
		for !isAlnum(s[j]) {
			j++
		}
		sep := s[i:j]
		if sep != "." && sep != "_" && sep != "__" && strings.Trim(sep, "-") != "" {
			return false
		}
		i = j
	}
	return true
}

func isAlnum(c byte) bool { return 'a' <= c && c <= 'z' || '0' <= c && c <= '9' }

// CheckTag fails with TAG_INVALID unless tag is a tag: a letter, digit or '_',
// and then up to 127 of those, '.' and '-'.
func CheckTag(tag string) error {
	ok := len(tag) > 0 && len(tag) <= 128
	for i := 0; ok && i < len(tag); i++ {
		c := tag[i]
		ok = isAlnum(c) || 'A' <= c && c <= 'Z' || c == '_' || i > 0 && (c == '.' || c == '-')
	}
	if !ok {
		return Errorf(TagInvalid, "invalid tag %.130q", tag)
	}
	return nil
}

// CompareTags orders tags: by their letters in lower case, as the specification
// has it, then by their bytes.
func CompareTags(a, b string) int {
	return cmp.Or(strings.Compare(strings.ToLower(a), strings.ToLower(b)), strings.Compare(a, b))
}

// CheckDigest fails with DIGEST_INVALID unless dgst is a well formed sha256 or
// sha512 digest.
func CheckDigest(dgst digest.Digest) error {
	alg, enc, _ := strings.Cut(string(dgst), ":")
	size := map[string]int{"sha256": 64, "sha512": 128}[alg]
	if size == 0 || len(enc) != size || strings.Trim(enc, "0123456789abcdef") != "" {
		return Errorf(DigestInvalid, "invalid digest %.140q", string(dgst))
	}
	return nil
}

// CheckReference fails unless ref is a tag or a digest, as CheckTag and
// CheckDigest do.
func CheckReference(ref string) error {
	if IsDigest(ref) {
		return CheckDigest(digest.Digest(ref))
	}
	return CheckTag(ref)
}

// IsDigest reports whether ref, a tag or a digest, is a digest.
func IsDigest(ref string) bool { return strings.Contains(ref, ":") }
