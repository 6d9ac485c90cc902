package web

import (
	"fmt"
	"net/url"
	"strconv"
	"strings"
	"time"
	"unicode"

	"github.com/docker/go-units"
)

// size is a count of bytes as people read it.
func size(n int64) string {
	s := units.HumanSizeWithPrecision(float64(n), 3)
	i := strings.IndexFunc(s, unicode.IsLetter)
	return s[:i] + "\u00a0" + s[i:]
}

// ago is how long ago something was.
func ago(t time.Time) string {
	if t.IsZero() {
		return "never"
	}
	switch d := time.Since(t); {
	case d < time.Minute:
		return "just now"
	case d < time.Hour:
		return plural(int64(d/time.Minute), "minute") + " ago"
	case d < 24*time.Hour:
		return plural(int64(d/time.Hour), "hour") + " ago"
	case d < 60*24*time.Hour:
		return plural(int64(d/(24*time.Hour)), "day") + " ago"
	case d < 730*24*time.Hour:
		return plural(int64(d/(30*24*time.Hour)), "month") + " ago"
	default:
		return plural(int64(d/(365*24*time.Hour)), "year") + " ago"
	}
}

// date is a time as machines and tool tips have it.
func date(t time.Time) string { return t.UTC().Format("2006-01-02 15:04 UTC") }

func plural(n int64, what string) string {
	if n == 1 {
		return "1 " + what
	}
	if stem, ok := strings.CutSuffix(what, "y"); ok && !strings.HasSuffix(stem, "a") {
		return count(n) + " " + stem + "ies"
	}
	return count(n) + " " + what + "s"
}

// count is a number, short where it is large: 1,234, 56.7k, 8.9M.
func count(n int64) string {
	switch {
	case n < 10_000:
		s := strconv.FormatInt(n, 10)
		if n >= 1000 {
			s = s[:len(s)-3] + "," + s[len(s)-3:]
		}
		return s
	case n < 1_000_000:
		return trim(float64(n)/1e3) + "k"
	case n < 1_000_000_000:
		return trim(float64(n)/1e6) + "M"
	}
	return trim(float64(n)/1e9) + "B"
}

func trim(f float64) string { return strings.TrimSuffix(fmt.Sprintf("%.1f", f), ".0") }

// short is a digest as people recognise it.
func short(digest string) string {
	_, hex, _ := strings.Cut(digest, ":")
	return hex[:min(12, len(hex))]
}

// repositoryPath is the path of a repository's page; parts come after /-/.
func repositoryPath(name string, parts ...string) string {
	p := "/r/" + name
	if len(parts) > 0 {
		p += "/-"
		for _, part := range parts {
			p += "/" + url.PathEscape(part)
		}
	}
	return p
}
