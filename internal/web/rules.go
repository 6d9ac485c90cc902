package web

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"strconv"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/docker/go-units"

	"strake/internal/fault"
	"strake/internal/hub"
	"strake/internal/policy"
)

type rulesView struct {
	place
	Form      form
	Immutable []policy.Immutable
	Retention []policy.Rule // that hold: of the place itself, or of a wider one
	Pulls     []policy.PullRule
	Usage     *policy.Usage  // of the namespace; nil: this place has none
	Quotas    []policy.Quota // of the Hub
	SiteAdmin bool           // the caller says how much a namespace may hold
}

// showRules shows the rules of a place.
func showRules(c *call, p place) error {
	v := rulesView{place: p, Form: c.form, SiteAdmin: c.id.IsAdmin()}
	var err error
	if v.Immutable, err = c.Policy.ListImmutable(c.ctx(), p.Scope); err != nil {
		return err
	}
	if v.Retention, err = c.Policy.HoldingRules(c.ctx(), p.Scope); err != nil {
		return err
	}
	if v.Pulls, err = c.Policy.PullRules(c.ctx(), p.Scope); err != nil {
		return err
	}
	if name, whole := strings.CutSuffix(p.Scope, "/*"); whole {
		u, err := c.Policy.Usage(c.ctx(), name)
		if err != nil {
			return err
		}
		v.Usage = &u
	}
	if p.Scope == "*" {
		if v.Quotas, err = c.Policy.Quotas(c.ctx()); err != nil {
			return err
		}
	}
	return c.render("Rules of "+p.of(), rulesPage(v))
}

// ownRetention tells whether the rules that hold are of the place itself.
func (v rulesView) ownRetention() bool {
	return len(v.Retention) > 0 && v.Retention[0].Scope == v.Scope
}

// pull is the rule that holds; of none the severity is empty.
func (v rulesView) pull() (r policy.PullRule) {
	if len(v.Pulls) > 0 {
		r = v.Pulls[0]
	}
	return r
}

// ownPull tells whether the rule that holds is of the place itself.
func (v rulesView) ownPull() bool { return v.pull().Scope == v.Scope }

// scopeText is a scope in words.
func scopeText(scope string) string {
	if name, whole := strings.CutSuffix(scope, "/*"); whole {
		return "all of " + name
	}
	if scope == "*" {
		return "the whole Hub"
	}
	return scope
}

// patternText is a pattern of tags, or what the empty one stands for.
func patternText(pattern string) string {
	if pattern == "" {
		return "images without a tag"
	}
	return pattern
}

// keepsText is what a retention rule keeps, in words.
func keepsText(r policy.Rule) string {
	var parts []string
	for _, k := range []struct {
		n                  int
		before, one, after string
	}{
		{r.LastPushed, "the last ", "tag", " pushed"},
		{r.LastPulled, "the last ", "tag", " pulled"},
		{r.PushedDays, "what was pushed within ", "day", ""},
		{r.PulledDays, "what was pulled within ", "day", ""},
	} {
		if k.n > 0 {
			parts = append(parts, k.before+plural(int64(k.n), k.one)+k.after)
		}
	}
	return strings.Join(parts, ", ")
}

// pullText is what a rule of pulls stops, in words.
func pullText(r policy.PullRule) string {
	text := "Images with a vulnerability of severity " + r.Severity + " or above are not pulled."
	switch r.Severity {
	case "":
		return "No rule: every image can be pulled, whatever was found in it."
	case "none":
		text = "Images are pulled whatever was found in them."
	case "critical":
		text = "Images with a critical vulnerability are not pulled."
	}
	if r.Unscanned {
		text += " Nor are those that were not scanned yet."
	}
	return text
}

// unpullText is what taking the rule of pulls back does.
func (v rulesView) unpullText() string {
	next := policy.PullRule{}
	if len(v.Pulls) > 1 {
		next = v.Pulls[1]
	}
	if next.Scope == "" {
		return "From then on: no rule, every image can be pulled, whatever was found in it."
	}
	return "From then on the rule of " + scopeText(next.Scope) + " holds: " + pullText(next)
}

// unquotaText is what taking a quota back does.
func unquotaText(namespace string) string {
	if namespace == "*" {
		return "Namespaces without a quota of their own may hold as much as they like."
	}
	return namespace + " may hold as much as all others of which nothing else is said. Nothing is deleted."
}

// changeRules does what a form of the rules says.
func changeRules(c *call, p place) error {
	f := func(key string) string { return strings.TrimSpace(c.r.PostFormValue(key)) }
	again := func(c *call) error { return showRules(c, p) }
	id, _ := strconv.ParseInt(f("id"), 10, 64) // what is no number is no rule's
	notice, fields := "saved", ids(nil)
	var err error
	switch f("do") {
	case "add-immutable":
		notice, fields = "added", ids{"pattern": "immutable"}
		_, err = c.Policy.AddImmutable(c.ctx(), p.Scope, f("immutable"))
	case "remove-immutable":
		notice, err = "removed", c.Policy.RemoveImmutable(c.ctx(), p.Scope, id)
	case "add-retention":
		notice, fields = "added", ids{"lastPushed": "last-pushed", "pushedDays": "pushed-days"}
		var r policy.Rule
		if r, err = retentionRule(f); err == nil {
			r.Scope = p.Scope
			_, err = c.Policy.AddRule(c.ctx(), r)
		}
	case "remove-retention":
		notice, err = "removed", c.Policy.RemoveRule(c.ctx(), p.Scope, id)
	case "set-pull":
		err = c.Policy.SetPullRule(c.ctx(), policy.PullRule{Scope: p.Scope, Severity: f("severity"), Unscanned: f("unscanned") != ""})
	case "remove-pull":
		notice, err = "removed", c.Policy.RemovePullRule(c.ctx(), p.Scope)
	case "set-quota":
		err = c.setQuota(p, f)
	case "remove-quota":
		notice, err = "removed", c.Policy.SetQuota(c.ctx(), f("namespace"), -1)
	default:
		err = errdefs.ErrInvalidArgument
	}
	if err != nil {
		return c.refused(err, fields, again)
	}
	return c.done(p.page("rules"), notice)
}

// retentionRule is the rule that a form asks for.
func retentionRule(f func(string) string) (r policy.Rule, err error) {
	r.Pattern = f("pattern")
	if f("untagged") != "" {
		r.Pattern = ""
	} else if _, err := policy.Matcher(r.Pattern); err != nil {
		return r, err
	}
	for _, n := range []struct {
		id string
		to *int
	}{{"last-pushed", &r.LastPushed}, {"last-pulled", &r.LastPulled}, {"pushed-days", &r.PushedDays}, {"pulled-days", &r.PulledDays}} {
		if f(n.id) == "" {
			continue
		}
		if *n.to, err = strconv.Atoi(f(n.id)); err != nil || *n.to < 0 || *n.to > 1_000_000 {
			return r, fault.In(n.id, fmt.Errorf("%.20q is no number from 0 to 1,000,000: %w", f(n.id), errdefs.ErrInvalidArgument))
		}
	}
	if keepsText(r) == "" {
		return r, fault.In("last-pushed", fmt.Errorf("say what the rule keeps: %w", errdefs.ErrInvalidArgument))
	}
	if r.Pattern == "" && (r.PushedDays == 0 || r.LastPushed+r.LastPulled+r.PulledDays > 0) {
		return r, fault.In("pushed-days", fmt.Errorf("images without a tag are kept by days since the push alone: %w", errdefs.ErrInvalidArgument))
	}
	return r, nil
}

// setQuota says how much a namespace may hold: that of the place, or the one that
// the form names.
func (c *call) setQuota(p place, f func(string) string) (err error) {
	namespace, whole := strings.CutSuffix(p.Scope, "/*")
	switch {
	case p.isRepository():
		return errdefs.ErrInvalidArgument // it has none
	case !whole:
		namespace = cmp.Or(f("namespace"), "*")
	}
	n := int64(0)
	if s := f("quota"); s != "0" {
		if n, err = units.RAMInBytes(s); err != nil || n <= 0 {
			return fault.In("quota", fmt.Errorf("%.20q is no size such as 500MB or 20GB: %w", s, errdefs.ErrInvalidArgument))
		}
	}
	return c.Policy.SetQuota(c.ctx(), namespace, n)
}

// quotaText is a quota in words.
func quotaText(n int64) string {
	if n == 0 {
		return "no limit"
	}
	return size(n)
}

type previewView struct {
	place
	Goes, Stays []policy.Item
	Rules       []policy.Rule // that hold
	Plan        string        // stands for what goes
}

// showPreview shows what the retention rules would do to a repository now.
func showPreview(c *call, p place) error {
	v := previewView{place: p}
	plan, err := c.Policy.Preview(c.ctx(), p.Scope)
	if err != nil {
		return err
	}
	if v.Rules, err = c.Policy.HoldingRules(c.ctx(), p.Scope); err != nil {
		return err
	}
	v.Goes, v.Plan = plan.Removed(), planSum(plan)
	for _, i := range plan.Items {
		if i.Keep {
			v.Stays = append(v.Stays, i)
		}
	}
	return c.render("Retention of "+p.Scope, previewPage(v))
}

// planSum stands for what a plan removes.
func planSum(plan policy.Plan) string {
	h := sha256.New()
	for _, i := range plan.Removed() {
		fmt.Fprintf(h, "%s %s\n", i.Tag, i.Digest)
	}
	return hex.EncodeToString(h.Sum(nil)[:12])
}

// applyRetention does what the preview showed, and nothing else.
func applyRetention(c *call, p place) error {
	again := func(c *call) error { return showPreview(c, p) }
	plan, err := c.Policy.Preview(c.ctx(), p.Scope)
	if err != nil {
		return err
	}
	if planSum(plan) != c.r.PostFormValue("plan") {
		return c.refused(fmt.Errorf("something else would go than what you saw; look again: %w", errdefs.ErrConflict), nil, again)
	}
	if _, err := c.Policy.Retain(c.ctx(), hub.HooksOf(c.Hub), p.Scope); err != nil {
		return c.refused(err, nil, again)
	}
	return c.done(p.page("trash"), "applied")
}

// cutItems are the first items of a list that may be long.
func cutItems(items []policy.Item) []policy.Item { return items[:min(len(items), 500)] }
