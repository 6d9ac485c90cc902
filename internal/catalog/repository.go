package catalog

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"strake/internal/auth"
)

// Repository is a repository's page.
type Repository struct {
	Name, Namespace     string
	Kind                string
	Description, Readme string
	Public              bool
	Created, Pushed     time.Time
	Pulls, Stars        int64
	Starred             bool      // by the caller
	Role                auth.Role // the caller's
	Platforms           []string
	Tags                int   // that the caller may see
	Size                int64 // bytes of its blobs, each once
}

// Repository describes one, or fails with NAME_UNKNOWN.
func (c *Catalog) Repository(ctx context.Context, name string) (r Repository, err error) {
	err = c.db.View(ctx, func(tx *sql.Tx) error {
		role, err := seen(ctx, tx, name)
		if err != nil {
			return err
		}
		var public, starred int
		var created, pushed int64
		var platforms string
		err = tx.QueryRowContext(ctx, `
			SELECT name, namespace, kind, description, readme, public, created, pushed, pulls, stars, platforms,
			  (SELECT count(*) FROM stars s WHERE s.repository = r.id AND s.account = $2),
			  (SELECT count(*) FROM tags t JOIN manifests m ON m.repository = t.repository AND m.digest = t.digest WHERE t.repository = r.id AND m.held <= $3),
			  (SELECT CAST(COALESCE(sum(size), 0) AS BIGINT) FROM blobs b WHERE b.repository = r.id)
			FROM repositories r WHERE name = $1`, name, auth.From(ctx).Account, held(role)).
			Scan(&r.Name, &r.Namespace, &r.Kind, &r.Description, &r.Readme, &public, &created, &pushed, &r.Pulls, &r.Stars, &platforms, &starred, &r.Tags, &r.Size)
		if errors.Is(err, sql.ErrNoRows) {
			return unknown()
		}
		r.Public, r.Starred, r.Role = public == 1, starred > 0, role
		r.Created, r.Pushed, r.Platforms = unix(created), unix(pushed), strings.Fields(platforms)
		return err
	})
	return r, err
}

// held is the highest value of manifests.held that somebody sees.
func held(role auth.Role) int {
	if role >= auth.Write {
		return 1
	}
	return 0
}

// TagQuery says which tags to list.
type TagQuery struct {
	Name   string // a part of it; "" is all
	ByName bool   // in order of names, not the newest first
	Limit  int    // 0 is 50
	Offset int
}

// Tag is a name for an image, or for an index of images.
type Tag struct {
	Name      string
	Digest    string
	MediaType string
	Pushed    time.Time
	Pusher    string
	Pulls     int64
	Held      bool // waits for a review
	Images    []Variant
}

// Variant is an image for one platform.
type Variant struct {
	Digest   string
	Platform string // linux/arm64; "" is none
	Size     int64  // bytes of config and layers, as they are sent
}

const defaultTags = 50

// Tags lists the tags of a repository that the caller may see; more tells that
// there are others after them.
func (c *Catalog) Tags(ctx context.Context, repo string, q TagQuery) (tags []Tag, more bool, err error) {
	if q.Limit <= 0 {
		q.Limit = defaultTags
	}
	order := "t.pushed DESC, t.name"
	if q.ByName {
		order = "t.name"
	}
	err = c.db.View(ctx, func(tx *sql.Tx) error {
		tags = nil
		role, err := seen(ctx, tx, repo)
		if err != nil {
			return err
		}
		var id int64
		err = tx.QueryRowContext(ctx, `SELECT id FROM repositories WHERE name = $1`, repo).Scan(&id)
		if errors.Is(err, sql.ErrNoRows) {
			return unknown()
		}
		if err != nil {
			return err
		}
		err = scanAll(ctx, tx, `
			SELECT t.name, t.digest, m.media_type, t.pushed, t.pusher, t.pulls, m.held
			FROM tags t JOIN manifests m ON m.repository = t.repository AND m.digest = t.digest
			WHERE t.repository = $1 AND m.held <= $2 AND t.name LIKE $3 ORDER BY `+order+fmt.Sprintf(` LIMIT %d OFFSET %d`, q.Limit+1, max(q.Offset, 0)),
			[]any{id, held(role), "%" + wildless(q.Name) + "%"}, func(rows *sql.Rows) error {
				var t Tag
				var pushed int64
				var held int
				err := rows.Scan(&t.Name, &t.Digest, &t.MediaType, &pushed, &t.Pusher, &t.Pulls, &held)
				t.Pushed, t.Held = unix(pushed), held == 1
				tags = append(tags, t)
				return err
			})
		if more = len(tags) > q.Limit; more {
			tags = tags[:q.Limit]
		}
		for i := range tags {
			if err != nil {
				return err
			}
			tags[i].Images, err = variants(ctx, tx, id, tags[i].Digest)
		}
		return err
	})
	return tags, more, err
}

// variants are the images that a manifest is or names.
func variants(ctx context.Context, tx *sql.Tx, repository int64, dgst string) (list []Variant, err error) {
	err = scanAll(ctx, tx, `
		SELECT i.digest, i.os, i.architecture, i.variant, i.size FROM images i
		WHERE (i.digest = $2 OR i.digest IN (SELECT child FROM refs WHERE repository = $1 AND manifest = $2)) AND i.os <> 'unknown'
		LIMIT 100`, []any{repository, dgst}, func(rows *sql.Rows) error {
		var v Variant
		var os, architecture, variant string
		err := rows.Scan(&v.Digest, &os, &architecture, &variant, &v.Size)
		v.Platform = platformText(os, architecture, variant)
		list = append(list, v)
		return err
	})
	slices.SortFunc(list, func(a, b Variant) int { return strings.Compare(a.Platform, b.Platform) })
	return list, err
}

// Star gives the repository the caller's star, or takes it back. It fails with
// NAME_UNKNOWN as Repository does, and needs an account.
func (c *Catalog) Star(ctx context.Context, repo string, on bool) error {
	account := auth.From(ctx).Account
	return c.db.Update(ctx, func(tx *sql.Tx) error {
		if _, err := seen(ctx, tx, repo); err != nil {
			return err
		}
		var id int64
		err := tx.QueryRowContext(ctx, `SELECT id FROM repositories WHERE name = $1`, repo).Scan(&id)
		if errors.Is(err, sql.ErrNoRows) {
			return unknown()
		}
		if err != nil {
			return err
		}
		query, args := `DELETE FROM stars WHERE account = $1 AND repository = $2`, []any{account, id}
		if on {
			query, args = `INSERT INTO stars (account, repository, at) VALUES ($1, $2, $3) ON CONFLICT DO NOTHING`, append(args, time.Now().Unix())
		}
		res, err := tx.ExecContext(ctx, query, args...)
		if err != nil {
			return fmt.Errorf("star %q: %w", repo, err)
		}
		if n, err := res.RowsAffected(); err != nil || n == 0 {
			return err
		}
		_, err = tx.ExecContext(ctx, `UPDATE repositories SET stars = (SELECT count(*) FROM stars WHERE repository = $1) WHERE id = $1`, id)
		return err
	})
}
