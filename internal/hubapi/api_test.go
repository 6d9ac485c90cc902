package hubapi

import (
	"bytes"
	"encoding/json"
	"flag"
	"log/slog"
	"net/http"
	"os"
	"strings"
	"testing"

	"strake/internal/auth"
)

var update = flag.Bool("update", false, "write the golden files")

func discard() *slog.Logger { return slog.New(slog.DiscardHandler) }

// document is where the OpenAPI document is for people.
const document = "../../docs/hub-api.json"

// TestDocument holds the document in docs to the table of routes.
func TestDocument(t *testing.T) {
	got, err := Document()
	if err != nil {
		t.Fatal(err)
	}
	if *update {
		if err := os.WriteFile(document, got, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(document)
	if err != nil || !bytes.Equal(got, want) {
		t.Errorf("%s is not what the routes say (go test ./internal/hubapi -update): %v", document, err)
	}
}

// TestBodies: what is sent is read strictly, and never without a bound.
func TestBodies(t *testing.T) {
	f := build(t)
	w := start(t, f.copied(t))
	for body, want := range map[string]int{
		``:                                 400,
		`{`:                                400,
		`[]`:                               400,
		`{"name":"x1"} {}`:                 400,
		`{"name":"x1","has_admin_role":1}`: 400,
		`{"name":1}`:                       400,
		`{"name":"x1","full_name":"` + strings.Repeat("x", maxBody) + `"}`: 413,
		`{"name":"admin"}`: 400,
		`{"name":"org"}`:   409,
		`{"name":"fine"}`:  201,
	} {
		if got, answer := w.call(http.MethodPost, "/organizations", f.auth["stranger"], body); got != want {
			t.Errorf("%.60s: %d %s, want %d", body, got, answer, want)
		}
	}
	if _, answer := w.call(http.MethodPost, "/organizations", f.auth["stranger"], `{"name":"admin"}`); !strings.Contains(answer, `"field":"name"`) {
		t.Errorf("no field is named: %s", answer)
	}
	// CVE-2019-16097 by the API.
	for _, body := range []string{`{"admin":true}`, `{"reviewer":true}`, `{"verified":true}`, `{"Admin":true}`} {
		if got, answer := w.call(http.MethodPatch, "/accounts/writer", f.auth["writer"], body); got != 403 {
			t.Errorf("%s: %d %s", body, got, answer)
		}
	}
	for path, want := range map[string]int{
		"/accounts?limit=0": 400, "/accounts?limit=x": 400, "/audit?after=-1": 400, "/audit?after=9999999999999999999": 400, "/accounts?limit=99999999": 200, "/none": 404,
		"/repositories/org%2f..%2fapp": 404, "/repositories/org/app": 404, "/repositories?q=%00%25'%22": 200,
	} {
		if got, answer := w.call(http.MethodGet, path, f.auth["sysop"], ""); got != want {
			t.Errorf("%s: %d %s, want %d", path, got, answer, want)
		}
	}
}

// TestCVE_2025_30086_Filter: no parameter and no answer leaks the hash of a
// password or of a token.
func TestCVE_2025_30086_Filter(t *testing.T) {
	f := build(t)
	w := start(t, f.copied(t))
	w.must(auth.SetPassword(system(t.Context()), w.api.DB, "writer", "", good))
	for _, r := range Routes() {
		if r.Method != http.MethodGet {
			continue
		}
		for _, query := range []string{"", "?q=password=~argon2&sort=password&name=password&actor=password", "?q=argon2id"} {
			_, body := w.call(r.Method, f.path(r.Pattern, expectations[r.name()].fill)+query, f.auth["sysop"], "")
			if strings.Contains(body, "argon2id$") || strings.Contains(body, `"hash"`) || strings.Contains(body, "sth_") {
				t.Errorf("%s%s: %s", r.name(), query, body)
			}
		}
	}
}

// TestPages reads lists in parts.
func TestPages(t *testing.T) {
	f := build(t)
	w := start(t, f.copied(t))
	for _, tag := range []string{"2", "3", "4"} {
		w.push("org/app", tag)
	}
	for path, want := range map[string]int{"/accounts": 9, "/audit": w.changes(), "/repositories/org%2Fapp/tags": 4, "/repositories/org%2Fapp/audit": 3} {
		n := 0
		for after := ""; ; {
			status, body := w.call(http.MethodGet, path+"?limit=3&after="+after, f.auth["sysop"], "")
			var page Page[map[string]any]
			if err := unmarshal(body, &page); err != nil || status != 200 || len(page.Items) > 3 {
				t.Fatalf("%s: %d %s", path, status, body)
			}
			n += len(page.Items)
			if after = page.Next; after == "" {
				break
			}
		}
		if n < want {
			t.Errorf("%s: %d items, want %d", path, n, want)
		}
	}
}

// TestCVE_2019_19025_CSRF: another site cannot use a browser's session.
func TestCVE_2019_19025_CSRF(t *testing.T) {
	f := build(t)
	w := start(t, f.copied(t))
	w.must(auth.SetPassword(system(t.Context()), w.api.DB, "writer", "", good))
	who, err := auth.Authenticate(t.Context(), w.api.DB, "writer", good)
	w.must(err)
	cookie, err := auth.StartSession(t.Context(), w.api.DB, who, "test")
	w.must(err)
	for _, c := range []struct {
		header, value string
		want          int
	}{{"Sec-Fetch-Site", "same-origin", 201}, {"Sec-Fetch-Site", "cross-site", 403}, {"Sec-Fetch-Site", "same-site", 403}, {"Origin", "https://evil.example", 403}, {"Origin", "null", 403}} {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, w.url+prefix+"/organizations", strings.NewReader(`{"name":"by-session"}`))
		w.must(err)
		req.Header.Set("Content-Type", "application/json")
		req.Header.Set(c.header, c.value)
		req.AddCookie(&http.Cookie{Name: "strake", Value: cookie})
		resp, err := http.DefaultClient.Do(req)
		w.must(err)
		w.must(resp.Body.Close())
		if resp.StatusCode != c.want {
			t.Errorf("%s: %s: %s, want %d", c.header, c.value, resp.Status, c.want)
		}
	}
	// A form cannot send JSON.
	if got, _ := w.call(http.MethodGet, "/whoami", "", ""); got != 200 {
		t.Errorf("whoami: %d", got)
	}
}

func unmarshal(text string, v any) error { return json.Unmarshal([]byte(text), v) }
