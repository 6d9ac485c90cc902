package policy_test

import (
	"strings"
	"testing"

	"github.com/containerd/errdefs"

	"strake/internal/auth"
	"strake/internal/conformance"
	"strake/internal/hub"
	"strake/internal/policy"
)

func TestPullRules(t *testing.T) { pullRules(t, open(t)) }

func TestPullRulesPostgreSQL(t *testing.T) { pullRules(t, openOn(t, conformance.PostgreSQL(t))) }

func pullRules(t *testing.T, s *site) {
	t.Helper()
	hub.GuardPulls(s.Hub, s.policy.MayPull)
	img := s.mustPush("v1", "one")
	pull := func() error { _, err := s.GetManifest(s.ctx, s.repo, "v1"); return err }
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
	_, err = s.StatManifest(s.ctx, s.repo, img.Digest.String())
	denied(t, "by digest", err)
	if _, err := s.GetManifest(auth.With(t.Context(), auth.Identity{System: true}), s.repo, "v1"); err != nil {
		t.Errorf("the Hub itself: %v", err)
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
