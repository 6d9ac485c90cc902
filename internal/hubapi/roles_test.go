package hubapi

import (
	"bytes"
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"strake/internal/auth"
	"strake/internal/catalog"
	"strake/internal/conformance"
	"strake/internal/gate"
	"strake/internal/hub"
	"strake/internal/registry"
)

// The roles as which every route is walked. org/app is the repository.
var roles = []string{
	"anonymous", "stranger", "member", "reader", "writer", "admin", "owner", "reviewer", "sysop", "robot", "limited", "expired",
}

// class is what the roles get; ok stands for the route's success.
type class map[string]int

const ok = 0

// same is a class in which all roles get one thing, but those named.
func same(all int, but class) class {
	c := class{}
	for _, r := range roles {
		c[r] = all
	}
	for r, status := range but {
		c[r] = status
	}
	c["expired"] = 401
	return c
}

// The classes. An expired token is refused everywhere. What a role may not see
// is 404, what it sees and may not do 403.
var (
	open = same(ok, nil)
	// Logged in with all rights: the robot and the limited token are not.
	users  = same(ok, class{"anonymous": 401, "robot": 403, "limited": 403})
	sysops = same(403, class{"anonymous": 401, "sysop": ok})
	// Of the repository org/app, which is private.
	reads  = same(ok, class{"anonymous": 401, "stranger": 404, "member": 404, "reviewer": 404, "limited": 404})
	writes = with(reads, class{"reader": 403, "robot": 403})
	admins = with(writes, class{"writer": 403})
	// Of the organization org.
	related = same(404, class{"anonymous": 401, "member": ok, "reader": ok, "owner": ok, "sysop": ok, "robot": 403, "limited": 403})
	owners  = with(related, class{"member": 403, "reader": 403})
	// Of the account writer.
	self = same(404, class{"anonymous": 401, "writer": ok, "sysop": ok, "robot": 403, "limited": 403})
)

func with(c class, but class) class {
	out := class{}
	for r, status := range c {
		out[r] = status
	}
	for r, status := range but {
		out[r] = status
	}
	return out
}

// expectation is what a route does for whom. The path's wildcards are filled in
// from fill.
type expectation struct {
	class class
	ok    int // status of success
	body  string
	fill  []string // name, value...
}

// expectations has a row for every route of the table.
var expectations = map[string]expectation{
	"GET /openapi.json": {class: open, ok: 200},
	"GET /whoami":       {class: open, ok: 200},
	"GET /audit":        {class: sysops, ok: 200},

	"GET /accounts":                             {class: users, ok: 200},
	"POST /accounts":                            {class: sysops, ok: 201, body: `{"name":"new-one","password":"correct horse battery"}`},
	"GET /accounts/{account}":                   {class: self, ok: 200, fill: []string{"account", "writer"}},
	"PATCH /accounts/{account}":                 {class: self, ok: 200, fill: []string{"account", "writer"}, body: `{"full_name":"W"}`},
	"DELETE /accounts/{account}":                {class: self, ok: 204, fill: []string{"account", "writer"}},
	"PUT /accounts/{account}/password":          {class: with(self, class{"writer": 401}), ok: 204, fill: []string{"account", "writer"}, body: `{"old":"wrong","new":"correct horse battery"}`},
	"GET /accounts/{account}/tokens":            {class: self, ok: 200, fill: []string{"account", "writer"}},
	"POST /accounts/{account}/tokens":           {class: self, ok: 201, fill: []string{"account", "writer"}, body: `{"name":"more","robot":true,"scopes":[{"repository":"writer/*","role":"read"}]}`},
	"DELETE /accounts/{account}/tokens/{token}": {class: self, ok: 204, fill: []string{"account", "writer", "token", "spare"}},

	"GET /accounts/{account}/sessions":              {class: self, ok: 200, fill: []string{"account", "writer"}},
	"DELETE /accounts/{account}/sessions":           {class: self, ok: 204, fill: []string{"account", "writer"}},
	"DELETE /accounts/{account}/sessions/{session}": {class: self, ok: 204, fill: []string{"account", "writer", "session", browser}},

	"POST /organizations":                                                {class: users, ok: 201, body: `{"name":"another"}`},
	"GET /organizations/{organization}/members":                          {class: related, ok: 200},
	"PUT /organizations/{organization}/members/{member}":                 {class: owners, ok: 204, fill: []string{"member", "stranger"}, body: `{"owner":false}`},
	"DELETE /organizations/{organization}/members/{member}":              {class: with(owners, class{"reader": ok}), ok: 204, fill: []string{"member", "reader"}},
	"GET /organizations/{organization}/teams":                            {class: related, ok: 200},
	"POST /organizations/{organization}/teams":                           {class: owners, ok: 201, body: `{"name":"fresh"}`},
	"DELETE /organizations/{organization}/teams/{team}":                  {class: owners, ok: 204, fill: []string{"team", "readers"}},
	"PUT /organizations/{organization}/teams/{team}/members/{member}":    {class: owners, ok: 204, fill: []string{"team", "readers", "member", "member"}},
	"DELETE /organizations/{organization}/teams/{team}/members/{member}": {class: owners, ok: 204, fill: []string{"team", "readers", "member", "reader"}},

	"GET /repositories":                                       {class: open, ok: 200},
	"POST /repositories":                                      {class: same(403, class{"anonymous": 401, "owner": ok, "sysop": ok}), ok: 201, body: `{"name":"org/new","description":"x","public":true}`},
	"GET /repositories/{repository}":                          {class: reads, ok: 200},
	"PATCH /repositories/{repository}":                        {class: admins, ok: 200, body: `{"description":"better"}`},
	"DELETE /repositories/{repository}":                       {class: admins, ok: 204},
	"GET /repositories/{repository}/tags":                     {class: reads, ok: 200},
	"DELETE /repositories/{repository}/tags/{tag}":            {class: admins, ok: 204, fill: []string{"tag", "1"}},
	"GET /repositories/{repository}/manifests/{reference}":    {class: reads, ok: 200, fill: []string{"reference", "1"}},
	"DELETE /repositories/{repository}/manifests/{reference}": {class: admins, ok: 204, fill: []string{"reference", "digest"}},
	"GET /repositories/{repository}/grants":                   {class: admins, ok: 200},
	"PUT /repositories/{repository}/grants":                   {class: admins, ok: 204, body: `{"to":"stranger","role":"read"}`},
	"DELETE /repositories/{repository}/grants/{grantee}":      {class: admins, ok: 204, fill: []string{"grantee", "writer"}},
	"GET /repositories/{repository}/audit":                    {class: admins, ok: 200},
	"GET /repositories/{repository}/history":                  {class: writes, ok: 200},
	"POST /repositories/{repository}/tags/{tag}/restore":      {class: admins, ok: 200, fill: []string{"tag", "gone"}, body: `{}`},
	"GET /repositories/{repository}/trash":                    {class: writes, ok: 200},
	"POST /repositories/{repository}/trash/{digest}/restore":  {class: admins, ok: 200, fill: []string{"digest", trashed}},
	"GET /repositories/{repository}/retention":                {class: admins, ok: 200},
	"POST /repositories/{repository}/retention":               {class: admins, ok: 200},

	"GET /scopes/{scope}/immutable-tags":            {class: writes, ok: 200, fill: scoped},
	"POST /scopes/{scope}/immutable-tags":           {class: admins, ok: 201, fill: scoped, body: `{"pattern":"v*"}`},
	"DELETE /scopes/{scope}/immutable-tags/{rule}":  {class: admins, ok: 204, fill: scoped},
	"GET /scopes/{scope}/retention-rules":           {class: writes, ok: 200, fill: scoped},
	"POST /scopes/{scope}/retention-rules":          {class: admins, ok: 201, fill: scoped, body: `{"pattern":"*","lastPushed":3}`},
	"DELETE /scopes/{scope}/retention-rules/{rule}": {class: admins, ok: 204, fill: scoped},
	"GET /scopes/{scope}/pull-rule":                 {class: writes, ok: 200, fill: scoped},
	"PUT /scopes/{scope}/pull-rule":                 {class: admins, ok: 204, fill: scoped, body: `{"severity":"none"}`},
	"DELETE /scopes/{scope}/pull-rule":              {class: admins, ok: 204, fill: scoped},
	"GET /usage/{namespace}":                        {class: same(403, class{"anonymous": 401, "owner": ok, "sysop": ok}), ok: 200, fill: scoped},
	"PUT /quotas/{namespace}":                       {class: sysops, ok: 204, fill: scoped, body: `{"bytes":1000000}`},

	"GET /reviews":                    {class: same(403, class{"anonymous": 401, "reviewer": ok, "sysop": ok}), ok: 200},
	"GET /reviews/{review}":           {class: reviewed, ok: 200, fill: scoped},
	"POST /reviews/{review}/comments": {class: reviewed, ok: 204, fill: scoped, body: `{"text":"hm"}`},
	"POST /reviews/{review}/approve":  {class: with(sysops, class{"reviewer": ok}), ok: 204, fill: scoped, body: `{"digest":"` + held + `"}`},
	"POST /reviews/{review}/return":   {class: with(sysops, class{"reviewer": ok}), ok: 204, fill: scoped, body: `{"digest":"` + held + `","comment":"no"}`},

	"GET /scopes/{scope}/webhooks":                                  {class: admins, ok: 200, fill: scoped},
	"POST /scopes/{scope}/webhooks":                                 {class: admins, ok: 201, fill: scoped, body: `{"url":"https://example.com/","events":["push"]}`},
	"PATCH /scopes/{scope}/webhooks/{webhook}":                      {class: admins, ok: 204, fill: scoped, body: `{"enabled":false}`},
	"DELETE /scopes/{scope}/webhooks/{webhook}":                     {class: admins, ok: 204, fill: scoped},
	"POST /scopes/{scope}/webhooks/{webhook}/ping":                  {class: admins, ok: 204, fill: scoped},
	"GET /scopes/{scope}/webhooks/{webhook}/deliveries":             {class: admins, ok: 200, fill: scoped},
	"POST /scopes/{scope}/webhooks/{webhook}/deliveries/{delivery}": {class: admins, ok: 204, fill: scoped},

	"GET /storage":                     {class: sysops, ok: 200},
	"GET /storage/repositories":        {class: sysops, ok: 200},
	"GET /storage/garbage":             {class: sysops, ok: 200},
	"GET /collections":                 {class: sysops, ok: 200},
	"POST /collections":                {class: sysops, ok: 202},
	"GET /vulnerability-data":          {class: sysops, ok: 200},
	"POST /vulnerability-data/refresh": {class: sysops, ok: 202},
	"GET /tags":                        {class: open, ok: 400}, // of what, nobody said: see TestTaggedByAPI
	"GET /repositories/{repository}/manifests/{reference}/scan": {class: reads, ok: 200, fill: []string{"reference", "1"}},

	"GET /proxies":                {class: sysops, ok: 200},
	"PUT /proxies/{namespace}":    {class: sysops, ok: 204, fill: []string{"namespace", "quay"}, body: `{"host":"quay.io","public":true}`},
	"DELETE /proxies/{namespace}": {class: sysops, ok: 204, fill: []string{"namespace", "dockerhub"}},
	"GET /mirrors":                {class: sysops, ok: 200},
	"POST /mirrors":               {class: sysops, ok: 201, body: `{"repository":"org/app","source":"quay.io/org/app","pattern":"v*","every":3600}`},
	"POST /mirrors/{mirror}/run":  {class: sysops, ok: 204, fill: scoped},
	"DELETE /mirrors/{mirror}":    {class: sysops, ok: 204, fill: scoped},

	"PUT /repositories/{repository}/star":    {class: with(reads, class{"robot": 403}), ok: 204},
	"DELETE /repositories/{repository}/star": {class: with(reads, class{"robot": 403}), ok: 204},
}

const good = "correct horse battery"

// fixture is a Hub's directory that is copied for each call that changes it.
type fixture struct {
	hub.Options
	auth   map[string]string // Authorization by role
	spare  string            // ID of a token of writer
	digest string            // of org/app:1
}

// world is a running API.
type world struct {
	*testing.T
	api API
	url string
}

// start serves a Hub until the test ends.
func start(t *testing.T, opts hub.Options) world {
	t.Helper()
	h, err := hub.Open(t.Context(), opts)
	if err != nil {
		t.Fatal(err)
	}
	db := hub.DB(h)
	a := API{DB: db, Hub: h, Catalog: catalog.New(db, h, discard()), Gate: gate.New(db, gate.Options{}), Log: discard()}
	addParts(t, &a, opts.Dir)
	server := httptest.NewServer(NewHandler(a))
	t.Cleanup(func() {
		server.Close()
		if err := h.Close(); err != nil {
			t.Error(err)
		}
	})
	return world{t, a, server.URL}
}

// call sends a request and returns the answer's status and body.
func (w world) call(method, path, authorization, body string) (int, string) {
	w.Helper()
	req, err := http.NewRequestWithContext(w.Context(), method, w.url+prefix+path, strings.NewReader(body))
	if err != nil {
		w.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/json")
	if authorization != "" {
		req.Header.Set("Authorization", authorization)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		w.Fatal(err)
	}
	b, err := io.ReadAll(resp.Body)
	if err := errors.Join(err, resp.Body.Close()); err != nil {
		w.Fatal(err)
	}
	return resp.StatusCode, string(b)
}

func (w world) must(err error) {
	w.Helper()
	if err != nil {
		w.Fatal(err)
	}
}

func system(ctx context.Context) context.Context {
	return auth.With(ctx, auth.Identity{System: true})
}

// build makes the fixture.
func build(t *testing.T) fixture {
	t.Helper()
	return buildOn(t, "")
}

// buildOn is build with a PostgreSQL database.
func buildOn(t *testing.T, database string) fixture {
	t.Helper()
	f := fixture{Options: hub.Options{Dir: t.TempDir(), Database: database}, auth: map[string]string{"anonymous": ""}}
	h, err := hub.Open(t.Context(), f.Options)
	if err != nil {
		t.Fatal(err)
	}
	w := world{T: t, api: API{DB: hub.DB(h), Hub: h}}
	addParts(t, &w.api, f.Dir)
	ctx, db := system(t.Context()), w.api.DB
	for _, name := range []string{"stranger", "member", "reader", "writer", "admin-x", "owner", "reviewer", "sysop"} {
		w.must(auth.AddUser(ctx, db, auth.NewUser{Name: name, Admin: name == "sysop", Reviewer: name == "reviewer"}))
		secret, _, err := auth.AddToken(ctx, db, name, auth.NewToken{Name: "all"})
		w.must(err)
		f.auth[strings.TrimSuffix(name, "-x")] = "Bearer " + secret
	}
	w.must(auth.AddOrganization(ctx, db, "org", ""))
	for _, name := range []string{"owner", "member", "reader"} {
		w.must(auth.SetMember(ctx, db, "org", name, name == "owner"))
	}
	w.must(auth.AddTeam(ctx, db, "org", "readers"))
	w.must(auth.AddTeamMember(ctx, db, "org", "readers", "reader"))
	f.digest = w.push("org/app", "1")
	for to, role := range map[string]auth.Role{"org/readers": auth.Read, "writer": auth.Write, "admin-x": auth.Admin} {
		w.must(auth.SetGrant(ctx, db, "org/app", auth.Grant{To: to, Role: role}))
	}
	token := func(role, account string, n auth.NewToken) string {
		secret, made, err := auth.AddToken(ctx, db, account, n)
		w.must(err)
		if role != "" {
			f.auth[role] = "Bearer " + secret
		}
		return made.ID
	}
	token("robot", "org", auth.NewToken{Name: "ci", Robot: true, Scopes: []auth.Scope{{Repository: "org/app", Role: auth.Read}}})
	token("limited", "owner", auth.NewToken{Name: "limited", Scopes: []auth.Scope{{Repository: "owner/*", Role: auth.Admin}}})
	expired := token("expired", "sysop", auth.NewToken{Name: "expired", Expires: time.Now().Add(time.Hour)})
	w.must(db.Update(ctx, func(tx *sql.Tx) error {
		_, err := tx.ExecContext(ctx, `UPDATE tokens SET expires = $2 WHERE id = $1`, expired, time.Now().Unix()-1)
		return err
	}))
	w.fill()
	f.spare = token("", "writer", auth.NewToken{Name: "spare"})
	w.must(h.Close())
	return f
}

// push pushes an image without layers and returns its digest.
func (w world) push(repo, tag string) string {
	w.Helper()
	ctx := system(w.Context())
	config := []byte(`{"architecture":"amd64","os":"linux","rootfs":{"type":"layers","diff_ids":[]}}`)
	desc := ocispec.Descriptor{MediaType: ocispec.MediaTypeImageConfig, Digest: digest.FromBytes(config), Size: int64(len(config))}
	w.must(w.api.Hub.PushBlob(ctx, repo, desc, bytes.NewReader(config)))
	b, err := json.Marshal(ocispec.Manifest{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest, Config: desc, Layers: []ocispec.Descriptor{}})
	w.must(err)
	made, err := w.api.Hub.PutManifest(ctx, repo, []string{tag}, registry.Manifest{MediaType: ocispec.MediaTypeImageManifest, Bytes: b})
	w.must(err)
	return made.Digest.String()
}

// copied is a copy of the fixture.
func (f fixture) copied(t *testing.T) hub.Options {
	t.Helper()
	opts := hub.Options{Dir: t.TempDir()}
	if err := os.CopyFS(opts.Dir, os.DirFS(f.Dir)); err != nil {
		t.Fatal(err)
	}
	if f.Database != "" {
		opts.Database = conformance.PostgreSQLCopy(t, f.Database)
	}
	return opts
}

// path fills in a pattern.
func (f fixture) path(pattern string, fill []string) string {
	values := append([]string{"repository", "org%2Fapp", "organization", "org"}, fill...)
	for i := 0; i+1 < len(values); i += 2 {
		value := values[i+1]
		switch value {
		case "spare":
			value = f.spare
		case "digest":
			value = f.digest
		}
		pattern = strings.ReplaceAll(pattern, "{"+values[i]+"}", value)
	}
	return pattern
}

// TestEveryRouteAsEveryRole walks all routes as all roles. A route without an
// expectation fails it, as an expectation without a route.
func TestEveryRouteAsEveryRole(t *testing.T) {
	f := build(t)
	seen := map[string]bool{}
	for _, r := range Routes() {
		seen[r.name()] = true
		want, known := expectations[r.name()]
		if !known {
			t.Errorf("%s: no expectation says who may", r.name())
			continue
		}
		t.Run(r.name(), func(t *testing.T) { f.walk(t, r, want) })
	}
	for name := range expectations {
		if !seen[name] {
			t.Errorf("%s: an expectation without a route", name)
		}
	}
}

func (f fixture) walk(t *testing.T, r Route, want expectation) {
	path := f.path(r.Pattern, want.fill)
	if strings.Contains(path, "{") {
		t.Fatalf("%s: not filled in", path)
	}
	check := func(w world, role string) {
		t.Helper()
		expected := want.class[role]
		if expected == ok {
			expected = want.ok
		}
		if got, body := w.call(r.Method, path, f.auth[role], want.body); got != expected {
			t.Errorf("as %s: %d %s, want %d", role, got, body, expected)
		} else if got >= 400 && !strings.HasPrefix(body, `{"code":"`) {
			t.Errorf("as %s: error %s", role, body)
		}
	}
	shared := start(t, f.copied(t))
	before := shared.changes()
	// Who may not goes first: they change nothing.
	for _, role := range roles {
		if want.class[role] != ok || r.Method == http.MethodGet {
			check(shared, role)
		}
	}
	if after := shared.changes(); after != before {
		t.Errorf("%d changes by who may not", after-before)
	}
	for _, role := range roles {
		if want.class[role] == ok && r.Method != http.MethodGet {
			check(start(t, f.copied(t)), role)
		}
	}
}

// TestEveryRoutePostgreSQL calls each route as somebody who may, on PostgreSQL.
func TestEveryRoutePostgreSQL(t *testing.T) {
	f := buildOn(t, conformance.PostgreSQL(t))
	reading := start(t, f.copied(t))
	for _, r := range Routes() {
		want := expectations[r.name()]
		role := roles[slices.IndexFunc(roles, func(role string) bool { return want.class[role] == ok })]
		w := reading
		if r.Method != http.MethodGet {
			w = start(t, f.copied(t))
		}
		if got, body := w.call(r.Method, f.path(r.Pattern, want.fill), f.auth[role], want.body); got != want.ok {
			t.Errorf("%s as %s: %d %s, want %d", r.name(), role, got, body, want.ok)
		}
	}
}

// changes counts the lines of the audit log.
func (w world) changes() (n int) {
	w.Helper()
	w.must(w.api.DB.Get(w.Context(), `SELECT count(*) FROM audit`, nil, &n))
	return n
}

// What is not there looks as what one may not see.
func TestMissingLooksAsForbidden(t *testing.T) {
	f := build(t)
	w := start(t, f.copied(t))
	for _, r := range Routes() {
		want := expectations[r.name()]
		if want.class["stranger"] != 404 {
			continue
		}
		there := f.path(r.Pattern, want.fill)
		absent := strings.NewReplacer("org%2Fapp", "org%2Fxyz", "/org/", "/xyz/", "/accounts/writer", "/accounts/xyzxyz", "/reviews/1", "/reviews/99").Replace(there)
		a, body1 := w.call(r.Method, there, f.auth["stranger"], want.body)
		b, body2 := w.call(r.Method, absent, f.auth["stranger"], want.body)
		clean := strings.NewReplacer("org/app", "", "org/xyz", "", `\"org\"`, "", `\"xyz\"`, "", "writer", "", "xyzxyz", "", "review 99", "", "review 1", "")
		if a != b || there == absent || clean.Replace(body1) != clean.Replace(body2) {
			t.Errorf("%s: %d %s; %s: %d %s", there, a, body1, absent, b, body2)
		}
	}
	if !slices.Contains(roles, "stranger") {
		t.Error("no stranger")
	}
}
