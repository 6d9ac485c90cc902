package hub

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"strake/internal/auth"
	"strake/internal/sqldb"
)

// place is a repository: its row and its name.
type place struct {
	id   int64
	name string
}

// tagRow is what a tag names.
type tagRow struct {
	digest  digest.Digest // what readers see, unless it is held
	pending digest.Digest // what waits for a review; "" mostly
	held    bool          // digest is held
}

// newest is what who may write sees.
func (t tagRow) newest() digest.Digest {
	if t.pending != "" {
		return t.pending
	}
	return t.digest
}

// findTag reads a tag; ok is false when there is none.
func findTag(ctx context.Context, tx *sql.Tx, repository int64, tag string) (row tagRow, ok bool, err error) {
	var held int
	err = tx.QueryRowContext(ctx, `
		SELECT t.digest, t.pending, m.held FROM tags t JOIN manifests m ON m.repository = t.repository AND m.digest = t.digest
		WHERE t.repository = $1 AND t.name = $2`, repository, tag).Scan(&row.digest, &row.pending, &held)
	if errors.Is(err, sql.ErrNoRows) {
		return row, false, nil
	}
	row.held = held == 1
	return row, err == nil, err
}

// holdsManifest reports whether a repository holds a manifest.
func holdsManifest(ctx context.Context, tx *sql.Tx, repository int64, dgst digest.Digest) (bool, error) {
	var n int
	err := tx.QueryRowContext(ctx, `SELECT count(*) FROM manifests WHERE repository = $1 AND digest = $2`, repository, dgst.String()).Scan(&n)
	return n > 0, err
}

// setTag makes tag name a manifest that is there. One that is held does not take
// the tag from what readers see: it is pending.
func (hooks Hooks) setTag(ctx context.Context, tx *sql.Tx, at place, tag string, desc ocispec.Descriptor, action string) error {
	old, known, err := findTag(ctx, tx, at.id, tag)
	if err != nil {
		return err
	}
	var held int
	if err := tx.QueryRowContext(ctx, `SELECT held FROM manifests WHERE repository = $1 AND digest = $2`, at.id, desc.Digest.String()).Scan(&held); err != nil {
		return fmt.Errorf("find manifest %s: %w", desc.Digest, err)
	}
	row := tagRow{digest: desc.Digest}
	if held == 1 && known && !old.held {
		row = tagRow{digest: old.digest, pending: desc.Digest}
	}
	_, err = tx.ExecContext(ctx, `
		INSERT INTO tags (repository, name, digest, pending, pushed, pusher) VALUES ($1, $2, $3, $4, $5, $6)
		ON CONFLICT (repository, name) DO UPDATE SET digest = excluded.digest, pending = excluded.pending, pushed = excluded.pushed, pusher = excluded.pusher`,
		at.id, tag, row.digest.String(), row.pending.String(), time.Now().Unix(), auth.From(ctx).Name)
	if err != nil {
		return err
	}
	if err := record(ctx, tx, at.id, tag, old, row, action); err != nil {
		return err
	}
	return hooks.Call(ctx, tx, Change{Kind: TagSet, Repository: at.name, ID: at.id, Desc: desc, Tag: tag, Old: old.newest(), Held: held == 1, OldHeld: old.held})
}

// DeleteTag deletes a tag of the repository of a row and name, whoever asks;
// action is what its history says. It fails with MANIFEST_UNKNOWN.
func (hooks Hooks) DeleteTag(ctx context.Context, tx *sql.Tx, id int64, repo, tag, action string) error {
	return hooks.deleteTag(ctx, tx, place{id, repo}, tag, action)
}

// DeleteManifest deletes a manifest and its tags, whoever asks. It fails with
// MANIFEST_UNKNOWN.
func (hooks Hooks) DeleteManifest(ctx context.Context, tx *sql.Tx, id int64, repo string, dgst digest.Digest) error {
	return hooks.deleteManifest(ctx, tx, place{id, repo}, dgst)
}

// deleteTag deletes a tag and leaves what it named.
func (hooks Hooks) deleteTag(ctx context.Context, tx *sql.Tx, at place, tag, action string) error {
	old, known, err := findTag(ctx, tx, at.id, tag)
	if err != nil {
		return err
	}
	if !known {
		return errManifestUnknown()
	}
	if _, err := tx.ExecContext(ctx, `DELETE FROM tags WHERE repository = $1 AND name = $2`, at.id, tag); err != nil {
		return err
	}
	if err := record(ctx, tx, at.id, tag, old, tagRow{}, action); err != nil {
		return err
	}
	return hooks.Call(ctx, tx, Change{Kind: TagDeleted, Repository: at.name, ID: at.id, Tag: tag, Old: old.newest(), OldHeld: old.held})
}

// record adds to a tag's history what it does not name any more.
func record(ctx context.Context, tx *sql.Tx, repository int64, tag string, old, now tagRow, action string) error {
	add := func(previous digest.Digest) error {
		_, err := tx.ExecContext(ctx, `
			INSERT INTO tag_history (repository, name, digest, previous, action, at, actor) VALUES ($1, $2, $3, $4, $5, $6, $7)`,
			repository, tag, now.newest().String(), previous.String(), action, time.Now().Unix(), auth.From(ctx).Name)
		return err
	}
	if old.digest == "" {
		return add("")
	}
	for _, dgst := range []digest.Digest{old.digest, old.pending} {
		if dgst == "" || dgst == now.digest || dgst == now.pending {
			continue
		}
		if err := add(dgst); err != nil {
			return err
		}
	}
	if now.newest() != old.newest() && old.newest() == now.digest { // nothing is lost, but what writers see is new
		return add("")
	}
	return nil
}

// deleteManifest moves a manifest and its references to the trash, and deletes
// its tags.
func (hooks Hooks) deleteManifest(ctx context.Context, tx *sql.Tx, at place, dgst digest.Digest) error {
	desc := ocispec.Descriptor{Digest: dgst}
	err := tx.QueryRowContext(ctx, `SELECT size, media_type FROM manifests WHERE repository = $1 AND digest = $2`, at.id, dgst.String()).Scan(&desc.Size, &desc.MediaType)
	if errors.Is(err, sql.ErrNoRows) {
		return errManifestUnknown()
	}
	if err != nil {
		return err
	}
	tags, err := hooks.untag(ctx, tx, at, dgst)
	if err != nil {
		return err
	}
	names, err := json.Marshal(tags)
	if err != nil {
		return err
	}
	for _, stmt := range []struct {
		text string
		args []any
	}{
		{`DELETE FROM trash WHERE repository = $1 AND digest = $2`, []any{at.id, dgst.String()}},
		{
			`INSERT INTO trash (repository, digest, size, media_type, subject, artifact_type, annotations, pushed, pusher, pulled, artifact, held, tags, deleted, actor)
			SELECT repository, digest, size, media_type, subject, artifact_type, annotations, pushed, pusher, pulled, artifact, held, $3, $4, $5
			FROM manifests WHERE repository = $1 AND digest = $2`,
			[]any{at.id, dgst.String(), string(names), time.Now().Unix(), auth.From(ctx).Name},
		},
		{
			`INSERT INTO trash_refs (repository, manifest, child) SELECT repository, manifest, child FROM refs WHERE repository = $1 AND manifest = $2`,
			[]any{at.id, dgst.String()},
		},
		{`DELETE FROM manifests WHERE repository = $1 AND digest = $2`, []any{at.id, dgst.String()}},
	} {
		if _, err := tx.ExecContext(ctx, stmt.text, stmt.args...); err != nil {
			return err
		}
	}
	return hooks.Call(ctx, tx, Change{Kind: ManifestDeleted, Repository: at.name, ID: at.id, Desc: desc})
}

// untag deletes the tags that name a manifest, and returns their names. One that
// waits to name another goes on to that.
func (hooks Hooks) untag(ctx context.Context, tx *sql.Tx, at place, dgst digest.Digest) ([]string, error) {
	_, err := tx.ExecContext(ctx, `UPDATE tags SET pending = '' WHERE repository = $1 AND pending = $2`, at.id, dgst.String())
	if err != nil {
		return nil, err
	}
	_, err = tx.ExecContext(ctx, `UPDATE tags SET digest = pending, pending = '' WHERE repository = $1 AND digest = $2 AND pending <> ''`, at.id, dgst.String())
	if err != nil {
		return nil, err
	}
	tags := []string{}
	err = sqldb.Each(ctx, tx, `SELECT name FROM tags WHERE repository = $1 AND digest = $2 ORDER BY name`, []any{at.id, dgst.String()}, func(rows *sql.Rows) error {
		var name string
		err := rows.Scan(&name)
		tags = append(tags, name)
		return err
	})
	if err != nil {
		return nil, err
	}
	for _, tag := range tags {
		if err := hooks.deleteTag(ctx, tx, at, tag, "delete"); err != nil {
			return nil, err
		}
	}
	return tags, nil
}

// untrash forgets that a manifest was deleted that was pushed again.
func untrash(ctx context.Context, tx *sql.Tx, repository int64, dgst digest.Digest) error {
	_, err := tx.ExecContext(ctx, `DELETE FROM trash WHERE repository = $1 AND digest = $2`, repository, dgst.String())
	return err
}
