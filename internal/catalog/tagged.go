package catalog

import (
	"context"
	"database/sql"
	"fmt"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"

	"strake/internal/auth"
	"strake/internal/sqldb"
)

// Contents says what images have in them. Of what is empty nothing is said.
type Contents struct {
	Vulnerability string // by the name that scans give it, such as CVE-2024-3094
	Package       string
	Version       string // of the package
}

// Tagged is a tag that names an image, or an index of it.
type Tagged struct {
	Repository string        `json:"repository"`
	Tag        string        `json:"tag"`
	Image      digest.Digest `json:"image"`
}

// Tagged lists the tags of all repositories that the caller may read whose images
// have all of some contents as far as they were scanned, by name. What waits for a
// review is not among them. It fails with errdefs.ErrInvalidArgument where in says
// nothing.
func (c *Catalog) Tagged(ctx context.Context, in Contents, offset, limit int) (list []Tagged, err error) {
	if in.Vulnerability == "" && in.Package == "" {
		return nil, fmt.Errorf("say a vulnerability or a package: %w", errdefs.ErrInvalidArgument)
	}
	s := &search{dialect: c.db.Dialect(), id: auth.From(ctx)}
	images := s.where()
	if in.Vulnerability != "" {
		images.add("m.digest IN (SELECT image FROM scan_findings WHERE id = ?)", in.Vulnerability)
	}
	if in.Package != "" && in.Version != "" {
		images.add("m.digest IN (SELECT image FROM scan_packages WHERE name = ? AND version = ?)", in.Package, in.Version)
	} else if in.Package != "" {
		images.add("m.digest IN (SELECT image FROM scan_packages WHERE name = ?)", in.Package)
	}
	w := s.filter(&where{args: images.args})
	s.visible(w)
	w.add("CAST($1 AS BIGINT) >= 0") // it is not in every condition
	query := `
		WITH RECURSIVE named (repository, image, digest) AS (
		  SELECT m.repository, m.digest, m.digest FROM manifests m WHERE m.held = 0 AND ` + images.String() + `
		  UNION SELECT n.repository, n.image, f.manifest FROM named n JOIN refs f ON f.repository = n.repository AND f.child = n.digest
		)
		SELECT r.name, t.name, n.image FROM named n JOIN repositories r ON r.id = n.repository
		JOIN manifests m ON m.repository = n.repository AND m.digest = n.digest AND m.held = 0
		JOIN tags t ON t.repository = n.repository AND t.digest = n.digest
		WHERE ` + w.String() + fmt.Sprintf(" ORDER BY r.name, t.name, n.image LIMIT %d OFFSET %d", limit, offset)
	err = c.db.View(ctx, func(tx *sql.Tx) (err error) {
		list, err = sqldb.Collect(ctx, tx, query, w.args, func(rows *sql.Rows, t *Tagged) error { return rows.Scan(&t.Repository, &t.Tag, &t.Image) })
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("find tags: %w", err)
	}
	return list, nil
}
