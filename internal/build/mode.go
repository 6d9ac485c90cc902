package build

import (
	"fmt"
	"io/fs"
	"strconv"
	"strings"
)

// Chmod changes the permissions of a mode.
type Chmod func(fs.FileMode) fs.FileMode

// ParseMode reads what chmod(1) takes: an octal number up to 07777, or symbolic
// clauses such as "u=rwX,go=rX". The umask has no part in it.
func ParseMode(s string) (Chmod, error) {
	if strings.Trim(s, "0123456789") == "" {
		n, err := strconv.ParseUint(s, 8, 32)
		if err != nil || n > 0o7777 {
			return nil, fmt.Errorf("invalid chmod parameter: '%v'. it should be octal string and between 0 and 07777", s)
		}
		return func(m fs.FileMode) fs.FileMode { return fromBits(m, uint32(n)) }, nil
	}
	var clauses []func(fs.FileMode, uint32) uint32
	for c := range strings.SplitSeq(s, ",") {
		fns, err := parseClause(c)
		if err != nil {
			return nil, fmt.Errorf("invalid chmod parameter: '%v': %w", s, err)
		}
		clauses = append(clauses, fns...)
	}
	return func(m fs.FileMode) fs.FileMode {
		bits := toBits(m)
		for _, fn := range clauses {
			bits = fn(m, bits)
		}
		return fromBits(m, bits)
	}, nil
}

// parseClause reads [ugoa]*([-+=][rwxXst]*|[ugo])+.
func parseClause(c string) ([]func(fs.FileMode, uint32) uint32, error) {
	i := strings.IndexAny(c, "+-=")
	if i < 0 || strings.Trim(c[:i], "ugoa") != "" {
		return nil, fmt.Errorf("bad clause %q", c)
	}
	var who uint32
	for _, r := range c[:i] {
		who |= map[rune]uint32{'u': 0o4700, 'g': 0o2070, 'o': 0o1007, 'a': 0o7777}[r]
	}
	if i == 0 {
		who = 0o7777
	}
	var out []func(fs.FileMode, uint32) uint32
	for rest := c[i:]; rest != ""; {
		op := rest[0]
		end := strings.IndexAny(rest[1:], "+-=") + 1
		if end == 0 {
			end = len(rest)
		}
		perms := rest[1:end]
		rest = rest[end:]
		if strings.Trim(perms, "rwxXst") != "" && perms != "u" && perms != "g" && perms != "o" {
			return nil, fmt.Errorf("bad clause %q", c)
		}
		out = append(out, func(m fs.FileMode, bits uint32) uint32 {
			v := permBits(perms, m, bits) & who
			switch op {
			case '+':
				return bits | v
			case '-':
				return bits &^ v
			}
			return bits&^(who&0o777|specialOf(m, who)) | v
		})
	}
	return out, nil
}

// specialOf is which special bits "=" clears: a directory keeps its own.
func specialOf(m fs.FileMode, who uint32) uint32 {
	if m.IsDir() {
		return 0
	}
	return who & 0o7000
}

func permBits(perms string, m fs.FileMode, bits uint32) uint32 {
	switch perms {
	case "u":
		return (bits >> 6 & 7) * 0o111
	case "g":
		return (bits >> 3 & 7) * 0o111
	case "o":
		return (bits & 7) * 0o111
	}
	var v uint32
	for _, p := range perms {
		switch p {
		case 'r':
			v |= 0o444
		case 'w':
			v |= 0o222
		case 'x':
			v |= 0o111
		case 'X':
			if m.IsDir() || bits&0o111 != 0 {
				v |= 0o111
			}
		case 's':
			v |= 0o6000
		case 't':
			v |= 0o1000
		}
	}
	return v
}

func toBits(m fs.FileMode) uint32 {
	bits := uint32(m.Perm())
	if m&fs.ModeSetuid != 0 {
		bits |= 0o4000
	}
	if m&fs.ModeSetgid != 0 {
		bits |= 0o2000
	}
	if m&fs.ModeSticky != 0 {
		bits |= 0o1000
	}
	return bits
}

func fromBits(m fs.FileMode, bits uint32) fs.FileMode {
	m = m.Type() | fs.FileMode(bits&0o777)
	if bits&0o4000 != 0 {
		m |= fs.ModeSetuid
	}
	if bits&0o2000 != 0 {
		m |= fs.ModeSetgid
	}
	if bits&0o1000 != 0 {
		m |= fs.ModeSticky
	}
	return m
}
