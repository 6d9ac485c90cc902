package policy

import (
	"context"
	"database/sql"
	"errors"
	"fmt"

	"github.com/containerd/errdefs"
	"github.com/docker/go-units"

	"strake/internal/auth"
	"strake/internal/hub"
	"strake/internal/registry"
	"strake/internal/sqldb"
)

// Usage is what a namespace holds. Bytes that several of its repositories hold
// count once. What was deleted counts no more, though it can be restored for a
// while; to restore it needs room again.
type Usage struct {
	Namespace string `json:"namespace"`
	Bytes     int64  `json:"bytes"`
	Quota     int64  `json:"quota"` // bytes; 0: none
}

// used counts the bytes of a namespace: each digest once, but what only deleted
// manifests need.
const used = `
	SELECT COALESCE(sum(size), 0) FROM (SELECT digest, max(size) AS size FROM (
	  SELECT b.digest, b.size FROM repositories r JOIN blobs b ON b.repository = r.id WHERE r.namespace = $1
	    AND (NOT EXISTS (SELECT 1 FROM trash_refs t WHERE t.repository = b.repository AND t.child = b.digest)
	      OR EXISTS (SELECT 1 FROM refs f WHERE f.repository = b.repository AND f.child = b.digest))
	  UNION ALL SELECT m.digest, m.size FROM repositories r JOIN manifests m ON m.repository = r.id WHERE r.namespace = $1
	) AS held GROUP BY digest) AS once`

// countUsed counts what a namespace holds.
func countUsed(ctx context.Context, tx *sql.Tx, namespace string) (n int64, err error) {
	err = tx.QueryRowContext(ctx, used, namespace).Scan(&n)
	return n, err
}

// quotaOf is how many bytes a namespace may hold; 0: any number.
func quotaOf(ctx context.Context, tx *sql.Tx, namespace string) (n int64, err error) {
	err = tx.QueryRowContext(ctx, `SELECT bytes FROM quotas WHERE namespace IN ($1, '*') ORDER BY CASE namespace WHEN '*' THEN 1 ELSE 0 END LIMIT 1`, namespace).Scan(&n)
	if errors.Is(err, sql.ErrNoRows) {
		return 0, nil
	}
	return n, err
}

// SetQuota says how many bytes a namespace may hold, 0 for any number; the
// namespace * is those of which nothing else is said. A negative number takes
// back what was said. It is for administrators of the Hub.
func (p *Policy) SetQuota(ctx context.Context, namespace string, n int64) error {
	if namespace != "*" {
		if err := checkScope(namespace + "/*"); err != nil {
			return err
		}
	}
	return p.db.Update(ctx, func(tx *sql.Tx) error {
		if err := NeedScope(ctx, tx, "*", auth.Admin); err != nil {
			return err
		}
		query, args := `INSERT INTO quotas (namespace, bytes) VALUES ($1, $2) ON CONFLICT (namespace) DO UPDATE SET bytes = excluded.bytes`, []any{namespace, n}
		if n < 0 {
			query, args = `DELETE FROM quotas WHERE namespace = $1`, args[:1]
		}
		if _, err := tx.ExecContext(ctx, query, args...); err != nil {
			return fmt.Errorf("set quota: %w", err)
		}
		// Where there was no quota nobody counted.
		if _, err := tx.ExecContext(ctx, `DELETE FROM quota_bounds`); err != nil {
			return fmt.Errorf("set quota: %w", err)
		}
		return auth.Audit(ctx, tx, "quota.set", namespace, map[string]int64{"bytes": n})
	})
}

// Quota is how many bytes a namespace may hold.
type Quota struct {
	Namespace string `json:"namespace"` // *: of all of which nothing else is said
	Bytes     int64  `json:"bytes"`     // 0: any number
}

// Quotas lists what was said with SetQuota, for administrators.
func (p *Policy) Quotas(ctx context.Context) (list []Quota, err error) {
	err = p.db.View(ctx, func(tx *sql.Tx) error {
		list = []Quota{}
		if err := NeedScope(ctx, tx, "*", auth.Admin); err != nil {
			return err
		}
		return sqldb.Each(ctx, tx, `SELECT namespace, bytes FROM quotas ORDER BY namespace`, nil, func(rows *sql.Rows) error {
			var q Quota
			err := rows.Scan(&q.Namespace, &q.Bytes)
			list = append(list, q)
			return err
		})
	})
	return list, err
}

// Usage counts what a namespace holds, for who owns it.
func (p *Policy) Usage(ctx context.Context, namespace string) (Usage, error) {
	u := Usage{Namespace: namespace}
	if namespace == "" {
		return u, fmt.Errorf("no namespace: %w", errdefs.ErrInvalidArgument)
	}
	err := p.db.View(ctx, func(tx *sql.Tx) error {
		err := NeedScope(ctx, tx, namespace+"/*", auth.Admin)
		if err == nil {
			u.Quota, err = quotaOf(ctx, tx, namespace)
		}
		if err == nil {
			u.Bytes, err = countUsed(ctx, tx, namespace)
		}
		return err
	})
	return u, err
}

// checkQuota refuses what a namespace has no room for. Without a quota it asks
// for one row.
func checkQuota(ctx context.Context, tx *sql.Tx, c hub.Change) error {
	namespace := auth.Namespace(c.Repository)
	limit, err := quotaOf(ctx, tx, namespace)
	if err != nil || limit == 0 {
		return err
	}
	switch c.Kind {
	case hub.Incoming:
		return checkIncoming(ctx, tx, namespace, limit, c)
	case hub.BlobLinked:
		var bound int64
		err := tx.QueryRowContext(ctx, `UPDATE quota_bounds SET bytes = bytes + $2 WHERE namespace = $1 RETURNING bytes`, namespace, c.Desc.Size).Scan(&bound)
		if err == nil && bound <= limit {
			return nil
		}
		if err != nil && !errors.Is(err, sql.ErrNoRows) {
			return err
		}
	}
	n, err := countUsed(ctx, tx, namespace)
	if err != nil {
		return err
	}
	if n > limit {
		return full(namespace, limit, n, 0)
	}
	_, err = tx.ExecContext(ctx, `INSERT INTO quota_bounds (namespace, bytes) VALUES ($1, $2) ON CONFLICT (namespace) DO UPDATE SET bytes = excluded.bytes`, namespace, n)
	return err
}

// checkIncoming refuses bytes before they are sent.
func checkIncoming(ctx context.Context, tx *sql.Tx, namespace string, limit int64, c hub.Change) error {
	if c.Desc.Digest != "" {
		var n int
		err := tx.QueryRowContext(ctx, `
			SELECT count(*) FROM blobs b JOIN repositories r ON r.id = b.repository
			WHERE b.digest = $1 AND r.namespace = $2 AND EXISTS (SELECT 1 FROM refs f WHERE f.repository = b.repository AND f.child = b.digest)`,
			c.Desc.Digest.String(), namespace).Scan(&n)
		if err != nil || n > 0 {
			return err
		}
	}
	n, err := countUsed(ctx, tx, namespace)
	if err != nil {
		return err
	}
	if n+max(c.Desc.Size, 1) > limit {
		return full(namespace, limit, n, c.Desc.Size)
	}
	return nil
}

// full is the refusal. Who pushes may know the figures of the namespace.
func full(namespace string, limit, n, more int64) error {
	wants := "this push"
	if more > 0 {
		wants = units.BytesSize(float64(more)) + " more"
	}
	return registry.Errorf(registry.Denied, "quota of %s exceeded: it may hold %s and holds %s, there is no room for %s; delete images to make room",
		namespace, units.BytesSize(float64(limit)), units.BytesSize(float64(min(n, limit))), wants)
}
