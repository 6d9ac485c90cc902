package engine

import (
	"cmp"
	"strings"
)

// compareVersions orders tags as versions: numbers by their value, what is
// missing as 0, and a suffix (1.2-rc1, 1.2-alpine) below the same version
// without one. Tags that are no versions come below all that are, by name and
// backwards, so that reversed they are in order.
func compareVersions(a, b string) int {
	na, suffixA := splitVersion(a)
	nb, suffixB := splitVersion(b)
	switch {
	case len(na) == 0 && len(nb) == 0:
		return cmp.Compare(b, a)
	case len(na) == 0 || len(nb) == 0:
		return cmp.Compare(len(na), len(nb))
	}
	for i := range max(len(na), len(nb)) {
		if c := compareNumbers(at(na, i), at(nb, i)); c != 0 {
			return c
		}
	}
	switch {
	case suffixA == suffixB:
		return cmp.Or(cmp.Compare(len(na), len(nb)), cmp.Compare(a, b))
	case suffixA == "" || suffixB == "":
		return cmp.Compare(len(suffixB), len(suffixA))
	}
	return compareNatural(suffixA, suffixB)
}

// splitVersion cuts a tag into the numbers that it begins with, v aside, and
// the rest.
func splitVersion(tag string) (numbers []string, suffix string) {
	rest := strings.TrimPrefix(tag, "v")
	for {
		digits := len(rest) - len(strings.TrimLeft(rest, "0123456789"))
		if digits == 0 {
			break
		}
		numbers = append(numbers, rest[:digits])
		rest = rest[digits:]
		if len(rest) < 2 || rest[0] != '.' || rest[1] < '0' || rest[1] > '9' {
			break
		}
		rest = rest[1:]
	}
	if rest != "" && len(numbers) == 1 && !strings.ContainsAny(rest[:1], "-._+") {
		return nil, tag // 3d, 1password: a word
	}
	return numbers, rest
}

func at(numbers []string, i int) string {
	if i < len(numbers) {
		return numbers[i]
	}
	return ""
}

// compareNumbers compares numbers of any length.
func compareNumbers(a, b string) int {
	a, b = strings.TrimLeft(a, "0"), strings.TrimLeft(b, "0")
	return cmp.Or(cmp.Compare(len(a), len(b)), cmp.Compare(a, b))
}

// compareNatural compares texts, their numbers by value: rc9 before rc10.
func compareNatural(a, b string) int {
	for a != "" && b != "" {
		da := len(a) - len(strings.TrimLeft(a, "0123456789"))
		db := len(b) - len(strings.TrimLeft(b, "0123456789"))
		if da > 0 && db > 0 {
			if c := compareNumbers(a[:da], b[:db]); c != 0 {
				return c
			}
			a, b = a[da:], b[db:]
			continue
		}
		if a[0] != b[0] {
			return cmp.Compare(a[0], b[0])
		}
		a, b = a[1:], b[1:]
	}
	return cmp.Compare(len(a), len(b))
}
