package gate

import (
	"fmt"
	"net"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/time/rate"

	"strake/internal/auth"
)

// Limits are how much one caller may ask of one replica; zeros are no limit. A
// caller is an account, or the address of who did not log in.
type Limits struct {
	Requests       float64       // of the distribution API per second; bursts of ten seconds' worth pass
	Pulls          int           // manifests that an account gets in a window
	AnonymousPulls int           // and an address
	Window         time.Duration // zero is six hours
}

// defaultWindow is docker's.
const defaultWindow = 6 * time.Hour

// maxBuckets is how many callers are remembered; of more, those that used
// nothing lately are forgotten, then any.
const maxBuckets = 20_000

// buckets are token buckets by caller.
type buckets struct {
	mu sync.Mutex
	by map[string]*rate.Limiter
}

func newBuckets() *buckets { return &buckets{by: map[string]*rate.Limiter{}} }

// take takes one token of a caller's bucket, and returns how many are left, and
// how long it takes until there is another where there is none.
func (b *buckets) take(key string, limit rate.Limit, burst int) (left int, wait time.Duration) {
	b.mu.Lock()
	defer b.mu.Unlock()
	l := b.by[key]
	if l == nil {
		if len(b.by) >= maxBuckets {
			b.forget()
		}
		l = rate.NewLimiter(limit, burst)
		b.by[key] = l
	}
	if l.Allow() {
		return int(l.Tokens()), 0
	}
	return 0, time.Duration((1 - l.Tokens()) / float64(limit) * float64(time.Second))
}

// forget drops the buckets that are full, and where that is not enough some others.
func (b *buckets) forget() {
	for key, l := range b.by {
		if l.Tokens() >= float64(l.Burst()) {
			delete(b.by, key)
		}
	}
	for key := range b.by {
		if len(b.by) < maxBuckets*9/10 {
			return
		}
		delete(b.by, key)
	}
}

// limitError tells that a caller asked for too much.
type limitError struct{ wait time.Duration }

func (e *limitError) Error() string {
	return fmt.Sprintf("too many requests: try again in %s", e.wait.Round(time.Second))
}

// limit fails with a *limitError where the caller asked for too much, and says
// in docker's headers how much is left of their pulls.
func (g *Gate) limit(w http.ResponseWriter, r *http.Request, id auth.Identity) error {
	l := g.opts.Limits
	key, pulls := "account "+strconv.FormatInt(id.Account, 10), l.Pulls
	source := id.Name
	if id.Anonymous() {
		host, _, err := net.SplitHostPort(r.RemoteAddr)
		if err != nil {
			host = r.RemoteAddr
		}
		key, pulls, source = "address "+host, l.AnonymousPulls, host
	}
	if l.Requests > 0 {
		if _, wait := g.requests.take(key, rate.Limit(l.Requests), max(1, int(10*l.Requests))); wait > 0 {
			return &limitError{wait}
		}
	}
	if pulls <= 0 || r.Method != http.MethodGet || !strings.Contains(r.URL.Path, "/manifests/") {
		return nil
	}
	window := l.Window
	if window <= 0 {
		window = defaultWindow
	}
	left, wait := g.pulls.take(key, rate.Limit(float64(pulls)/window.Seconds()), pulls)
	suffix := fmt.Sprintf(";w=%d", int(window.Seconds()))
	h := w.Header()
	h.Set("RateLimit-Limit", strconv.Itoa(pulls)+suffix)
	h.Set("RateLimit-Remaining", strconv.Itoa(left)+suffix)
	h.Set("Docker-RateLimit-Source", source)
	if wait > 0 {
		return &limitError{wait}
	}
	return nil
}
