package hub

import (
	"context"
	"database/sql"

	"github.com/opencontainers/go-digest"

	"strake/internal/auth"
)

// audited is the Hook of every Hub that tells the audit log of what is pushed,
// tagged, deleted and restored. Reviews and settings tell of themselves.
func audited(ctx context.Context, tx *sql.Tx, c Change) error {
	object, detail := c.Repository+"@"+c.Desc.Digest.String(), any(nil)
	switch c.Kind {
	case ManifestPut:
		if !c.Fresh {
			return nil
		}
	case ManifestDeleted, ManifestRestored:
	case TagSet, TagDeleted:
		if c.Old == c.Desc.Digest {
			return nil
		}
		object = c.Repository + ":" + c.Tag
		detail = struct {
			Digest digest.Digest `json:"digest,omitempty"`
			Old    digest.Digest `json:"old,omitempty"`
		}{c.Desc.Digest, c.Old}
	default:
		return nil
	}
	return auth.Audit(ctx, tx, string(c.Kind), object, detail)
}
