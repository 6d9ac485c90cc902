package policy_test

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/containerd/errdefs"

	"strake/internal/conformance"
	"strake/internal/policy"
	"strake/internal/registry"
)

func TestPullRules(t *testing.T) { pullRules(t, open(t)) }

func TestPullRulesPostgreSQL(t *testing.T) { pullRules(t, openOn(t, conformance.PostgreSQL(t))) }

func pullRules(t *testing.T, s *site) {
	t.Helper()
	img := s.mustPush("v1", "one")
	api := registry.NewHandler(s.Hub, registry.Options{MayPull: s.policy.MayPull})
	ask := func(method, ref string) *httptest.ResponseRecorder {
		w := httptest.NewRecorder()
		api.ServeHTTP(w, httptest.NewRequestWithContext(s.ctx, method, "/v2/"+s.repo+"/manifests/"+ref, nil))
		return w
	}
	pull := func() error {
		w := ask(http.MethodGet, "v1")
		if w.Code == http.StatusOK {
			return nil
		}
		if w.Code != http.StatusForbidden {
			t.Errorf("status %d", w.Code)
		}
		var body struct{ Errors []registry.Error }
		if err := json.Unmarshal(w.Body.Bytes(), &body); err != nil || len(body.Errors) != 1 {
			t.Fatalf("answer %q: %v", w.Body, err)
		}
		return &body.Errors[0]
	}
	set := func(scope, severity string, unscanned bool) {
		t.Helper()
		if err := s.policy.SetPullRule(s.ctx, policy.PullRule{Scope: scope, Severity: severity, Unscanned: unscanned}); err != nil {
			t.Fatal(err)
		}
	}
	may := func(what string) {
		t.Helper()
		if err := pull(); err != nil {
			t.Errorf("%s: %v", what, err)
		}
	}
	may("without a rule")
	set("ann/*", "high", true)
	denied(t, "not scanned", pull())
	set("ann/*", "high", false)
	may("not scanned, which the rule does not ask for")
	s.exec(`INSERT INTO scan_images (image, scanned, matched, medium) VALUES ($1, 1, 1, 4)`, img.Digest.String())
	may("less than the rule says")
	s.exec(`UPDATE scan_images SET critical = 2`)
	err := pull()
	denied(t, "critical", err)
	if !strings.Contains(err.Error(), "has 2 vulnerabilities of severity critical; the rule of ann/* lets none of high or above through") {
		t.Errorf("told %q", err)
	}
	if w := ask(http.MethodGet, img.Digest.String()); w.Code != http.StatusForbidden {
		t.Errorf("by digest: %d", w.Code)
	}
	if w := ask(http.MethodHead, "v1"); w.Code != http.StatusOK {
		t.Errorf("HEAD, which pushes send: %d", w.Code)
	}
	set("ann/app", "none", false)
	may("by the exception of a narrower rule")
	if list, err := s.policy.PullRules(s.ctx, "ann/app"); err != nil || len(list) != 2 || list[0].Scope != "ann/app" {
		t.Errorf("rules %v, %v", list, err)
	}
	if err := s.policy.RemovePullRule(s.ctx, "ann/app"); err != nil {
		t.Error(err)
	}
	denied(t, "the exception is gone", pull())
	if err := s.policy.RemovePullRule(s.ctx, "ann/app"); !errdefs.IsNotFound(err) {
		t.Errorf("removed twice: %v", err)
	}
	for _, r := range []policy.PullRule{{Scope: "ann/*", Severity: "bad"}, {Scope: "ann/*"}} {
		if err := s.policy.SetPullRule(s.ctx, r); !errdefs.IsInvalidArgument(err) {
			t.Errorf("%+v: %v", r, err)
		}
	}
	if err := s.policy.SetPullRule(s.ctx, policy.PullRule{Scope: "bob/*", Severity: "low"}); !errdefs.IsPermissionDenied(err) {
		t.Errorf("for another: %v", err)
	}
}
