package store

import (
	"context"
	"database/sql"
	"encoding/json"
	"fmt"
	"math"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	dockerspec "github.com/moby/docker-image-spec/specs-go/v1"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"strake/internal/image"
)

func now() int64 { return time.Now().UnixNano() }

// nanos and fromNanos keep a time as nanoseconds since 1970; the zero Time,
// which that cannot say, is the smallest number.
func nanos(t time.Time) int64 {
	if t.IsZero() {
		return math.MinInt64
	}
	return t.UnixNano()
}

func fromNanos(n int64) time.Time {
	if n == math.MinInt64 {
		return time.Time{}
	}
	return time.Unix(0, n).UTC()
}

// recordBlob makes the row of a blob whose file is in place.
func recordBlob(ctx context.Context, tx *sql.Tx, desc ocispec.Descriptor) error {
	_, err := tx.ExecContext(ctx, `INSERT INTO blobs (digest, size, created, used) VALUES ($1, $2, $3, $3)
		ON CONFLICT (digest) DO UPDATE SET used = excluded.used`, desc.Digest.String(), desc.Size, now())
	if err != nil {
		return fmt.Errorf("record blob %s: %w", desc.Digest, err)
	}
	return nil
}

// recordLayer makes the rows of a layer whose tar and index are in place.
func recordLayer(ctx context.Context, tx *sql.Tx, diffID digest.Digest, is sizes) error {
	if err := recordBlob(ctx, tx, ocispec.Descriptor{Digest: diffID, Size: is.tar}); err != nil {
		return err
	}
	_, err := tx.ExecContext(ctx, `INSERT INTO layers (diff_id, size, index_size, side_size) VALUES ($1, $2, $3, $4)
		ON CONFLICT DO NOTHING`, diffID.String(), is.tar, is.index, is.side)
	if err != nil {
		return fmt.Errorf("record layer %s: %w", diffID, err)
	}
	return nil
}

func recordCompressed(ctx context.Context, tx *sql.Tx, desc ocispec.Descriptor, diffID digest.Digest, recipe string) error {
	_, err := tx.ExecContext(ctx, `INSERT INTO compressed (digest, diff_id, media_type, size, recipe) VALUES ($1, $2, $3, $4, $5)
		ON CONFLICT DO NOTHING`, desc.Digest.String(), diffID.String(), desc.MediaType, desc.Size, recipe)
	if err != nil {
		return fmt.Errorf("record layer %s: %w", diffID, err)
	}
	return recordRefs(ctx, tx, desc.Digest, diffID)
}

func recordRefs(ctx context.Context, tx *sql.Tx, parent digest.Digest, children ...digest.Digest) error {
	for _, child := range children {
		if _, err := tx.ExecContext(ctx, "INSERT INTO refs (parent, child) VALUES ($1, $2) ON CONFLICT DO NOTHING",
			parent.String(), child.String()); err != nil {
			return fmt.Errorf("record %s: %w", parent, err)
		}
	}
	return nil
}

// diffID is the diffID of a layer descriptor: its own digest when it is a plain
// tar, what it inflated to otherwise. It fails with errdefs.ErrNotFound for a
// layer that the store does not hold.
func diffID(ctx context.Context, tx *sql.Tx, dgst digest.Digest) (digest.Digest, error) {
	var id string
	err := tx.QueryRowContext(ctx, `SELECT diff_id FROM layers WHERE diff_id = $1 UNION ALL
		SELECT c.diff_id FROM compressed c JOIN layers l ON l.diff_id = c.diff_id WHERE c.digest = $1 LIMIT 1`, dgst.String()).Scan(&id)
	if err == sql.ErrNoRows {
		return "", fmt.Errorf("layer %s: %w", dgst, errdefs.ErrNotFound)
	}
	return digest.Digest(id), err
}

// recordGraph makes the rows of a manifest or an index whose file is in place.
// Behind a manifest the store holds its config and its layers, and the layers
// are those that the config names; an index may name manifests that are absent.
func (s *contents) recordGraph(ctx context.Context, tx *sql.Tx, desc ocispec.Descriptor) error {
	b, err := s.ReadBlob(ctx, desc)
	if err != nil {
		return err
	}
	children, err := image.Children(desc.MediaType, b)
	if err != nil {
		return err
	}
	if !image.IsManifest(desc.MediaType) {
		return recordBlob(ctx, tx, desc)
	}
	refs, err := s.checkManifest(ctx, tx, desc, children)
	if err != nil {
		return err
	}
	for _, child := range children {
		refs = append(refs, child.Digest)
	}
	if err := recordBlob(ctx, tx, desc); err != nil {
		return err
	}
	return recordRefs(ctx, tx, desc.Digest, refs...)
}

// checkManifest tests that the store holds what the manifest desc needs (its
// config first) and returns the diffIDs of its layers.
func (s *contents) checkManifest(ctx context.Context, tx *sql.Tx, desc ocispec.Descriptor, children []ocispec.Descriptor) ([]digest.Digest, error) {
	var diffIDs []digest.Digest
	for _, child := range children {
		if isLayer(child.MediaType) {
			id, err := diffID(ctx, tx, child.Digest)
			if err != nil {
				return nil, notHeld(desc, child, err)
			}
			diffIDs = append(diffIDs, id)
			continue
		}
		if ok, err := exists(ctx, tx, "blobs WHERE digest = $1", child.Digest.String()); err != nil || !ok {
			return nil, notHeld(desc, child, err)
		}
	}
	config := children[0]
	if !isImageConfig(config.MediaType) || len(diffIDs) < len(children)-1 {
		return diffIDs, nil // an artifact or an attestation
	}
	c, _, err := image.ReadConfig(ctx, s, config)
	if err != nil {
		return nil, fmt.Errorf("manifest %s: %w", desc.Digest, err)
	}
	return diffIDs, checkDiffIDs(desc, c.RootFS.DiffIDs, diffIDs)
}

func notHeld(parent, child ocispec.Descriptor, err error) error {
	if err != nil && !errdefs.IsNotFound(err) {
		return err
	}
	return fmt.Errorf("manifest %s: needs %s, which is not in the store: %w", parent.Digest, child.Digest, errdefs.ErrFailedPrecondition)
}

func isImageConfig(mediaType string) bool {
	return mediaType == ocispec.MediaTypeImageConfig || mediaType == image.MediaTypeDockerConfig
}

// checkDiffIDs compares the layers that a config names with those that its
// manifest brought.
func checkDiffIDs(desc ocispec.Descriptor, want, got []digest.Digest) error {
	if len(want) != len(got) {
		return fmt.Errorf("manifest %s: its config names %d layers, it has %d: %w",
			desc.Digest, len(want), len(got), errdefs.ErrInvalidArgument)
	}
	for i := range want {
		if got[i] != want[i] {
			return fmt.Errorf("manifest %s: layer %d holds %s, its config says %s: %w",
				desc.Digest, i+1, got[i], want[i], errdefs.ErrInvalidArgument)
		}
	}
	return nil
}

// oneWord is what a config says of its platform without white space, which lines
// of text keep it apart by.
func oneWord(s string) string { return strings.Join(strings.Fields(s), "") }

// imageFacts are what the row of an image repeats of its config, for lists.
type imageFacts struct {
	created, size                     int64
	os, architecture, variant, labels string
}

// factsOf are the facts of a config, whose layers are as big as size says.
func factsOf(config dockerspec.DockerOCIImage, size func(digest.Digest) (int64, error)) (imageFacts, error) {
	labels, err := json.Marshal(config.Config.Labels)
	if err != nil {
		return imageFacts{}, err
	}
	f := imageFacts{
		created: nanos(time.Time{}), labels: string(labels),
		os: oneWord(config.OS), architecture: oneWord(config.Architecture), variant: oneWord(config.Variant),
	}
	if config.Created != nil {
		f.created = nanos(*config.Created)
	}
	for _, d := range config.RootFS.DiffIDs {
		n, err := size(d)
		if err != nil {
			return imageFacts{}, fmt.Errorf("layer %s: %w", d, err)
		}
		f.size += n
	}
	return f, nil
}

// recordImage makes or renews the row of an image.
func recordImage(ctx context.Context, tx *sql.Tx, m ocispec.Descriptor, id digest.Digest, config dockerspec.DockerOCIImage) error {
	f, err := factsOf(config, func(d digest.Digest) (n int64, err error) {
		err = tx.QueryRowContext(ctx, "SELECT size FROM layers WHERE diff_id = $1", d.String()).Scan(&n)
		return n, err
	})
	if err != nil {
		return fmt.Errorf("record image %s: %w", id, err)
	}
	_, err = tx.ExecContext(ctx, `INSERT INTO images
		(id, manifest, manifest_type, manifest_size, created, size, os, architecture, variant, labels, tagged, used)
		VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, 0, $11)
		ON CONFLICT (id) DO UPDATE SET manifest = excluded.manifest, manifest_type = excluded.manifest_type,
		manifest_size = excluded.manifest_size, used = excluded.used`,
		id.String(), m.Digest.String(), m.MediaType, m.Size, f.created, f.size, f.os, f.architecture, f.variant, f.labels, now())
	if err != nil {
		return fmt.Errorf("record image %s: %w", id, err)
	}
	return nil
}

// correctImage makes the row of an image repeat its config again.
func correctImage(ctx context.Context, tx *sql.Tx, id digest.Digest, f imageFacts) error {
	_, err := tx.ExecContext(ctx, `UPDATE images SET created = $2, size = $3, os = $4, architecture = $5, variant = $6, labels = $7
		WHERE id = $1`, id.String(), f.created, f.size, f.os, f.architecture, f.variant, f.labels)
	return err
}
