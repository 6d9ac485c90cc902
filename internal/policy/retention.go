package policy

import (
	"cmp"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"

	"strake/internal/auth"
	"strake/internal/fault"
	"strake/internal/hub"
	"strake/internal/jobs"
	"strake/internal/registry"
	"strake/internal/sqldb"
)

// Rule says what of some tags is kept. The rules of the narrowest scope that has
// some hold for a repository. A tag that no rule speaks of is kept; one that
// rules speak of goes unless one of them, or an immutable pattern, keeps it.
type Rule struct {
	ID         int64     `json:"id"`
	Scope      string    `json:"scope"`
	Pattern    string    `json:"pattern"`              // of the tags that it speaks of; "": of manifests without a tag
	LastPushed int       `json:"lastPushed,omitempty"` // keeps the last n pushed
	LastPulled int       `json:"lastPulled,omitempty"` // keeps the last n pulled
	PushedDays int       `json:"pushedDays,omitempty"` // keeps what was pushed within n days
	PulledDays int       `json:"pulledDays,omitempty"` // keeps what was pulled within n days
	Created    time.Time `json:"created"`
	Actor      string    `json:"actor"`
}

// Item is a tag, or a manifest without one, and what becomes of it.
type Item struct {
	Tag    string        `json:"tag,omitempty"`
	Digest digest.Digest `json:"digest"`
	Keep   bool          `json:"keep"`
	Reason string        `json:"reason"`

	pushed, pulled int64
	held           bool
}

// Plan is what the rules do to a repository, in the order of tags.
type Plan struct {
	Repository string `json:"repository"`
	Items      []Item `json:"items"`
}

// Removed lists what goes.
func (p Plan) Removed() []Item {
	return slices.DeleteFunc(slices.Clone(p.Items), func(i Item) bool { return i.Keep })
}

// maxRules is how many rules a scope may have.
const maxRules = 20

// AddRule adds a retention rule.
func (p *Policy) AddRule(ctx context.Context, r Rule) (Rule, error) {
	if r.Pattern != "" {
		if _, err := compile(r.Pattern); err != nil {
			return r, err
		}
	}
	untagged := r.Pattern == ""
	switch {
	case r.LastPushed < 0 || r.LastPulled < 0 || r.PushedDays < 0 || r.PulledDays < 0:
		return r, fmt.Errorf("a retention rule counts from 0: %w", errdefs.ErrInvalidArgument)
	case r.LastPushed+r.LastPulled+r.PushedDays+r.PulledDays == 0:
		return r, fault.In("lastPushed", fmt.Errorf("a retention rule keeps something: say lastPushed, lastPulled, pushedDays or pulledDays: %w", errdefs.ErrInvalidArgument))
	case untagged && (r.PushedDays == 0 || r.LastPushed+r.LastPulled+r.PulledDays > 0):
		return r, fault.In("pushedDays", fmt.Errorf("a retention rule for manifests without a tag has pushedDays and nothing else: %w", errdefs.ErrInvalidArgument))
	}
	err := p.db.Update(ctx, func(tx *sql.Tx) error {
		if err := NeedScope(ctx, tx, r.Scope, auth.Admin); err != nil {
			return err
		}
		var n int
		if err := tx.QueryRowContext(ctx, `SELECT count(*) FROM retention_rules WHERE scope = $1`, r.Scope).Scan(&n); err != nil {
			return err
		}
		if n >= maxRules {
			return fmt.Errorf("%s has %d retention rules, which is the most: %w", r.Scope, n, errdefs.ErrResourceExhausted)
		}
		r.Created, r.Actor = p.now(), auth.From(ctx).Name
		err := tx.QueryRowContext(ctx, `
			INSERT INTO retention_rules (scope, pattern, last_pushed, last_pulled, pushed_days, pulled_days, created, actor)
			VALUES ($1, $2, $3, $4, $5, $6, $7, $8) RETURNING id`,
			r.Scope, r.Pattern, r.LastPushed, r.LastPulled, r.PushedDays, r.PulledDays, r.Created.Unix(), r.Actor).Scan(&r.ID)
		if err != nil {
			return err
		}
		return auth.Audit(ctx, tx, "retention.add", r.Scope, r)
	})
	return r, err
}

// RemoveRule takes a retention rule back.
func (p *Policy) RemoveRule(ctx context.Context, scope string, id int64) error {
	return p.db.Update(ctx, func(tx *sql.Tx) error {
		if err := NeedScope(ctx, tx, scope, auth.Admin); err != nil {
			return err
		}
		return remove(ctx, tx, "retention.remove", `DELETE FROM retention_rules WHERE scope = $1 AND id = $2 RETURNING pattern`, scope, id)
	})
}

// ListRules lists the retention rules of a scope itself, for who may write to it.
func (p *Policy) ListRules(ctx context.Context, scope string) (list []Rule, err error) {
	err = p.db.View(ctx, func(tx *sql.Tx) error {
		if err := NeedScope(ctx, tx, scope, auth.Write); err != nil {
			return err
		}
		list, err = rules(ctx, tx, scope)
		return err
	})
	return list, err
}

// HoldingRules lists the retention rules that hold in a scope: its own, or those of
// the nearest wider one that has some. Who may write to the scope may read them.
func (p *Policy) HoldingRules(ctx context.Context, scope string) (list []Rule, err error) {
	err = p.db.View(ctx, func(tx *sql.Tx) error {
		if err := NeedScope(ctx, tx, scope, auth.Write); err != nil {
			return err
		}
		list, err = holding(ctx, tx, scope)
		return err
	})
	return list, err
}

func holding(ctx context.Context, tx *sql.Tx, scope string) (list []Rule, err error) {
	for _, s := range Scopes(scope) {
		if list, err = rules(ctx, tx, s); err != nil || len(list) > 0 {
			break
		}
	}
	return list, err
}

func rules(ctx context.Context, tx *sql.Tx, scope string) ([]Rule, error) {
	list := []Rule{}
	err := sqldb.Each(ctx, tx, `
		SELECT id, scope, pattern, last_pushed, last_pulled, pushed_days, pulled_days, created, actor
		FROM retention_rules WHERE scope = $1 ORDER BY id`, []any{scope}, func(rows *sql.Rows) error {
		var r Rule
		var created int64
		err := rows.Scan(&r.ID, &r.Scope, &r.Pattern, &r.LastPushed, &r.LastPulled, &r.PushedDays, &r.PulledDays, &created, &r.Actor)
		r.Created = time.Unix(created, 0)
		list = append(list, r)
		return err
	})
	return list, err
}

// Preview tells what Retain would do to repo now. It is for who administers it.
func (p *Policy) Preview(ctx context.Context, repo string) (plan Plan, err error) {
	err = p.db.View(ctx, func(tx *sql.Tx) error {
		_, plan, err = p.plan(ctx, tx, repo)
		return err
	})
	return plan, err
}

// Retain applies the retention rules to repo and returns what that did; all of it
// or nothing. What goes can be restored (hub.Journal).
func (p *Policy) Retain(ctx context.Context, hooks hub.Hooks, repo string) (plan Plan, err error) {
	err = p.db.Update(ctx, func(tx *sql.Tx) error {
		var id int64
		if id, plan, err = p.plan(ctx, tx, repo); err != nil {
			return err
		}
		for _, item := range plan.Removed() {
			if item.Tag != "" {
				err = hooks.DeleteTag(ctx, tx, id, repo, item.Tag, "expire")
			} else {
				err = hooks.DeleteManifest(ctx, tx, id, repo, item.Digest)
			}
			if err != nil {
				return fmt.Errorf("retention of %s: %s%s: %w", repo, item.Tag, item.Digest, err)
			}
		}
		return nil
	})
	return plan, err
}

// plan applies the rules to what is there.
func (p *Policy) plan(ctx context.Context, tx *sql.Tx, repo string) (id int64, plan Plan, err error) {
	plan = Plan{Repository: repo, Items: []Item{}}
	if err := registry.CheckName(repo); err != nil {
		return 0, plan, err
	}
	if err := auth.Need(ctx, tx, repo, auth.Admin); err != nil {
		return 0, plan, err
	}
	err = tx.QueryRowContext(ctx, `SELECT id FROM repositories WHERE name = $1`, repo).Scan(&id)
	if errors.Is(err, sql.ErrNoRows) {
		return 0, plan, registry.Errorf(registry.NameUnknown, "repository name not known to registry")
	}
	if err != nil {
		return 0, plan, err
	}
	hold, err := holding(ctx, tx, repo)
	if err != nil || len(hold) == 0 {
		return id, plan, err
	}
	fixed, err := immutables(ctx, tx, repo)
	if err != nil {
		return id, plan, err
	}
	if plan.Items, err = items(ctx, tx, id); err != nil {
		return id, plan, err
	}
	if err := judge(plan.Items, hold, fixed, p.now()); err != nil {
		return id, plan, err
	}
	return id, plan, nil
}

// items reads the tags, and the manifests that nothing names.
func items(ctx context.Context, tx *sql.Tx, id int64) ([]Item, error) {
	list := []Item{}
	err := sqldb.Each(ctx, tx, `
		SELECT t.name, t.digest, t.pushed, t.pulled, m.held FROM tags t JOIN manifests m ON m.repository = t.repository AND m.digest = t.digest
		WHERE t.repository = $1
		UNION ALL SELECT '', m.digest, m.pushed, m.pulled, 0 FROM manifests m WHERE m.repository = $1 AND m.subject = ''
		  AND NOT EXISTS (SELECT 1 FROM tags t WHERE t.repository = m.repository AND (t.digest = m.digest OR t.pending = m.digest))
		  AND NOT EXISTS (SELECT 1 FROM refs f WHERE f.repository = m.repository AND f.child = m.digest)
		ORDER BY 1, 2`, []any{id}, func(rows *sql.Rows) error {
		var i Item
		var held int
		err := rows.Scan(&i.Tag, &i.Digest, &i.pushed, &i.pulled, &held)
		i.held = held == 1
		list = append(list, i)
		return err
	})
	return list, err
}

// judge decides what becomes of every item.
func judge(list []Item, hold []Rule, fixed []Immutable, now time.Time) error {
	for i := range list {
		list[i].Keep, list[i].Reason = true, "no rule speaks of it"
	}
	kept := map[int]string{}
	for _, r := range hold {
		var spoken []int
		for i, item := range list {
			if r.Pattern == "" || item.Tag == "" {
				if r.Pattern == item.Tag {
					spoken = append(spoken, i)
				}
				continue
			}
			re, err := compile(r.Pattern)
			if err != nil {
				return err
			}
			if re.MatchString(item.Tag) {
				spoken = append(spoken, i)
			}
		}
		for _, i := range spoken {
			if list[i].Keep {
				list[i].Keep, list[i].Reason = false, "no rule keeps it"
			}
		}
		keep(list, spoken, r, now, kept)
	}
	for i, reason := range kept {
		list[i].Keep, list[i].Reason = true, reason
	}
	for i, item := range list {
		if item.Tag == "" || item.Keep || item.held { // a held tag was never public
			continue
		}
		rule, err := immutable(fixed, item.Tag)
		if err != nil {
			return err
		}
		if rule != nil {
			list[i].Keep, list[i].Reason = true, fmt.Sprintf("immutable by %q of %s", rule.Pattern, rule.Scope)
		}
	}
	return nil
}

// keep notes what of the items that a rule speaks of it keeps.
func keep(list []Item, spoken []int, r Rule, now time.Time, kept map[int]string) {
	last := func(n int, when func(Item) int64, what string) {
		order := slices.Clone(spoken)
		slices.SortStableFunc(order, func(a, b int) int { return cmp.Compare(when(list[b]), when(list[a])) })
		for _, i := range order[:min(n, len(order))] {
			if when(list[i]) > 0 {
				kept[i] = fmt.Sprintf("among the last %d %s", n, what)
			}
		}
	}
	within := func(days int, when func(Item) int64, what string) {
		if days == 0 {
			return
		}
		for _, i := range spoken {
			if when(list[i]) >= now.AddDate(0, 0, -days).Unix() {
				kept[i] = fmt.Sprintf("%s within %d days", what, days)
			}
		}
	}
	pushed := func(i Item) int64 { return i.pushed }
	pulled := func(i Item) int64 { return i.pulled }
	last(r.LastPushed, pushed, "pushed")
	last(r.LastPulled, pulled, "pulled")
	within(r.PushedDays, pushed, "pushed")
	within(r.PulledDays, pulled, "pulled")
}

// Kinds of the jobs here.
const (
	retentionJob = "retention" // the key is a repository, or "" for the round over all
)

// round is how often all repositories are gone over.
const round = 6 * time.Hour

// Schedule adds the round of retention unless it is there.
func (p *Policy) Schedule(ctx context.Context) error {
	return p.db.Update(ctx, func(tx *sql.Tx) error {
		return jobs.Add(ctx, tx, jobs.Job{Kind: retentionJob, NotBefore: p.now().Add(time.Minute)})
	})
}

// Handlers are the jobs of the rules. hooks are the Hub's.
func (p *Policy) Handlers(hooks hub.Hooks) map[string]jobs.Handler {
	return map[string]jobs.Handler{retentionJob: {Do: func(ctx context.Context, job jobs.Job) error {
		ctx = auth.With(ctx, auth.Identity{System: true})
		if job.Key != "" {
			_, err := p.Retain(ctx, hooks, job.Key)
			if registry.HasCode(err, registry.NameUnknown) { // deleted meanwhile
				return nil
			}
			return err
		}
		return p.round(ctx)
	}}}
}

// round adds a job for every repository that rules hold for, and the next round.
func (p *Policy) round(ctx context.Context) error {
	return p.db.Update(ctx, func(tx *sql.Tx) error {
		var names []string
		err := sqldb.Each(ctx, tx, `
			SELECT r.name FROM repositories r WHERE r.name IN (SELECT scope FROM retention_rules)
			OR r.namespace || '/*' IN (SELECT scope FROM retention_rules) OR EXISTS (SELECT 1 FROM retention_rules WHERE scope = '*')`, nil, func(rows *sql.Rows) error {
			var name string
			err := rows.Scan(&name)
			names = append(names, name)
			return err
		})
		if err != nil {
			return err
		}
		for _, name := range names {
			if err := jobs.Add(ctx, tx, jobs.Job{Kind: retentionJob, Key: name}); err != nil {
				return err
			}
		}
		return jobs.Add(ctx, tx, jobs.Job{Kind: retentionJob, NotBefore: p.now().Add(round)})
	})
}
