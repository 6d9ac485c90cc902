package build

import (
	"encoding/base64"
	"fmt"
	"net/http"
	"net/url"
	"strings"
)

// Secrets of these names are not for commands but for servers, as in BuildKit. Of git the name may end with "." and the host, of
// downloads it ends with the host.
const (
	gitHeaderSecret  = "GIT_AUTH_HEADER"   //nolint:gosec // a name
	gitTokenSecret   = "GIT_AUTH_TOKEN"    //nolint:gosec // a name
	httpHeaderSecret = "HTTP_AUTH_HEADER_" //nolint:gosec // a name
	httpTokenSecret  = "HTTP_AUTH_TOKEN_"  //nolint:gosec // a name
)

// authorization is what one server is told of who asks: the Authorization header of requests to origin, and to no other.
type authorization struct {
	address string
	origin  string // of the address: scheme://host[:port]/
	header  string // "" is none
}

// gitAuthorization is that of a git repository.
func gitAuthorization(s *Solver, remote string) (authorization, error) {
	basic := func(token string) string {
		return "basic " + base64.StdEncoding.EncodeToString([]byte("x-access-token:"+token))
	}
	return authorize(s, remote, func(u *url.URL) []authSecret {
		return []authSecret{
			{gitHeaderSecret + "." + u.Host, asItIs},
			{gitTokenSecret + "." + u.Host, basic},
			{gitHeaderSecret, asItIs},
			{gitTokenSecret, basic},
		}
	})
}

// downloadAuthorization is that of a file.
func downloadAuthorization(s *Solver, address string) (authorization, error) {
	return authorize(s, address, func(u *url.URL) []authSecret {
		return []authSecret{
			{httpTokenSecret + u.Hostname(), func(token string) string { return "Bearer " + token }},
			{httpHeaderSecret + u.Hostname(), asItIs},
		}
	})
}

// authSecret is a secret, and the header that is made of it.
type authSecret struct {
	id     string
	header func(value string) string
}

func asItIs(value string) string { return value }

// authorize makes the header of the first secret that the build was given. Credentials in the address go before them.
func authorize(s *Solver, address string, secrets func(*url.URL) []authSecret) (a authorization, err error) {
	u, err := url.Parse(address)
	if err != nil || u.User != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" {
		return a, nil //nolint:nilerr // it is no address that a header goes to
	}
	a.address, a.origin = address, u.Scheme+"://"+u.Host+"/"
	for _, one := range secrets(u) {
		value, found, err := s.secret(Mount{ID: one.id})
		if err != nil {
			return a, err
		}
		if !found {
			continue
		}
		text := strings.TrimSpace(string(value))
		if text == "" || strings.ContainsFunc(text, func(r rune) bool { return r < ' ' || r == 0x7f }) {
			return a, fmt.Errorf("secret %s is not one line of text", one.id)
		}
		a.header = one.header(text)
		return a, nil
	}
	return a, nil
}

// give sets the header of a request where it goes to the origin, and takes it away elsewhere.
func (a authorization) give(r *http.Request) {
	if a.header == "" {
		return
	}
	r.Header.Del("Authorization")
	if r.URL.Scheme+"://"+r.URL.Host+"/" == a.origin {
		r.Header.Set("Authorization", a.header)
	}
}

// gitConfig is what git is told: the header is for one repository, and on GitHub for all, as with BuildKit. No redirect is followed with
// it, for git would take it along.
func (a authorization) gitConfig() [][2]string {
	if a.header == "" {
		return nil
	}
	scope := a.address
	if a.origin == "https://github.com/" || a.origin == "https://www.github.com/" {
		scope = a.origin
	}
	return [][2]string{
		{"http." + scope + ".extraHeader", "Authorization: " + a.header},
		{"http." + scope + ".followRedirects", "false"},
	}
}
