package policy

import (
	"context"
	"database/sql"
	"fmt"
	"time"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"

	"strake/internal/auth"
	"strake/internal/hub"
	"strake/internal/registry"
	"strake/internal/sqldb"
)

// Immutable is a pattern of tags that, once readers saw them, never name
// something else and are not deleted.
type Immutable struct {
	ID      int64     `json:"id"`
	Scope   string    `json:"scope"`
	Pattern string    `json:"pattern"`
	Created time.Time `json:"created"`
	Actor   string    `json:"actor"`
}

// AddImmutable makes the tags of a pattern immutable in a scope. It returns the
// one that is there when there is one.
func (p *Policy) AddImmutable(ctx context.Context, scope, pattern string) (rule Immutable, err error) {
	if _, err := compile(pattern); err != nil {
		return rule, err
	}
	err = p.db.Update(ctx, func(tx *sql.Tx) error {
		if err := NeedScope(ctx, tx, scope, auth.Admin); err != nil {
			return err
		}
		rule = Immutable{Scope: scope, Pattern: pattern, Created: p.now(), Actor: auth.From(ctx).Name}
		var created int64
		err := tx.QueryRowContext(ctx, `
			INSERT INTO immutable_tags (scope, pattern, created, actor) VALUES ($1, $2, $3, $4)
			ON CONFLICT (scope, pattern) DO UPDATE SET pattern = excluded.pattern RETURNING id, created, actor`,
			scope, pattern, rule.Created.Unix(), rule.Actor).Scan(&rule.ID, &created, &rule.Actor)
		if err != nil {
			return err
		}
		rule.Created = time.Unix(created, 0)
		return auth.Audit(ctx, tx, "immutable.add", scope, map[string]string{"pattern": pattern})
	})
	return rule, err
}

// RemoveImmutable takes a pattern back.
func (p *Policy) RemoveImmutable(ctx context.Context, scope string, id int64) error {
	return p.db.Update(ctx, func(tx *sql.Tx) error {
		if err := NeedScope(ctx, tx, scope, auth.Admin); err != nil {
			return err
		}
		return remove(ctx, tx, "immutable.remove", `DELETE FROM immutable_tags WHERE scope = $1 AND id = $2 RETURNING pattern`, scope, id)
	})
}

// remove deletes a rule of a scope by a statement that returns its pattern.
func remove(ctx context.Context, tx *sql.Tx, action, statement, scope string, id int64) error {
	var patterns []string
	err := sqldb.Each(ctx, tx, statement, []any{scope, id}, func(rows *sql.Rows) error {
		var s string
		err := rows.Scan(&s)
		patterns = append(patterns, s)
		return err
	})
	if err != nil {
		return err
	}
	if len(patterns) == 0 {
		return fmt.Errorf("rule %d of %s: %w", id, scope, errdefs.ErrNotFound)
	}
	return auth.Audit(ctx, tx, action, scope, map[string]string{"pattern": patterns[0]})
}

// ListImmutable lists the patterns that hold in a scope, of wider scopes too.
// Who may write to it may read them.
func (p *Policy) ListImmutable(ctx context.Context, scope string) (list []Immutable, err error) {
	err = p.db.View(ctx, func(tx *sql.Tx) error {
		if err := NeedScope(ctx, tx, scope, auth.Write); err != nil {
			return err
		}
		list, err = immutables(ctx, tx, scope)
		return err
	})
	return list, err
}

func immutables(ctx context.Context, tx *sql.Tx, repo string) ([]Immutable, error) {
	list, in := []Immutable{}, Scopes(repo)
	err := sqldb.Each(ctx, tx, `SELECT id, scope, pattern, created, actor FROM immutable_tags WHERE scope IN ($1, $2, $3) ORDER BY scope, id`,
		[]any{in[0], in[1], in[2]}, func(rows *sql.Rows) error {
			var r Immutable
			var created int64
			err := rows.Scan(&r.ID, &r.Scope, &r.Pattern, &created, &r.Actor)
			r.Created = time.Unix(created, 0)
			list = append(list, r)
			return err
		})
	return list, err
}

// immutable returns the first rule that holds for a tag, or nil.
func immutable(rules []Immutable, tag string) (*Immutable, error) {
	for i, r := range rules {
		re, err := compile(r.Pattern)
		if err != nil {
			return nil, err
		}
		if re.MatchString(tag) {
			return &rules[i], nil
		}
	}
	return nil, nil
}

// checkImmutable refuses a change of an immutable tag, and of what it is made of.
func checkImmutable(ctx context.Context, tx *sql.Tx, c hub.Change) error {
	var tags []string
	switch {
	case c.Kind == hub.TagSet && (c.Old == "" || c.Old == c.Desc.Digest), c.Tag != "" && c.OldHeld:
		return nil
	}
	rules, err := immutables(ctx, tx, c.Repository)
	if err != nil || len(rules) == 0 {
		return err
	}
	if c.Tag != "" {
		tags = []string{c.Tag}
	} else if tags, err = tagsOver(ctx, tx, c.ID, c.Desc.Digest); err != nil {
		return err
	}
	for _, tag := range tags {
		rule, err := immutable(rules, tag)
		if err != nil {
			return err
		}
		if rule != nil {
			return registry.Errorf(registry.Denied, "tag %s of %s is immutable: %q of %s protects it", tag, c.Repository, rule.Pattern, rule.Scope)
		}
	}
	return nil
}

// tagsOver lists the tags that need a manifest or blob, through indexes too.
func tagsOver(ctx context.Context, tx *sql.Tx, repository int64, dgst digest.Digest) (tags []string, err error) {
	err = sqldb.Each(ctx, tx, `
		WITH RECURSIVE over (digest) AS (
		  SELECT manifest FROM refs WHERE repository = $1 AND child = $2
		  UNION SELECT f.manifest FROM over o JOIN refs f ON f.repository = $1 AND f.child = o.digest
		)
		SELECT t.name FROM tags t JOIN over o ON o.digest = t.digest OR o.digest = t.pending WHERE t.repository = $1 ORDER BY t.name`,
		[]any{repository, dgst.String()}, func(rows *sql.Rows) error {
			var tag string
			err := rows.Scan(&tag)
			tags = append(tags, tag)
			return err
		})
	return tags, err
}
