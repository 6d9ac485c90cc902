package catalog

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"strake/internal/archive"
	"strake/internal/layer"
)

// CountLayers counts the files of an image's layers, of one image that was not
// counted yet; more tells that there was one. An image that cannot be read, as one
// whose layers are no tars, is not looked at again. Two that call it at once may
// count the same image.
func (c *Catalog) CountLayers(ctx context.Context) (more bool, err error) {
	var dgst, repo string
	err = c.db.View(ctx, func(tx *sql.Tx) error {
		return tx.QueryRowContext(ctx, `SELECT i.digest, r.name FROM images i JOIN manifests m ON m.digest = i.digest
			JOIN repositories r ON r.id = m.repository WHERE i.layers = '' LIMIT 1`).Scan(&dgst, &repo)
	})
	if errors.Is(err, sql.ErrNoRows) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	files, err := c.countLayers(system(ctx), repo, dgst)
	if ctx.Err() != nil {
		return false, ctx.Err()
	}
	if err != nil {
		c.log.Warn("count the files of an image", "repository", repo, "digest", dgst, "error", err)
		files = []LayerFiles{}
	}
	b, err := json.Marshal(files)
	if err != nil {
		return false, err
	}
	return true, c.db.Update(ctx, func(tx *sql.Tx) error {
		_, err := tx.ExecContext(ctx, `UPDATE images SET layers = $2 WHERE digest = $1`, dgst, string(b))
		return err
	})
}

// countLayers reads the layers of an image, one after the other. Only their
// indexes are kept meanwhile, in files.
func (c *Catalog) countLayers(ctx context.Context, repo, dgst string) (counts []LayerFiles, err error) {
	raw, err := c.source.GetManifest(ctx, repo, dgst)
	if err != nil {
		return nil, err
	}
	var manifest ocispec.Manifest
	if err := json.Unmarshal(raw.Bytes, &manifest); err != nil {
		return nil, fmt.Errorf("manifest: %w", err)
	}
	dir, err := os.MkdirTemp("", "strake-hub-layers-")
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	var files []layer.Files
	for i, l := range manifest.Layers {
		if !strings.Contains(l.MediaType, "tar") {
			return nil, fmt.Errorf("layer %s is of the type %q", l.Digest, l.MediaType)
		}
		f := layer.Files{DiffID: l.Digest, Index: filepath.Join(dir, strconv.Itoa(i))}
		if err := c.indexLayer(ctx, repo, l.Digest, f.Index); err != nil {
			return nil, fmt.Errorf("layer %s: %w", l.Digest, err)
		}
		files = append(files, f)
	}
	chain, err := layer.OpenChain(files)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, chain.Close()) }()
	changes, err := layer.FindChanges(ctx, chain, layer.ChangesOptions{})
	for _, ch := range changes {
		counts = append(counts, LayerFiles{Bytes: ch.Size, Waste: ch.Waste, Added: ch.Added, Changed: ch.Changed, Deleted: ch.Deleted})
	}
	return counts, err
}

// indexLayer writes the index of a layer; its files' bytes are read and dropped.
func (c *Catalog) indexLayer(ctx context.Context, repo string, dgst digest.Digest, path string) (err error) {
	blob, err := c.source.OpenBlob(ctx, repo, dgst, 0)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, blob.Close()) }()
	tar, _, err := archive.Decompress(blob)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, tar.Close()) }()
	index, err := os.Create(path)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, index.Close()) }()
	side, err := os.Create(path + ".side") // sparse files need one
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, side.Close(), os.Remove(side.Name())) }()
	_, err = layer.WriteIndex(ctx, tar, index, side)
	return err
}
