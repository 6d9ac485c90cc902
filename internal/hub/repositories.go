package hub

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"strings"
	"unicode/utf8"

	"github.com/containerd/errdefs"

	"strake/internal/auth"
	"strake/internal/fault"
	"strake/internal/registry"
	"strake/internal/sqldb"
)

// Bounds on what people write about a repository, in bytes.
const (
	maxDescription = 400
	maxReadme      = 64 << 10
)

// RepositoryChange is what is to change of a repository; nil stays as it is.
type RepositoryChange struct {
	Description *string `json:"description,omitempty"` // one line
	Readme      *string `json:"readme,omitempty"`      // Markdown
	Public      *bool   `json:"public,omitempty"`
}

func (c RepositoryChange) check() error {
	switch {
	case c.Description != nil && (len(*c.Description) > maxDescription || strings.ContainsAny(*c.Description, "\r\n\x00") || !utf8.ValidString(*c.Description)):
		return fault.In("description", fmt.Errorf("the description is one line of %d bytes at most: %w", maxDescription, errdefs.ErrInvalidArgument))
	case c.Readme != nil && (len(*c.Readme) > maxReadme || strings.ContainsRune(*c.Readme, 0) || !utf8.ValidString(*c.Readme)):
		return fault.In("readme", fmt.Errorf("the read-me is text of %d bytes at most: %w", maxReadme, errdefs.ErrInvalidArgument))
	}
	return nil
}

// CreateRepository makes a repository before anything is pushed to it. Who owns
// the namespace may. One that is there fails with errdefs.ErrAlreadyExists.
func CreateRepository(ctx context.Context, h *Hub, repo string, c RepositoryChange) error {
	if err := errors.Join(fault.In("name", registry.CheckName(repo)), c.check()); err != nil {
		return err
	}
	return h.db.Update(ctx, func(tx *sql.Tx) error {
		role, err := auth.RoleOf(ctx, tx, auth.From(ctx), repo)
		if err != nil {
			return err
		}
		if role < auth.Admin {
			return registry.Errorf(registry.Denied, "requested access to the resource is denied")
		}
		_, err = repositoryID(ctx, tx, repo)
		if err == nil {
			return fault.In("name", fmt.Errorf("repository %q is there: %w", repo, errdefs.ErrAlreadyExists))
		}
		if !registry.HasCode(err, registry.NameUnknown) {
			return err
		}
		if _, err := makeRepository(ctx, tx, repo); err != nil {
			return err
		}
		if err := auth.Audit(ctx, tx, "repository.add", repo, nil); err != nil {
			return err
		}
		return h.hooks.describe(ctx, tx, repo, c)
	})
}

// ChangeRepository changes what a repository says of itself, and whether
// everybody may read it. Who administers it may.
func ChangeRepository(ctx context.Context, h *Hub, repo string, c RepositoryChange) error {
	if err := errors.Join(fault.In("name", registry.CheckName(repo)), c.check()); err != nil {
		return err
	}
	return h.db.Update(ctx, func(tx *sql.Tx) error {
		if err := auth.Need(ctx, tx, repo, auth.Admin); err != nil {
			return err
		}
		return h.hooks.describe(ctx, tx, repo, c)
	})
}

func (hooks Hooks) describe(ctx context.Context, tx *sql.Tx, repo string, c RepositoryChange) error {
	id, err := repositoryID(ctx, tx, repo)
	if err != nil {
		return err
	}
	detail := map[string]any{}
	if c.Description != nil {
		detail["description"] = *c.Description
		if _, err := tx.ExecContext(ctx, `UPDATE repositories SET description = $2 WHERE id = $1`, id, strings.TrimSpace(*c.Description)); err != nil {
			return err
		}
	}
	if c.Readme != nil {
		detail["readme"] = len(*c.Readme)
		if _, err := tx.ExecContext(ctx, `UPDATE repositories SET readme = $2 WHERE id = $1`, id, *c.Readme); err != nil {
			return err
		}
	}
	if c.Public != nil {
		was, is := 0, 0
		if *c.Public {
			is = 1
		}
		if err := tx.QueryRowContext(ctx, `SELECT public FROM repositories WHERE id = $1`, id).Scan(&was); err != nil {
			return err
		}
		detail["public"] = *c.Public
		if _, err := tx.ExecContext(ctx, `UPDATE repositories SET public = $2 WHERE id = $1`, id, is); err != nil {
			return err
		}
		if was != is {
			if err := hooks.Call(ctx, tx, Change{Kind: Visibility, Repository: repo, ID: id, Public: *c.Public}); err != nil {
				return err
			}
		}
	}
	if len(detail) == 0 {
		return nil
	}
	return auth.Audit(ctx, tx, "repository.change", repo, detail)
}

// DeleteRepository deletes a repository with its tags, manifests and links to
// blobs, and with what was granted for it. It cannot be restored; the hooks can
// refuse it, as for an immutable tag. Who administers it may.
func DeleteRepository(ctx context.Context, h *Hub, repo string) error {
	if err := registry.CheckName(repo); err != nil {
		return err
	}
	return h.db.Update(ctx, func(tx *sql.Tx) error {
		if err := auth.Need(ctx, tx, repo, auth.Admin); err != nil {
			return err
		}
		id, err := repositoryID(ctx, tx, repo)
		if err != nil {
			return err
		}
		var gone []Change
		err = sqldb.Each(ctx, tx, `SELECT name, digest FROM tags WHERE repository = $1 ORDER BY name`, []any{id}, func(rows *sql.Rows) error {
			c := Change{Kind: TagDeleted, Repository: repo, ID: id}
			err := rows.Scan(&c.Tag, &c.Old)
			gone = append(gone, c)
			return err
		})
		if err != nil {
			return err
		}
		for _, query := range []string{
			`DELETE FROM tags WHERE repository = $1`, `DELETE FROM refs WHERE repository = $1`, `DELETE FROM manifests WHERE repository = $1`,
			`DELETE FROM blobs WHERE repository = $1`,
		} {
			if _, err := tx.ExecContext(ctx, query, id); err != nil {
				return err
			}
		}
		for _, c := range gone {
			if err := h.hooks.Call(ctx, tx, c); err != nil {
				return err
			}
		}
		for _, query := range []string{`DELETE FROM uploads WHERE repository = $1`, `DELETE FROM repositories WHERE name = $1`} {
			if _, err := tx.ExecContext(ctx, query, repo); err != nil {
				return err
			}
		}
		return auth.Audit(ctx, tx, "repository.delete", repo, map[string]int{"tags": len(gone)})
	})
}
