package hub

import (
	"context"
	"database/sql"
	"fmt"
	"strings"
	"unicode/utf8"

	"github.com/containerd/errdefs"

	"strake/internal/auth"
)

// Bounds on what people write about a repository, in bytes.
const (
	maxDescription = 400
	maxReadme      = 64 << 10
)

// Describe says what repo is for, in a line and in Markdown, and whether
// everybody may read it. Who administers it may.
func (h *Hub) Describe(ctx context.Context, repo, description, readme string, public bool) error {
	description = strings.TrimSpace(description)
	switch {
	case len(description) > maxDescription || strings.ContainsAny(description, "\r\n\x00"):
		return fmt.Errorf("the description is one line of %d bytes at most: %w", maxDescription, errdefs.ErrInvalidArgument)
	case len(readme) > maxReadme || strings.ContainsRune(readme, 0):
		return fmt.Errorf("the read-me has %d bytes at most: %w", maxReadme, errdefs.ErrInvalidArgument)
	case !utf8.ValidString(description) || !utf8.ValidString(readme):
		return fmt.Errorf("the description is no UTF-8: %w", errdefs.ErrInvalidArgument)
	}
	return h.db.Update(ctx, func(tx *sql.Tx) error {
		if err := auth.Need(ctx, tx, repo, auth.Admin); err != nil {
			return err
		}
		flag := 0
		if public {
			flag = 1
		}
		var id int64
		was := 0
		if err := tx.QueryRowContext(ctx, `SELECT id, public FROM repositories WHERE name = $1`, repo).Scan(&id, &was); err != nil {
			return err
		}
		if _, err := tx.ExecContext(ctx, `UPDATE repositories SET description = $2, readme = $3, public = $4 WHERE id = $1`, id, description, readme, flag); err != nil {
			return err
		}
		if err := auth.Audit(ctx, tx, "repository.describe", repo, map[string]any{"description": description, "public": public}); err != nil || was == flag {
			return err
		}
		return h.hooks.Call(ctx, tx, Change{Kind: Visibility, Repository: repo, ID: id, Public: public})
	})
}
