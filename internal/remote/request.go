package remote

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"
	"unicode"

	"github.com/containerd/errdefs"
)

// Bounds.
const (
	maxTries     = 5
	maxRedirects = 10
	maxWait      = 2 * time.Minute // that a registry may ask for before a retry
	maxErrorBody = 64 << 10
)

// request is one call of a registry's API.
type request struct {
	method string
	path   string   // below the origin; or
	url    *url.URL // a place that the registry named
	query  url.Values
	header http.Header
	scopes []string // what a token must allow
	accept []int    // statuses that are no error; nil is 200
	// body opens the body, of size bytes (-1: as many as there are), at each
	// try; nil is none.
	body func() (io.ReadCloser, error)
	size int64
	once bool // not to be tried again here
}

// do sends req, again after passing failures, and returns an answer with one of
// the accepted statuses, whose body the caller closes.
func (r *connection) do(ctx context.Context, req request) (*http.Response, error) {
	if req.accept == nil {
		req.accept = []int{http.StatusOK}
	}
	for try := 1; ; try++ {
		resp, err := r.send(ctx, req)
		if err == nil && slices.Contains(req.accept, resp.StatusCode) {
			return resp, nil
		}
		wait := backoff(try)
		if err == nil {
			err = answerError(resp)
			wait = max(wait, parseRetryAfter(resp))
		}
		if !passing(err) || wait > maxWait || req.once || try == r.tries() || ctx.Err() != nil {
			return nil, err
		}
		r.client.opts.Log.Debug("registry request failed, trying again", "host", r.host, "method", req.method, "err", err)
		if err := sleep(ctx, wait); err != nil {
			return nil, err
		}
	}
}

// backoff is the time to wait after the try-th failure.
func backoff(try int) time.Duration {
	d := 200 * time.Millisecond << min(try-1, 6)
	return d/2 + rand.N(d/2) //nolint:gosec // spreads load
}

func sleep(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// send sends req once: to where redirects lead, with a token where the origin
// asks for one.
func (r *connection) send(ctx context.Context, req request) (*http.Response, error) {
	origin, err := r.origin(ctx)
	if err != nil {
		return nil, err
	}
	target := req.url
	if target == nil {
		target = &url.URL{Scheme: origin.Scheme, Host: origin.Host, Path: req.path, RawQuery: req.query.Encode()}
	}
	asked := false
	for redirects := 0; redirects <= maxRedirects; {
		own := sameOrigin(target, origin)
		resp, sent, err := r.sendTo(ctx, req, target, own)
		if err != nil {
			return nil, err
		}
		switch {
		case resp.StatusCode == http.StatusUnauthorized && own && !asked:
			asked = true
			if err := r.authorize(ctx, resp, req.scopes, sent); err != nil {
				return nil, err
			}
		case isRedirect(resp, req.method):
			redirects++
			if target, err = r.follow(origin, target, resp); err != nil {
				return nil, err
			}
		default:
			return resp, nil
		}
	}
	return nil, permanent(fmt.Errorf("%s %s: more than %d redirects", req.method, r.host, maxRedirects))
}

// sendTo sends req to target, with credentials only if that is the origin. sent
// is the Authorization that went along.
func (r *connection) sendTo(ctx context.Context, req request, target *url.URL, own bool) (resp *http.Response, sent string, err error) {
	hr := (&http.Request{Method: req.method, URL: target, Header: req.header.Clone(), Host: target.Host}).WithContext(ctx)
	if hr.Header == nil {
		hr.Header = http.Header{}
	}
	hr.Header.Set("User-Agent", r.client.opts.UserAgent)
	if own {
		if sent, err = r.authorization(ctx, req.scopes); err != nil {
			return nil, "", err
		}
		if sent != "" {
			hr.Header.Set("Authorization", sent)
		}
	}
	var out *sendBody
	if req.body != nil {
		if out, err = openBody(req, hr); err != nil {
			return nil, "", err
		}
	}
	tr := r.ways.own
	if !own {
		if tr, err = r.ways.foreignFor(r.client, hr); err != nil {
			return nil, "", closeBody(hr, err)
		}
	}
	resp, err = tr.RoundTrip(hr)
	if err != nil {
		if failed := out.failure(); failed != nil {
			err = failed // the caller's failure, not the registry's
		}
		if own && connecting(err) {
			return nil, "", connectError(target, err)
		}
		return nil, "", fmt.Errorf("%s %s: %w", req.method, place(target), err)
	}
	if own {
		r.client.warn(r.host, resp.Header.Values("Warning"))
	}
	if l := rateLimit(resp); l.Limit != "" {
		r.client.opts.Log.Debug("rate limit", "host", r.host, "limit", l.Limit, "remaining", l.Remaining, "source", l.Source)
	}
	return resp, sent, nil
}

// connecting reports whether a request failed before there was a connection.
func connecting(err error) bool {
	if e, ok := errors.AsType[*net.OpError](err); ok && (e.Op == "dial" || e.Op == "remote error") {
		return true
	}
	_, badCert := errors.AsType[*tls.CertificateVerificationError](err)
	_, noTLS := errors.AsType[tls.RecordHeaderError](err)
	return badCert || noTLS
}

// connectError says, as docker, that there is no way to the API.
func connectError(origin *url.URL, err error) error {
	return &url.Error{Op: "Get", URL: origin.Scheme + "://" + origin.Host + "/v2/", Err: err}
}

// openBody opens req's body as hr's.
func openBody(req request, hr *http.Request) (*sendBody, error) {
	rc, err := req.body()
	if err != nil {
		return nil, permanent(err)
	}
	if req.size == 0 {
		hr.Body = http.NoBody
		return nil, rc.Close()
	}
	out := &sendBody{rc: rc, left: req.size}
	hr.Body, hr.ContentLength = out, req.size
	return out, nil
}

// sendBody is a request's body that keeps the failure to read it, and fails
// when it ends early. The transport may read it after it has returned an error.
type sendBody struct {
	rc   io.ReadCloser
	left int64

	mu  sync.Mutex
	err error
}

func (b *sendBody) Read(p []byte) (int, error) {
	n, err := b.rc.Read(p)
	b.left -= int64(n)
	if errors.Is(err, io.EOF) && b.left > 0 {
		err = fmt.Errorf("%d bytes too few: %w", b.left, io.ErrUnexpectedEOF)
	}
	if err != nil && !errors.Is(err, io.EOF) {
		b.mu.Lock()
		defer b.mu.Unlock()
		b.err = permanent(err)
	}
	return n, err
}

func (b *sendBody) Close() error { return b.rc.Close() }

func (b *sendBody) failure() error {
	if b == nil {
		return nil
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.err
}

func closeBody(hr *http.Request, err error) error {
	if hr.Body != nil {
		return errors.Join(err, hr.Body.Close())
	}
	return err
}

// place names u without its query, which may hold a secret.
func place(u *url.URL) string {
	return printable(u.Scheme + "://" + u.Host + u.EscapedPath())
}

// isRedirect reports whether resp sends a request of this method elsewhere.
func isRedirect(resp *http.Response, method string) bool {
	switch resp.StatusCode {
	case http.StatusTemporaryRedirect, http.StatusPermanentRedirect:
		return true
	case http.StatusMovedPermanently, http.StatusFound, http.StatusSeeOther:
		return method == http.MethodGet || method == http.MethodHead
	}
	return false
}

// follow returns where resp redirects to, if a registry at origin may.
func (r *connection) follow(origin, from *url.URL, resp *http.Response) (*url.URL, error) {
	discard(resp)
	to, err := from.Parse(resp.Header.Get("Location"))
	if err != nil || resp.Header.Get("Location") == "" {
		return nil, permanent(fmt.Errorf("%s: malformed redirect", place(from)))
	}
	return to, checkPlace(origin, to)
}

// checkPlace fails unless a registry at origin may send a client to u.
func checkPlace(origin, u *url.URL) error {
	if u.Scheme != "https" && (u.Scheme != "http" || origin.Scheme != "http") || u.Host == "" || u.User != nil {
		return fmt.Errorf("%s may not send clients to %s: %w", origin.Host, place(u), errdefs.ErrPermissionDenied)
	}
	return nil
}

// discard ends an answer so that its connection can be used again.
func discard(resp *http.Response) {
	_, _ = io.CopyN(io.Discard, resp.Body, maxErrorBody) // nothing of it is wanted
	_ = resp.Body.Close()
}

// printable keeps a server's words short and free of what a terminal could take
// for a command, or for another order of the letters.
func printable(s string) string {
	if len(s) > 1000 {
		s = strings.ToValidUTF8(s[:1000], "") + "..."
	}
	return strings.Map(func(c rune) rune {
		if !unicode.IsPrint(c) {
			return ' '
		}
		return c
	}, s)
}
