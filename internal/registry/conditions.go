package registry

import (
	"strconv"
	"strings"
)

// matches reports whether header, of If-None-Match, names etag: "*" or a list of
// tags, weak ones too (RFC 9110, 13.1.2).
func matches(header, etag string) bool {
	if header == "" {
		return false
	}
	if strings.TrimSpace(header) == "*" {
		return true
	}
	for tag := range strings.SplitSeq(header, ",") {
		if strings.TrimPrefix(strings.TrimSpace(tag), "W/") == etag {
			return true
		}
	}
	return false
}

// byteRange is what a Range header asks for.
type byteRange struct {
	first int64 // negative: so many bytes before the end
	last  int64 // -1: up to the end
}

// parseRange parses a Range header. It returns nil for what is to be ignored:
// none, another unit, several ranges. ok is false where it is malformed and no
// byte can satisfy it, as in bytes=5-2.
func parseRange(s string) (r *byteRange, ok bool) {
	spec, isBytes := strings.CutPrefix(s, "bytes=")
	if !isBytes || strings.Contains(spec, ",") {
		return nil, true
	}
	a, b, dash := strings.Cut(spec, "-")
	if !dash {
		return nil, false
	}
	if a == "" {
		n, ok := parseCount(b)
		return &byteRange{first: -n, last: -1}, ok && n > 0
	}
	first, ok := parseCount(a)
	if b == "" || !ok {
		return &byteRange{first: first, last: -1}, ok
	}
	last, ok := parseCount(b)
	return &byteRange{first: first, last: last}, ok && last >= first
}

// parseCount parses digits alone. What is more than an int64 is the largest.
func parseCount(s string) (int64, bool) {
	if s == "" || strings.Trim(s, "0123456789") != "" {
		return 0, false
	}
	n, err := strconv.ParseInt(s, 10, 64)
	return n, err == nil || n > 0
}

// within cuts r to a blob of size bytes, or reports that none of it is there.
func (r byteRange) within(size int64) (first, length int64, ok bool) {
	first, last := r.first, r.last
	if first < 0 {
		first = max(size+first, 0)
	}
	if first >= size {
		return 0, 0, false
	}
	if last < 0 || last >= size {
		last = size - 1
	}
	return first, last - first + 1, true
}
