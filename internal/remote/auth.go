package remote

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/containerd/errdefs"

	"strake/internal/registry"
)

// auth is what a registry asked for and what it was given.
type auth struct {
	mu     sync.Mutex
	asked  *challenge       // nil: nothing yet
	cred   *Credential      // nil: not looked up yet
	tokens map[string]token // by scopes
}

// token is an access token.
type token struct {
	value   string
	expires time.Time
}

// challenge is one of a WWW-Authenticate header.
type challenge struct {
	scheme string // lower case
	params map[string]string
}

// authorization returns the Authorization for the scopes, "" while the
// registry has not asked for one.
func (r *connection) authorization(ctx context.Context, scopes []string) (string, error) {
	r.auth.mu.Lock()
	defer r.auth.mu.Unlock()
	if r.auth.asked == nil {
		return "", nil
	}
	return r.grant(ctx, scopes)
}

// authorize takes in the challenge of a 401 answer to a request that was sent
// with the given Authorization, and fails when there is no better one.
func (r *connection) authorize(ctx context.Context, resp *http.Response, scopes []string, sent string) error {
	denied := answerError(resp)
	asked := chooseChallenge(resp.Header.Values("Www-Authenticate"))
	if asked == nil {
		return denied
	}
	r.auth.mu.Lock()
	defer r.auth.mu.Unlock()
	r.auth.asked = asked
	if key := scopeKey(scopes); sent == "Bearer "+r.auth.tokens[key].value {
		delete(r.auth.tokens, key)
	}
	got, err := r.grant(ctx, scopes)
	if err != nil {
		return err
	}
	if got == "" || got == sent {
		return denied
	}
	return nil
}

// grant returns the Authorization that answers the challenge. r.auth is locked.
func (r *connection) grant(ctx context.Context, scopes []string) (string, error) {
	if r.auth.cred == nil {
		cred, err := r.client.opts.Credentials(ctx, r.host)
		if err != nil {
			return "", permanent(fmt.Errorf("credentials for %s: %w", r.host, err))
		}
		r.auth.cred = &cred
	}
	cred := *r.auth.cred
	if r.auth.asked.scheme == "basic" {
		if cred.Username == "" && cred.Password == "" {
			return "", &registry.Error{Code: registry.Unauthorized, Message: "no basic auth credentials"}
		}
		return basic(cred), nil
	}
	if cred.RegistryToken != "" {
		return "Bearer " + cred.RegistryToken, nil
	}
	key := scopeKey(scopes)
	if t, ok := r.auth.tokens[key]; ok && time.Now().Before(t.expires) {
		return "Bearer " + t.value, nil
	}
	t, err := r.fetchToken(ctx, *r.auth.asked, cred, scopes)
	if err != nil {
		return "", permanent(fmt.Errorf("token for %s: %w", r.host, err))
	}
	r.auth.tokens[key] = t
	return "Bearer " + t.value, nil
}

func basic(c Credential) string {
	return "Basic " + base64.StdEncoding.EncodeToString([]byte(c.Username+":"+c.Password))
}

func scopeKey(scopes []string) string {
	s := slices.Sorted(slices.Values(scopes))
	return strings.Join(slices.Compact(s), " ")
}

// fetchToken gets a token from the challenge's realm: anonymously, with the
// user's password, or for an identity token.
func (r *connection) fetchToken(ctx context.Context, asked challenge, cred Credential, scopes []string) (token, error) {
	origin, err := r.origin(ctx)
	if err != nil {
		return token{}, err
	}
	realm, err := url.Parse(asked.params["realm"])
	if err != nil || realm.Host == "" {
		return token{}, fmt.Errorf("malformed realm: %w", errdefs.ErrInvalidArgument)
	}
	if err := checkPlace(origin, realm); err != nil {
		return token{}, err
	}
	hr := r.tokenRequest(realm, asked.params["service"], cred, scopes)
	for try := 1; ; try++ {
		t, err := r.tokenOnce(ctx, hr, origin)
		if err == nil || try == maxTries || !passing(err) {
			return t, err
		}
		if err := sleep(ctx, backoff(try)); err != nil {
			return token{}, err
		}
	}
}

// tokenRequest makes the request, whose body can be sent again.
func (r *connection) tokenRequest(realm *url.URL, service string, cred Credential, scopes []string) *http.Request {
	hr := &http.Request{Method: http.MethodGet, URL: realm, Host: realm.Host, Header: http.Header{}}
	hr.Header.Set("User-Agent", r.client.opts.UserAgent)
	if cred.IdentityToken != "" {
		form := url.Values{
			"grant_type": {"refresh_token"}, "refresh_token": {cred.IdentityToken},
			"service": {service}, "client_id": {"strake"}, "scope": {strings.Join(scopes, " ")},
		}.Encode()
		hr.Method = http.MethodPost
		hr.Header.Set("Content-Type", "application/x-www-form-urlencoded")
		hr.ContentLength = int64(len(form))
		hr.GetBody = func() (io.ReadCloser, error) { return io.NopCloser(strings.NewReader(form)), nil }
		return hr
	}
	u := *realm
	query := u.Query()
	if service != "" {
		query.Set("service", service)
	}
	for _, s := range scopes {
		query.Add("scope", s)
	}
	if cred.Username != "" {
		query.Set("account", cred.Username)
		hr.Header.Set("Authorization", basic(cred))
	}
	u.RawQuery = query.Encode()
	hr.URL = &u
	return hr
}

// tokenOnce asks for a token. Redirects are not followed: the request carries a
// secret that is for the realm only.
func (r *connection) tokenOnce(ctx context.Context, hr *http.Request, origin *url.URL) (t token, err error) {
	hr = hr.Clone(ctx)
	if hr.GetBody != nil {
		if hr.Body, err = hr.GetBody(); err != nil {
			return token{}, err
		}
	}
	tr := r.ways.own
	if !sameOrigin(hr.URL, origin) {
		if tr, err = r.ways.foreignFor(r.client, hr); err != nil {
			return token{}, closeBody(hr, err)
		}
	}
	resp, err := tr.RoundTrip(hr)
	if err != nil {
		return token{}, fmt.Errorf("%s: %w", place(hr.URL), err)
	}
	if resp.StatusCode != http.StatusOK {
		return token{}, answerError(resp)
	}
	defer func() { err = errors.Join(err, resp.Body.Close()) }()
	var answer struct {
		Token       string `json:"token"`
		AccessToken string `json:"access_token"`
		ExpiresIn   int    `json:"expires_in"`
	}
	if err := json.NewDecoder(io.LimitReader(resp.Body, 1<<20)).Decode(&answer); err != nil {
		return token{}, permanent(fmt.Errorf("%s: malformed answer", place(hr.URL)))
	}
	if answer.Token == "" {
		answer.Token = answer.AccessToken
	}
	if answer.Token == "" || strings.ContainsFunc(answer.Token, func(c rune) bool { return c <= ' ' || c >= 0x7f }) {
		return token{}, permanent(fmt.Errorf("%s: answer without a token", place(hr.URL)))
	}
	life := time.Duration(min(max(answer.ExpiresIn, 60), 86400)) * time.Second
	return token{answer.Token, time.Now().Add(life - life/10)}, nil
}

// chooseChallenge picks the best challenge that is understood, or nil.
func chooseChallenge(headers []string) *challenge {
	var best *challenge
	for _, h := range headers {
		for _, c := range parseChallenges(h) {
			if c.scheme == "bearer" && c.params["realm"] != "" {
				return &c
			}
			if c.scheme == "basic" {
				best = &c
			}
		}
	}
	return best
}

// parseChallenges parses a WWW-Authenticate header (RFC 9110, 11.6.1).
func parseChallenges(s string) []challenge {
	var list []challenge
	for {
		s = strings.TrimLeft(s, " \t,")
		word := s[:len(s)-len(strings.TrimLeft(s, tokenChars))]
		if word == "" {
			return list
		}
		s = s[len(word):]
		rest := strings.TrimLeft(s, " \t")
		if !strings.HasPrefix(rest, "=") || len(list) == 0 { // a scheme
			list = append(list, challenge{strings.ToLower(word), map[string]string{}})
			continue
		}
		var value string
		value, s = parseValue(strings.TrimLeft(rest[1:], " \t"))
		list[len(list)-1].params[strings.ToLower(word)] = value
	}
}

const tokenChars = "!#$%&'*+-.^_`|~0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz" //nolint:gosec // an alphabet

// parseValue parses a token or a quoted string.
func parseValue(s string) (value, rest string) {
	if !strings.HasPrefix(s, `"`) {
		i := strings.IndexAny(s, ", \t")
		if i < 0 {
			return s, ""
		}
		return s[:i], s[i:]
	}
	var b strings.Builder
	for i := 1; i < len(s); i++ {
		switch {
		case s[i] == '"':
			return b.String(), s[i+1:]
		case s[i] == '\\' && i+1 < len(s):
			i++
		}
		b.WriteByte(s[i])
	}
	return b.String(), ""
}
