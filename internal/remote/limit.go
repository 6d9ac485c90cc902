package remote

import (
	"net/http"
	"strconv"
	"strings"
	"time"
)

// RateLimit is what a registry says of the requests that it takes from a client.
// As an error it belongs to an answer that refused one.
type RateLimit struct {
	Limit     string        // requests in a time, as "100 in 6h0m0s"; "": it does not say
	Remaining string        // of them
	Source    string        // whom they are counted for: an address or a user
	Wait      time.Duration // until the next request may succeed; 0: it does not say
	err       error
}

func (l *RateLimit) Error() string { return l.err.Error() }

func (l *RateLimit) Unwrap() error { return l.err }

// String tells the limit in one line, "" when nothing is known of it.
func (l *RateLimit) String() string {
	var parts []string
	if l.Limit != "" {
		parts = append(parts, "rate limit: "+l.Limit)
	}
	if l.Remaining != "" {
		parts = append(parts, l.Remaining+" left")
	}
	if l.Source != "" {
		parts = append(parts, "counted for "+l.Source)
	}
	if l.Wait > 0 {
		parts = append(parts, "try again in "+l.Wait.Round(time.Second).String())
	}
	return strings.Join(parts, ", ")
}

// rateLimit reads the headers of an answer: ratelimit-limit and
// ratelimit-remaining as "100;w=21600", docker-ratelimit-source, Retry-After.
func rateLimit(resp *http.Response) RateLimit {
	limit, window := windowed(resp.Header.Get("Ratelimit-Limit"))
	if limit != "" && window > 0 {
		limit += " in " + window.String()
	}
	remaining, _ := windowed(resp.Header.Get("Ratelimit-Remaining"))
	wait := parseRetryAfter(resp)
	return RateLimit{Limit: limit, Remaining: remaining, Source: printable(resp.Header.Get("Docker-Ratelimit-Source")), Wait: wait}
}

// windowed parses "100;w=21600".
func windowed(s string) (string, time.Duration) {
	count, rest, _ := strings.Cut(s, ";")
	if _, err := strconv.ParseUint(strings.TrimSpace(count), 10, 63); err != nil {
		return "", 0
	}
	_, window, _ := strings.Cut(rest, "w=")
	n, err := strconv.ParseUint(window, 10, 31)
	if err != nil {
		return strings.TrimSpace(count), 0
	}
	return strings.TrimSpace(count), time.Duration(n) * time.Second
}

// limitOf is err, with the limit that resp tells of if it refuses a request for
// that.
func limitOf(resp *http.Response, err error) error {
	if resp.StatusCode != http.StatusTooManyRequests {
		return err
	}
	l := rateLimit(resp)
	l.err = err
	return &l
}

// parseRetryAfter reads Retry-After, which is seconds or a date.
func parseRetryAfter(resp *http.Response) time.Duration {
	s := resp.Header.Get("Retry-After")
	if n, err := strconv.Atoi(s); err == nil && n >= 0 {
		return time.Duration(min(n, 1<<20)) * time.Second
	}
	if at, err := http.ParseTime(s); err == nil {
		return max(0, time.Until(at))
	}
	return 0
}
