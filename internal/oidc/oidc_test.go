package oidc

import (
	"net/http"
	"net/http/cookiejar"
	"net/http/httptest"
	"net/url"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/oauth2-proxy/mockoidc"

	"strake/internal/auth"
	"strake/internal/gate"
	"strake/internal/hubdb"
	"strake/internal/sqldb"
)

// world is a Hub with the organization acme, its team devs and the user ann, and
// an identity provider.
type world struct {
	*testing.T
	db  *sqldb.DB
	idp *mockoidc.MockOIDC
	url string
}

func newWorld(t *testing.T, change func(*Options)) world {
	t.Helper()
	db, err := hubdb.Open(t.Context(), filepath.Join(t.TempDir(), "hub.db"))
	if err != nil {
		t.Fatal(err)
	}
	idp, err := mockoidc.Run()
	if err != nil {
		t.Fatal(err)
	}
	w := world{T: t, db: db, idp: idp}
	system := auth.With(t.Context(), auth.Identity{System: true})
	w.ok(auth.AddUser(system, db, auth.NewUser{Name: "ann", Admin: true}))
	w.ok(auth.AddOrganization(auth.With(t.Context(), auth.Identity{Account: 1, Name: "ann"}), db, "acme", ""))
	w.ok(auth.AddTeam(system, db, "acme", "devs"))
	opts := Options{
		Issuer: idp.Issuer(), ClientID: idp.ClientID, ClientSecret: idp.ClientSecret, AdminGroup: "hub-admins",
		Teams: map[string]string{"engineers": "acme/devs", "others": "acme/absent"},
	}
	if change != nil {
		change(&opts)
	}
	l, err := New(db, opts)
	w.ok(err)
	server := httptest.NewServer(l)
	w.url = server.URL
	t.Cleanup(func() {
		server.Close()
		w.ok(idp.Shutdown())
		w.ok(db.Close())
	})
	return w
}

func (w world) ok(err error) {
	w.Helper()
	if err != nil {
		w.Fatal(err)
	}
}

// browser is a client with cookies that stops before it leaves for the page
// after the login.
func (w world) browser() *http.Client {
	jar, err := cookiejar.New(nil)
	w.ok(err)
	return &http.Client{Jar: jar, CheckRedirect: func(r *http.Request, via []*http.Request) error {
		if strings.HasPrefix(r.URL.String(), w.url) && r.URL.Path != CallbackPath {
			return http.ErrUseLastResponse
		}
		return nil
	}}
}

func (w world) get(c *http.Client, address string) reply {
	w.Helper()
	req, err := http.NewRequestWithContext(w.Context(), http.MethodGet, address, nil)
	w.ok(err)
	resp, err := c.Do(req)
	w.ok(err)
	w.ok(resp.Body.Close())
	return reply{resp.StatusCode, resp.Status, resp.Header}
}

// reply is an answer without its body.
type reply struct {
	StatusCode int
	Status     string
	Header     http.Header
}

// login logs a user of the provider in, and returns who that is here.
func (w world) login(u *mockoidc.MockUser, next string) (auth.Identity, reply) {
	w.Helper()
	w.idp.QueueUser(u)
	c := w.browser()
	resp := w.get(c, w.url+LoginPath+"?next="+url.QueryEscape(next))
	here, err := url.Parse(w.url)
	w.ok(err)
	for _, cookie := range c.Jar.Cookies(here) {
		if cookie.Name == "strake" {
			id, err := auth.Session(w.Context(), w.db, cookie.Value)
			w.ok(err)
			return id, resp
		}
	}
	return auth.Identity{}, resp
}

func (w world) teams() []string {
	w.Helper()
	list, err := auth.Teams(auth.With(w.Context(), auth.Identity{System: true}), w.db, "acme")
	w.ok(err)
	return list[0].Members
}

func TestLogin(t *testing.T) {
	w := newWorld(t, nil)
	u := &mockoidc.MockUser{Subject: "1", Email: "Eve.Miller@example.com", PreferredUsername: "Eve.Miller", Groups: []string{"engineers", "hub-admins"}}
	id, resp := w.login(u, "/account?x=1")
	if id.Name != "eve-miller" || !id.IsAdmin() || resp.Header.Get("Location") != "/account?x=1" {
		t.Errorf("first login: %+v, %s to %q", id, resp.Status, resp.Header.Get("Location"))
	}
	if !slices.Contains(w.teams(), "eve-miller") {
		t.Errorf("team: %v", w.teams())
	}
	again, _ := w.login(u, "/")
	if again.Account != id.Account {
		t.Errorf("second login: %+v", again)
	}
	no := true
	w.ok(auth.ChangeAccount(auth.With(t.Context(), auth.Identity{System: true}), w.db, "eve-miller", auth.AccountChange{Disabled: &no}))
	if id, resp := w.login(u, "/"); id.Account != 0 || resp.StatusCode != http.StatusUnauthorized {
		t.Errorf("disabled: %+v, %s", id, resp.Status)
	}
}

// CVE-2025-23208: a group that was taken away at the provider is gone here.
func TestCVE_2025_23208_GroupRemoved(t *testing.T) {
	w := newWorld(t, nil)
	u := &mockoidc.MockUser{Subject: "1", PreferredUsername: "eve", Groups: []string{"engineers", "hub-admins"}}
	w.login(u, "/")
	u.Groups = nil
	id, _ := w.login(u, "/")
	if id.Account == 0 || id.IsAdmin() || slices.Contains(w.teams(), "eve") {
		t.Errorf("without groups: %+v, %v", id, w.teams())
	}
}

// Who has another's name or address at the provider does not become them.
func TestNamesAreNotIdentity(t *testing.T) {
	w := newWorld(t, nil)
	for _, subject := range []string{"1", "2"} {
		id, _ := w.login(&mockoidc.MockUser{Subject: subject, PreferredUsername: "ann", Email: "ann@example.com"}, "/")
		if id.Account == 1 || !strings.HasPrefix(id.Name, "ann-") {
			t.Errorf("subject %s is %+v", subject, id)
		}
	}
	for _, name := range []string{"admin", "", "ÄÖ", "library", "x@y", "a--b-", strings.Repeat("x", 100)} {
		id, _ := w.login(&mockoidc.MockUser{Subject: "s" + name, PreferredUsername: name}, "/")
		if auth.CheckName(id.Name) != nil {
			t.Errorf("%q is called %q", name, id.Name)
		}
	}
}

// CVE-2024-22244: a login leads nowhere else.
func TestCVE_2024_22244_OpenRedirect(t *testing.T) {
	for next, want := range map[string]string{
		"/r/ann/app?tag=1": "/r/ann/app?tag=1", "": "/", "//evil.example": "/", "https://evil.example": "/", `/\evil.example`: "/", "evil": "/",
		"/\t/evil.example": "/", "javascript:alert(1)": "/", "/%2f/evil": "/%2f/evil",
	} {
		if got := gate.Local(next); got != want {
			t.Errorf("%q leads to %q, want %q", next, got, want)
		}
	}
	w := newWorld(t, nil)
	if _, resp := w.login(&mockoidc.MockUser{Subject: "1", PreferredUsername: "eve"}, "https://evil.example/"); resp.Header.Get("Location") != "/" {
		t.Errorf("leads to %q", resp.Header.Get("Location"))
	}
}

// A callback that this browser did not ask for logs nobody in.
func TestStateAndNonce(t *testing.T) {
	w := newWorld(t, nil)
	if resp := w.get(w.browser(), w.url+CallbackPath+"?code=x&state=y"); resp.StatusCode != http.StatusBadRequest {
		t.Errorf("without a cookie: %s", resp.Status)
	}
	// Begun in this browser, but finished with another's answer.
	mine, other := w.browser(), w.browser()
	stop := func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	mine.CheckRedirect, other.CheckRedirect = stop, stop
	w.get(mine, w.url+LoginPath)
	w.idp.QueueUser(&mockoidc.MockUser{Subject: "9", PreferredUsername: "eve"})
	theirs := w.get(other, w.url+LoginPath)
	answer := w.get(other, theirs.Header.Get("Location"))
	callback := answer.Header.Get("Location")
	if resp := w.get(mine, callback); resp.StatusCode != http.StatusBadRequest {
		t.Errorf("another's answer: %s", resp.Status)
	}
	// The code alone, with this browser's own state, has another's verifier.
	u, err := url.Parse(callback)
	w.ok(err)
	started := w.get(mine, w.url+LoginPath)
	at, err := url.Parse(started.Header.Get("Location"))
	w.ok(err)
	query := u.Query()
	query.Set("state", at.Query().Get("state"))
	u.RawQuery = query.Encode()
	if at.Query().Get("code_challenge_method") != "S256" || at.Query().Get("nonce") == "" {
		t.Errorf("asked for %s", at)
	}
	if resp := w.get(mine, u.String()); resp.StatusCode != http.StatusUnauthorized {
		t.Errorf("another's code: %s", resp.Status)
	}
	// A token that was made for another client.
	other2 := newWorld(t, func(o *Options) { o.ClientID = "somebody-else" })
	if id, resp := other2.login(&mockoidc.MockUser{Subject: "1", PreferredUsername: "eve"}, "/"); id.Account != 0 || resp.StatusCode < 400 {
		t.Errorf("another audience: %+v, %s", id, resp.Status)
	}
}

func TestOptions(t *testing.T) {
	for name, o := range map[string]Options{
		"plain HTTP": {Issuer: "http://idp.example.com", ClientID: "x"}, "no issuer": {ClientID: "x"}, "no client": {Issuer: "https://idp.example.com"},
		"no team": {Issuer: "https://idp.example.com", ClientID: "x", Teams: map[string]string{"a": "b"}},
	} {
		if _, err := New(nil, o); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
	// A provider that does not answer keeps nobody from starting.
	w := newWorld(t, func(o *Options) { o.Issuer = "http://127.0.0.1:1" })
	if resp := w.get(w.browser(), w.url+LoginPath); resp.StatusCode != http.StatusBadGateway {
		t.Errorf("no provider: %s", resp.Status)
	}
	if r := httptest.NewRequest(http.MethodGet, "/", nil); gate.CookieName(r) == cookieName(r) {
		t.Error("one cookie for two things")
	}
}
