package reference

import "strings"

func isDigit(c byte) bool { return '0' <= c && c <= '9' }

func isLetter(c byte) bool { return 'a' <= c|0x20 && c|0x20 <= 'z' }

func isAlphanumeric(c byte) bool { return isLetter(c) || isDigit(c) }

func isHex(c byte) bool { return isDigit(c) || 'a' <= c|0x20 && c|0x20 <= 'f' }

func isWord(c byte) bool { return isAlphanumeric(c) || c == '_' }

// all reports whether each byte of a string that is not empty is one of a class.
func all(s string, class func(byte) bool) bool {
	for i := range len(s) {
		if !class(s[i]) {
			return false
		}
	}
	return s != ""
}

// isTag reports whether s is a word character, then up to 127 more, dots and dashes.
func isTag(s string) bool {
	return len(s) <= maxTag && all(s, func(c byte) bool { return isWord(c) || c == '.' || c == '-' }) && isWord(s[0])
}

// isComponent reports whether s is one part of a path: lower-case letters and digits, parted by a dot, one or two underscores or dashes.
func isComponent(s string) bool {
	for s != "" {
		after := strings.TrimLeft(s, "abcdefghijklmnopqrstuvwxyz0123456789")
		switch {
		case after == s:
			return false
		case after == "":
			return true
		case after[0] == '.':
			s = after[1:]
		case after[0] == '-':
			s = strings.TrimLeft(after, "-")
		case strings.HasPrefix(after, "__"):
			s = after[2:]
		case after[0] == '_':
			s = after[1:]
		default:
			return false
		}
	}
	return false
}

// isDomain reports whether s is the name or the address of a host, with a port or not.
func isDomain(s string) bool {
	if inner, ok := strings.CutPrefix(s, "["); ok {
		address, port, closed := strings.Cut(inner, "]")
		return closed && all(address, func(c byte) bool { return isHex(c) || c == ':' }) &&
			(port == "" || port[0] == ':' && all(port[1:], isDigit))
	}
	host, port, found := strings.Cut(s, ":")
	if found && !all(port, isDigit) {
		return false
	}
	for label := range strings.SplitSeq(host, ".") {
		if !all(label, func(c byte) bool { return isAlphanumeric(c) || c == '-' }) ||
			label[0] == '-' || label[len(label)-1] == '-' {
			return false
		}
	}
	return true
}

// isDigest reports whether s is an algorithm, a colon and at least 32 hexadecimal digits.
func isDigest(s string) bool {
	algorithm, encoded, found := strings.Cut(s, ":")
	if !found || len(encoded) < minEncoded || !all(encoded, isHex) {
		return false
	}
	start := true // of a part
	for i := range len(algorithm) {
		switch c := algorithm[i]; {
		case isLetter(c):
			start = false
		case start:
			return false
		case !isDigit(c):
			if start = strings.IndexByte("-_+.", c) >= 0; !start {
				return false
			}
		}
	}
	return !start
}
