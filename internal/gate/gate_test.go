package gate

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"strake/internal/auth"
	"strake/internal/conformance"
	"strake/internal/hub"
	"strake/internal/hubdb"
	"strake/internal/registry"
	"strake/internal/sqldb"
)

const password = "correct horse battery"

// served is a Hub behind its gate, with the users sam, who administers it, and
// ann, whose ann/app is private and ann/site public, and bob.
type served struct {
	*testing.T
	db     *sqldb.DB
	gate   *Gate
	url    string
	system context.Context
	blob   digest.Digest
}

// engines calls test with the place of a fresh database of each kind.
func engines(t *testing.T, test func(t *testing.T, database string)) {
	t.Run("SQLite", func(t *testing.T) { test(t, filepath.Join(t.TempDir(), "hub.db")) })
	t.Run("PostgreSQL", func(t *testing.T) { test(t, conformance.PostgreSQL(t)) })
}

func serve(t *testing.T, database string) served {
	t.Helper()
	h, err := hub.Open(t.Context(), hub.Options{Dir: t.TempDir(), Database: database})
	if err != nil {
		t.Fatal(err)
	}
	db, err := hubdb.Open(t.Context(), database)
	if err != nil {
		t.Fatal(err)
	}
	s := served{T: t, db: db, gate: New(db, Options{}), system: auth.With(t.Context(), auth.Identity{System: true})}
	for _, name := range []string{"sam", "ann", "bob"} {
		s.ok(auth.AddUser(s.system, db, auth.NewUser{Name: name, Password: password, Admin: name == "sam"}))
	}
	const text = "{}"
	s.blob = digest.FromString(text)
	for _, repo := range []string{"ann/app", "ann/site"} {
		desc := ocispec.Descriptor{MediaType: ocispec.MediaTypeImageConfig, Digest: s.blob, Size: int64(len(text))}
		s.ok(h.PushBlob(s.system, repo, desc, strings.NewReader(text)))
		m := ocispec.Manifest{MediaType: ocispec.MediaTypeImageManifest, Config: desc, Layers: []ocispec.Descriptor{}}
		m.SchemaVersion = 2
		b, err := json.Marshal(m)
		s.ok(err)
		_, err = h.PutManifest(s.system, repo, []string{"1"}, registry.Manifest{MediaType: m.MediaType, Bytes: b})
		s.ok(err)
	}
	s.exec(`UPDATE repositories SET public = 1 WHERE name = 'ann/site'`)
	mux := http.NewServeMux()
	mux.Handle("/token", s.gate.Token())
	mux.Handle("/", s.gate.Registry(registry.NewHandler(h, registry.Options{})))
	server := httptest.NewServer(mux)
	s.url = server.URL
	t.Cleanup(func() {
		server.Close()
		if err := errors.Join(db.Close(), h.Close()); err != nil {
			t.Error(err)
		}
	})
	return s
}

func (s served) ok(err error) {
	s.Helper()
	if err != nil {
		s.Fatal(err)
	}
}

func (s served) exec(query string) {
	s.Helper()
	s.ok(s.db.Update(s.Context(), func(tx *sql.Tx) error {
		_, err := tx.ExecContext(s.Context(), query)
		return err
	}))
}

// reply is an answer.
type reply struct {
	status int
	header http.Header
	body   string
}

// do sends a request with an Authorization, unless that is empty.
func (s served) do(method, path, authorization string) reply {
	s.Helper()
	req, err := http.NewRequestWithContext(s.Context(), method, s.url+path, nil)
	s.ok(err)
	if authorization != "" {
		req.Header.Set("Authorization", authorization)
	}
	return s.send(req)
}

func (s served) send(req *http.Request) reply {
	s.Helper()
	resp, err := http.DefaultClient.Do(req)
	s.ok(err)
	b, err := io.ReadAll(resp.Body)
	s.ok(errors.Join(err, resp.Body.Close()))
	return reply{resp.StatusCode, resp.Header, string(b)}
}

// basic is the Authorization of a user.
func basic(name, secret string) string {
	r := httptest.NewRequest(http.MethodGet, "/", nil)
	r.SetBasicAuth(name, secret)
	return r.Header.Get("Authorization")
}

// token gets a registry token.
func (s served) token(authorization string, scopes ...string) string {
	s.Helper()
	got := s.do(http.MethodGet, "/token?"+url.Values{"service": {service}, "scope": scopes}.Encode(), authorization)
	var a answer
	if err := json.Unmarshal([]byte(got.body), &a); err != nil || got.status != http.StatusOK || a.Token == "" || a.Token != a.AccessToken || a.ExpiresIn < 60 {
		s.Fatalf("token: %d %s", got.status, got.body)
	}
	return "Bearer " + a.Token
}

func (s served) want(status int, method, path, authorization string) {
	s.Helper()
	if got := s.do(method, path, authorization); got.status != status {
		s.Errorf("%s %s: %d %s, want %d", method, path, got.status, got.body, status)
	}
}

// The way of docker: asked for a token at /v2/, with the scope at what needs one.
func TestTokenFlow(t *testing.T) { engines(t, testTokenFlow) }

func testTokenFlow(t *testing.T, database string) {
	s := serve(t, database)
	got := s.do(http.MethodGet, "/v2/", "")
	if want := `Bearer realm="` + s.url + `/token",service="strake-hub"`; got.status != 401 || got.header.Get("WWW-Authenticate") != want {
		t.Errorf("/v2/: %d %q", got.status, got.header)
	}
	s.want(200, "GET", "/v2/", s.token(basic("ann", password)))
	s.want(200, "GET", "/v2/", s.token(""))
	s.want(200, "GET", "/v2/", basic("ann", password))
	s.want(401, "GET", "/v2/", basic("ann", "wrong"))
	s.want(401, "GET", "/v2/", "Negotiate abc")
	s.want(401, "GET", "/token", basic("ann", "wrong"))
	s.want(400, "GET", "/token?scope=repository", "")
	s.want(405, "PUT", "/token", "")

	got = s.do(http.MethodPost, "/v2/ann/app/blobs/uploads/?mount="+s.blob.String()+"&from=ann/site", "")
	if want := `scope="repository:ann/app:pull,push repository:ann/site:pull"`; got.status != 401 || !strings.Contains(got.header.Get("WWW-Authenticate"), want) {
		t.Errorf("push: %d %q", got.status, got.header)
	}
	pull := s.token(basic("ann", password), "repository:ann/app:pull")
	s.want(200, "GET", "/v2/ann/app/manifests/1", pull)
	s.want(200, "GET", "/v2/ann/app/blobs/"+s.blob.String(), pull)
	got = s.do(http.MethodPost, "/v2/ann/app/blobs/uploads/", pull)
	if h := got.header.Get("WWW-Authenticate"); got.status != 401 || !strings.Contains(h, `scope="repository:ann/app:pull,push",error="insufficient_scope"`) {
		t.Errorf("push with a token to pull: %d %q", got.status, h)
	}
	s.want(401, "GET", "/v2/ann/site/manifests/1", pull) // asks for another token
	push := s.token(basic("ann", password), "repository:ann/app:pull,push", "repository:ann/new:push")
	s.want(202, "POST", "/v2/ann/app/blobs/uploads/", push)
	s.want(202, "POST", "/v2/ann/new/blobs/uploads/", push)
	s.want(401, "DELETE", "/v2/ann/app/manifests/1", push)

	// To mount is to pull elsewhere: with a token for that, where the caller may.
	const mount = "/v2/ann/new/blobs/uploads/?mount="
	got = s.do(http.MethodPost, mount+s.blob.String()+"&from=ann/app", s.token(basic("ann", password), "repository:ann/new:pull,push"))
	if h := got.header.Get("WWW-Authenticate"); got.status != 401 || !strings.Contains(h, `scope="repository:ann/new:pull,push repository:ann/app:pull",error="insufficient_scope"`) {
		t.Errorf("mount with a token to push: %d %q", got.status, h)
	}
	s.want(201, "POST", mount+s.blob.String()+"&from=ann/app", push)
	s.want(202, "POST", mount+s.blob.String()+"&from=bob/secret", push)
	s.want(202, "DELETE", "/v2/ann/app/manifests/1", s.token(basic("ann", password), "repository:ann/app:delete"))

	// Official names are the administrators'.
	for _, repo := range []string{"library/debian", "debian"} {
		s.want(403, "POST", "/v2/"+repo+"/blobs/uploads/", s.token(basic("ann", password), "repository:"+repo+":pull,push"))
		s.want(202, "POST", "/v2/"+repo+"/blobs/uploads/", s.token(basic("sam", password), "repository:"+repo+":pull,push"))
	}
}

// What is public is there for everybody, all else for nobody.
func TestAnonymous(t *testing.T) { engines(t, testAnonymous) }

func testAnonymous(t *testing.T, database string) {
	s := serve(t, database)
	s.want(200, "GET", "/v2/ann/site/manifests/1", "")
	s.want(200, "GET", "/v2/ann/site/manifests/1", s.token("", "repository:ann/site:pull,push"))
	there := s.do(http.MethodGet, "/v2/ann/app/manifests/1", "")
	absent := s.do(http.MethodGet, "/v2/ann/abc/manifests/1", "")
	if there.status != 401 || absent.status != 401 || strings.ReplaceAll(there.body, "app", "abc") != absent.body {
		t.Errorf("anonymous: %d %s; of what is not there: %d %s", there.status, there.body, absent.status, absent.body)
	}
	if h := there.header.Get("WWW-Authenticate"); !strings.HasSuffix(h, `scope="repository:ann/app:pull"`) {
		t.Errorf("challenge: %q", h)
	}
	// Who sends no credentials is asked for them before what is public is called
	// missing: it may wait for a review, and be theirs.
	for _, path := range []string{"/v2/ann/site/manifests/none", "/v2/ann/site/blobs/" + digest.FromString("none").String()} {
		if got := s.do(http.MethodGet, path, ""); got.status != 401 || !strings.Contains(got.body, `"UNAUTHORIZED"`) || !strings.HasSuffix(got.header.Get("WWW-Authenticate"), `scope="repository:ann/site:pull"`) {
			t.Errorf("%s: %d %s %v", path, got.status, got.body, got.header)
		}
		s.want(401, "HEAD", path, "")
		s.want(404, "GET", path, s.token("", "repository:ann/site:pull"))
	}
	for _, authorization := range []string{basic("bob", password), s.token(basic("bob", password), "repository:ann/app:pull", "repository:ann/abc:pull")} {
		there, absent = s.do(http.MethodGet, "/v2/ann/app/manifests/1", authorization), s.do(http.MethodGet, "/v2/ann/abc/manifests/1", authorization)
		if there.status != absent.status || there.status == 200 || strings.ReplaceAll(there.body, "app", "abc") != absent.body {
			t.Errorf("bob: %d %s; of what is not there: %d %s", there.status, there.body, absent.status, absent.body)
		}
	}
}

// CVE-2020-29662: the catalog tells each what they may see.
func TestCVE_2020_29662_Catalog(t *testing.T) { engines(t, testCVE_2020_29662_Catalog) }

func testCVE_2020_29662_Catalog(t *testing.T, database string) {
	s := serve(t, database)
	robot, _, err := auth.AddToken(s.system, s.db, "ann", auth.NewToken{Name: "ci", Robot: true, Scopes: []auth.Scope{{Repository: "ann/app", Role: auth.Read}}})
	s.ok(err)
	for name, c := range map[string]struct{ authorization, want string }{
		"anonymous":     {"", `["ann/site"]`},
		"its token":     {s.token("", "registry:catalog:*"), `["ann/site"]`},
		"bob":           {s.token(basic("bob", password), "registry:catalog:*"), `["ann/site"]`},
		"ann":           {s.token(basic("ann", password), "registry:catalog:*"), `["ann/app","ann/site"]`},
		"the robot":     {s.token(basic("ann+ci", robot), "registry:catalog:*"), `["ann/app"]`},
		"administrator": {s.token(basic("sam", password), "registry:catalog:*"), `["ann/app","ann/site"]`},
	} {
		if got := s.do(http.MethodGet, "/v2/_catalog", c.authorization); got.status != 200 || !strings.Contains(got.body, c.want) {
			t.Errorf("%s: %d %s, want %s", name, got.status, got.body, c.want)
		}
	}
}

// What is taken away is gone with the next request, whatever was signed.
func TestRevocation(t *testing.T) { engines(t, testRevocation) }

func testRevocation(t *testing.T, database string) {
	s, yes := serve(t, database), true
	const pull = "repository:ann/app:pull"
	personal, made, err := auth.AddToken(s.system, s.db, "ann", auth.NewToken{Name: "laptop"})
	s.ok(err)
	s.ok(auth.SetGrant(s.system, s.db, "ann/app", auth.Grant{To: "bob", Role: auth.Read}))
	byToken, byPassword, byGrant := s.token(basic("ann", personal), pull), s.token(basic("ann", password), pull), s.token(basic("bob", password), pull)
	for _, authorization := range []string{byToken, byPassword, byGrant, "Bearer " + personal} {
		s.want(200, "GET", "/v2/ann/app/manifests/1", authorization)
	}
	s.ok(auth.SetGrant(s.system, s.db, "ann/app", auth.Grant{To: "bob", Role: auth.None}))
	s.want(404, "GET", "/v2/ann/app/manifests/1", byGrant)
	s.ok(auth.RemoveToken(s.system, s.db, "ann", made.ID))
	s.want(401, "GET", "/v2/ann/app/manifests/1", byToken)
	s.want(401, "GET", "/v2/ann/app/manifests/1", "Bearer "+personal)
	s.want(200, "GET", "/v2/ann/app/manifests/1", byPassword)
	s.ok(auth.SetPassword(s.system, s.db, "ann", "", "another good secret"))
	s.want(401, "GET", "/v2/ann/app/manifests/1", byPassword)
	byPassword = s.token(basic("ann", "another good secret"), pull)
	s.ok(auth.ChangeAccount(s.system, s.db, "ann", auth.AccountChange{Disabled: &yes}))
	s.want(401, "GET", "/v2/ann/app/manifests/1", byPassword)
}

// docker login keeps a login instead of the password.
func TestRefreshToken(t *testing.T) { engines(t, testRefreshToken) }

func testRefreshToken(t *testing.T, database string) {
	s := serve(t, database)
	var a answer
	got := s.do(http.MethodGet, "/token?offline_token=true&client_id=docker", basic("ann", password))
	s.ok(json.Unmarshal([]byte(got.body), &a))
	if !auth.IsToken(a.RefreshToken) {
		t.Fatalf("refresh token %q", a.RefreshToken)
	}
	post := func(form url.Values) (reply, answer) {
		t.Helper()
		req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, s.url+"/token", strings.NewReader(form.Encode()))
		s.ok(err)
		req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
		got := s.send(req)
		var a answer
		s.ok(json.Unmarshal([]byte(got.body), &a))
		return got, a
	}
	refresh := url.Values{"grant_type": {"refresh_token"}, "refresh_token": {a.RefreshToken}, "service": {service}, "client_id": {"docker"}, "scope": {"repository:ann/app:pull"}}
	_, b := post(refresh)
	s.want(200, "GET", "/v2/ann/app/manifests/1", "Bearer "+b.AccessToken)
	_, b = post(url.Values{"grant_type": {"password"}, "username": {"ann"}, "password": {password}, "access_type": {"offline"}, "scope": {"repository:ann/app:pull"}})
	s.want(200, "GET", "/v2/ann/app/manifests/1", "Bearer "+b.AccessToken)
	if !auth.IsToken(b.RefreshToken) {
		t.Errorf("refresh token %q", b.RefreshToken)
	}
	s.ok(auth.SetPassword(s.system, s.db, "ann", "", "another good secret"))
	for _, form := range []url.Values{refresh, {"grant_type": {"password"}, "username": {"ann"}, "password": {password}}} {
		if got, b := post(form); got.status != 401 || b.AccessToken != "" || !strings.Contains(got.body, "invalid_grant") {
			t.Errorf("%v: %d %s", form, got.status, got.body)
		}
	}
	if got, _ := post(url.Values{"grant_type": {"client_credentials"}}); got.status != 400 {
		t.Errorf("another grant: %d %s", got.status, got.body)
	}
}

// CVE-2025-24976: a token brings no key and no algorithm of its own.
func TestCVE_2025_24976_KeyInHeader(t *testing.T) { engines(t, testCVE_2025_24976_KeyInHeader) }

func testCVE_2025_24976_KeyInHeader(t *testing.T, database string) {
	s := serve(t, database)
	good := s.token(basic("ann", password), "repository:ann/app:pull")
	k, err := s.gate.signer(t.Context())
	s.ok(err)
	public, private, err := ed25519.GenerateKey(rand.Reader)
	s.ok(err)
	now := time.Now()
	standard := jwt.Claims{Issuer: service, Audience: jwt.Audience{service}, Subject: "ann", Expiry: jwt.NewNumericDate(now.Add(time.Minute))}
	own := claims{Access: []access{{"repository", "ann/app", []string{"pull"}}}, Account: 2}
	sign := func(alg jose.SignatureAlgorithm, key any, id string, embed bool, std jwt.Claims) string {
		signer, err := jose.NewSigner(jose.SigningKey{Algorithm: alg, Key: jose.JSONWebKey{Key: key, KeyID: id}}, &jose.SignerOptions{EmbedJWK: embed})
		s.ok(err)
		text, err := jwt.Signed(signer).Claims(std).Claims(own).Serialize()
		s.ok(err)
		return text
	}
	s.want(200, "GET", "/v2/ann/app/manifests/1", "Bearer "+sign(jose.EdDSA, k.private, k.id, false, standard)) // the control
	expired, other, early, never := standard, standard, standard, standard
	expired.Expiry = jwt.NewNumericDate(now.Add(-time.Minute))
	other.Audience = jwt.Audience{"elsewhere"}
	early.NotBefore = jwt.NewNumericDate(now.Add(time.Hour))
	never.Expiry = nil
	parts := strings.Split(strings.TrimPrefix(good, "Bearer "), ".")
	for name, text := range map[string]string{
		"own key in the header":  sign(jose.EdDSA, private, k.id, true, standard),
		"own key":                sign(jose.EdDSA, private, "mine", false, standard),
		"public key as a secret": sign(jose.HS256, []byte(public), k.id, false, standard),
		"none":                   "eyJhbGciOiJub25lIn0." + parts[1] + ".",
		"no signature":           parts[0] + "." + parts[1] + ".",
		"another's claims":       parts[0] + ".e30." + parts[2],
		"expired":                sign(jose.EdDSA, k.private, k.id, false, expired),
		"for another service":    sign(jose.EdDSA, k.private, k.id, false, other),
		"not yet":                sign(jose.EdDSA, k.private, k.id, false, early),
		"without an end":         sign(jose.EdDSA, k.private, k.id, false, never),
		"garbage":                "a.b.c",
		"long":                   strings.Repeat("a", 30000),
	} {
		got := s.do(http.MethodGet, "/v2/ann/app/manifests/1", "Bearer "+text)
		if got.status != 401 || !strings.Contains(got.header.Get("WWW-Authenticate"), `error="invalid_token"`) {
			t.Errorf("%s: %d %s", name, got.status, got.body)
		}
	}
}

// Replicas share their keys; a key that is deleted ends what it signed.
func TestKeysOfReplicas(t *testing.T) { engines(t, testKeysOfReplicas) }

func testKeysOfReplicas(t *testing.T, database string) {
	s := serve(t, database)
	other := New(s.db, Options{})
	text, _, err := other.issue(t.Context(), auth.Identity{}, nil)
	s.ok(err)
	s.want(200, "GET", "/v2/", "Bearer "+text)
	s.want(200, "GET", "/v2/", s.token(""))
	n := 0
	s.ok(s.db.Get(t.Context(), `SELECT count(*) FROM signing_keys`, nil, &n))
	if n != 1 {
		t.Errorf("%d keys", n)
	}
	s.exec(`UPDATE signing_keys SET created = created - 2700000`) // 31 days and a bit
	third := New(s.db, Options{})
	if _, _, err = third.issue(t.Context(), auth.Identity{}, nil); err != nil {
		t.Fatal(err)
	}
	fresh, err := third.signer(t.Context())
	if err != nil || time.Since(fresh.created) > time.Minute {
		t.Errorf("an old key signs: %v, %v", fresh.created, err)
	}
}

// Guessing through either door is slowed down, and said so.
func TestRetryAfter(t *testing.T) { engines(t, testRetryAfter) }

func testRetryAfter(t *testing.T, database string) {
	s := serve(t, database)
	for range 5 {
		s.want(401, "GET", "/token", basic("ann", "wrong"))
	}
	for _, path := range []string{"/token", "/v2/"} {
		if got := s.do(http.MethodGet, path, basic("ann", password)); got.status != 429 || got.header.Get("Retry-After") == "" {
			t.Errorf("%s: %d %q", path, got.status, got.header)
		}
	}
}

// No secret gets into the log.
func TestSecretsStayOutOfLogs(t *testing.T) { engines(t, testSecretsStayOutOfLogs) }

func testSecretsStayOutOfLogs(t *testing.T, database string) {
	var b bytes.Buffer
	s := serve(t, database)
	s.gate.opts.Log = newLog(&b)
	s.want(401, "GET", "/v2/", basic("hunter2-typed-as-name", "hunter2"))
	if !strings.Contains(b.String(), "login failed") || strings.Contains(b.String(), "hunter2") {
		t.Errorf("log: %s", &b)
	}
}

func newLog(w io.Writer) *slog.Logger { return slog.New(slog.NewTextHandler(w, nil)) }

// Who asks too much is told when to come back, and others are not held up.
func TestLimits(t *testing.T) { engines(t, testLimits) }

func testLimits(t *testing.T, database string) {
	s := serve(t, database)
	s.gate.opts.Limits = Limits{AnonymousPulls: 2, Pulls: 3, Window: time.Hour}
	const path = "/v2/ann/site/manifests/1"
	for want := 1; want >= 0; want-- {
		got := s.do(http.MethodGet, path, "")
		if left := got.header.Get("RateLimit-Remaining"); got.status != 200 || left != fmt.Sprintf("%d;w=3600", want) || got.header.Get("RateLimit-Limit") != "2;w=3600" {
			t.Errorf("%d, %q left", got.status, left)
		}
	}
	got := s.do(http.MethodGet, path, "")
	if wait, err := strconv.Atoi(got.header.Get("Retry-After")); got.status != 429 || err != nil || wait < 1 || wait > 1800 || !strings.Contains(got.body, "TOOMANYREQUESTS") {
		t.Errorf("over: %d %q %s", got.status, got.header.Get("Retry-After"), got.body)
	}
	s.want(200, "HEAD", path, "")
	s.want(200, "GET", path, s.token(basic("ann", password), "repository:ann/site:pull"))
	s.gate.opts.Limits = Limits{Requests: 0.1}
	s.want(200, "HEAD", path, "")
	s.want(429, "HEAD", path, "")
}

// However many addresses ask, few are remembered.
func TestLimitsAreBounded(t *testing.T) {
	b := newBuckets()
	for i := range 3 * maxBuckets {
		b.take(strconv.Itoa(i), 1, 10)
	}
	if len(b.by) > maxBuckets {
		t.Errorf("%d buckets", len(b.by))
	}
}
