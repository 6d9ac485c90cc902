package remote_test

import (
	"errors"
	"fmt"
	"net/http"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/containerd/errdefs"

	"strake/internal/remote"
)

// TestRateLimit is a registry that has had enough: for a moment, which is waited
// for, and for long, which is told.
func TestRateLimit(t *testing.T) { synctest.Test(t, testRateLimit) }

func testRateLimit(t *testing.T) {
	var mem memNet
	var refusals atomic.Int64
	after := func() string { return "1" }
	status := http.StatusTooManyRequests
	host := mem.serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch {
		case r.URL.Path == "/v2/":
		case refusals.Add(-1) >= 0:
			w.Header().Set("Retry-After", after())
			w.Header().Set("Ratelimit-Limit", "100;w=21600")
			w.Header().Set("Ratelimit-Remaining", "0;w=21600")
			w.Header().Set("Docker-Ratelimit-Source", "192.0.2.7")
			w.WriteHeader(status)
			fmt.Fprint(w, `{"errors":[{"code":"TOOMANYREQUESTS","message":"You have reached your pull rate limit."}]}`)
		default:
			w.WriteHeader(http.StatusNotFound)
		}
	}))
	r := mem.repository(t, remote.Options{}, host+"/a").Registry()
	date := func() string { return time.Now().Add(2500 * time.Millisecond).UTC().Format(http.TimeFormat) }
	for _, f := range []func() string{after, date} {
		for _, status = range []int{http.StatusTooManyRequests, http.StatusServiceUnavailable} {
			after = f
			refusals.Store(1)
			start := time.Now()
			if _, err := r.GetManifest(t.Context(), "a", "b"); !errdefs.IsNotFound(err) {
				t.Errorf("%d: %v", status, err)
			}
			if d := time.Since(start); d < 900*time.Millisecond || d > 20*time.Second {
				t.Errorf("%d: waited %v for %s", status, d, f())
			}
		}
	}
	status = http.StatusTooManyRequests
	for _, f := range []func() string{
		func() string { return "900" },
		func() string { return time.Now().Add(15 * time.Minute).UTC().Format(http.TimeFormat) },
	} {
		after = f
		refusals.Store(100)
		_, err := r.GetManifest(t.Context(), "a", "b")
		limit, ok := errors.AsType[*remote.RateLimit](err)
		if !ok || !errdefs.IsResourceExhausted(err) || err.Error() != "You have reached your pull rate limit." {
			t.Fatalf("%v", err)
		}
		limit.Wait = limit.Wait.Round(10 * time.Second)
		if got, want := limit.String(), "rate limit: 100 in 6h0m0s, 0 left, counted for 192.0.2.7, try again in 15m0s"; got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
}
