package hub

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"strake/internal/auth"
	"strake/internal/registry"
	"strake/internal/sqldb"
)

// Window is how long what was deleted or overwritten can be restored unless a
// Hub is told otherwise.
const Window = 14 * 24 * time.Hour

// Journal is what happened to tags and manifests of a Hub, and undoes it. A tag
// that was set or deleted can name again what it named; a manifest that was
// deleted can be put back with its tags. Both last for a window, until Collect
// forgets it with the bytes. Like the Hub's its methods ask
// what the caller may do: the history is for who may write to the repository.
type Journal struct{ hub *Hub }

// NewJournal returns h's journal.
func NewJournal(h *Hub) Journal { return Journal{h} }

// TagEvent is one change of a tag.
type TagEvent struct {
	ID       int64         `json:"id"`
	Tag      string        `json:"tag"`
	Digest   digest.Digest `json:"digest,omitempty"`   // what it named from then on; "": it was deleted
	Previous digest.Digest `json:"previous,omitempty"` // what it named before; "": nothing, or it was kept
	Action   string        `json:"action"`             // set, delete, restore, publish, expire
	At       time.Time     `json:"at"`
	Actor    string        `json:"actor"`
}

// Trashed is a manifest that was deleted.
type Trashed struct {
	Digest    digest.Digest `json:"digest"`
	MediaType string        `json:"mediaType"`
	Size      int64         `json:"size"`
	Tags      []string      `json:"tags"` // that it had
	Deleted   time.Time     `json:"deleted"`
	Actor     string        `json:"actor"`
}

// historyPage is how many events one call lists at most.
const historyPage = 1000

// Each has an index in whose order its rows come.
const (
	historyOfAll = `SELECT id, name, digest, previous, action, at, actor FROM tag_history
		WHERE repository = $1 AND id < $2 ORDER BY id DESC LIMIT $3`
	historyOfOne = `SELECT id, name, digest, previous, action, at, actor FROM tag_history
		WHERE repository = $1 AND name = $4 AND id < $2 ORDER BY id DESC LIMIT $3`
)

// History lists the changes of a tag, or of all tags of repo when tag is empty,
// the last first; before is the ID to go on from, 0 to begin.
func (j Journal) History(ctx context.Context, repo, tag string, before int64) (events []TagEvent, err error) {
	query, args := historyOfAll, []any{}
	if tag != "" {
		query, args = historyOfOne, append(args, tag)
	}
	if before == 0 {
		before = math.MaxInt64
	}
	err = j.view(ctx, repo, auth.Write, func(tx *sql.Tx, at place) error {
		events = []TagEvent{}
		return sqldb.Each(ctx, tx, query, append([]any{at.id, before, historyPage}, args...), func(rows *sql.Rows) error {
			var e TagEvent
			var when int64
			err := rows.Scan(&e.ID, &e.Tag, &e.Digest, &e.Previous, &e.Action, &when, &e.Actor)
			e.At = time.Unix(when, 0)
			events = append(events, e)
			return err
		})
	})
	return events, err
}

// Trash lists the manifests of repo that were deleted and can be restored, the
// last first.
func (j Journal) Trash(ctx context.Context, repo string) (list []Trashed, err error) {
	err = j.view(ctx, repo, auth.Write, func(tx *sql.Tx, at place) error {
		list = []Trashed{}
		return sqldb.Each(ctx, tx, `
			SELECT digest, media_type, size, tags, deleted, actor FROM trash
			WHERE repository = $1 ORDER BY deleted DESC, digest LIMIT $2`, []any{at.id, historyPage}, func(rows *sql.Rows) error {
			var t Trashed
			var tags string
			var when int64
			if err := rows.Scan(&t.Digest, &t.MediaType, &t.Size, &tags, &when, &t.Actor); err != nil {
				return err
			}
			t.Deleted = time.Unix(when, 0)
			list = append(list, t)
			return json.Unmarshal([]byte(tags), &list[len(list)-1].Tags)
		})
	})
	return list, err
}

func (j Journal) view(ctx context.Context, repo string, need auth.Role, run func(tx *sql.Tx, at place) error) error {
	if err := registry.CheckName(repo); err != nil {
		return err
	}
	return j.hub.db.View(ctx, func(tx *sql.Tx) error { return within(ctx, tx, repo, need, run) })
}

func (j Journal) update(ctx context.Context, repo string, need auth.Role, run func(tx *sql.Tx, at place) error) error {
	if err := registry.CheckName(repo); err != nil {
		return err
	}
	return j.hub.db.Update(ctx, func(tx *sql.Tx) error { return within(ctx, tx, repo, need, run) })
}

// within calls run with repo when the caller may do what needs a role there.
func within(ctx context.Context, tx *sql.Tx, repo string, need auth.Role, run func(tx *sql.Tx, at place) error) error {
	if _, err := allow(ctx, tx, repo, need); err != nil {
		return err
	}
	id, err := repositoryID(ctx, tx, repo)
	if err != nil {
		return err
	}
	return run(tx, place{id, repo})
}

// RestoreManifest puts a deleted manifest back, with the deleted manifests that
// it refers to and with its tags, but those that name something else now. It
// needs the role to delete. It fails with MANIFEST_UNKNOWN when the window is
// over.
func (j Journal) RestoreManifest(ctx context.Context, repo string, dgst digest.Digest) (tags []string, err error) {
	if err := registry.CheckReference(dgst.String()); err != nil {
		return nil, err
	}
	err = j.update(ctx, repo, auth.Admin, func(tx *sql.Tx, at place) error {
		var names string
		err := tx.QueryRowContext(ctx, `SELECT tags FROM trash WHERE repository = $1 AND digest = $2`, at.id, dgst.String()).Scan(&names)
		if errors.Is(err, sql.ErrNoRows) {
			return errManifestUnknown()
		}
		if err != nil {
			return err
		}
		desc, err := j.hub.hooks.restore(ctx, tx, at, dgst, 0)
		if err != nil {
			return err
		}
		var had []string
		if err := json.Unmarshal([]byte(names), &had); err != nil {
			return fmt.Errorf("tags of %s: %w", dgst, err)
		}
		tags = []string{}
		for _, tag := range had {
			if _, taken, err := findTag(ctx, tx, at.id, tag); err != nil {
				return err
			} else if taken {
				continue
			}
			if err := j.hub.hooks.setTag(ctx, tx, at, tag, desc, "restore"); err != nil {
				return err
			}
			tags = append(tags, tag)
		}
		return nil
	})
	return tags, err
}

// RestoreTag makes tag name dgst again, which it named within the window; an
// empty dgst is what it named before its last change. A manifest that was
// deleted is put back for that, which needs the role to delete, not only to
// write.
func (j Journal) RestoreTag(ctx context.Context, repo, tag string, dgst digest.Digest) (desc ocispec.Descriptor, err error) {
	if err := registry.CheckTag(tag); err != nil {
		return desc, err
	}
	err = j.update(ctx, repo, auth.Write, func(tx *sql.Tx, at place) error {
		desc = ocispec.Descriptor{}
		err := tx.QueryRowContext(ctx, `
			SELECT previous FROM tag_history WHERE repository = $1 AND name = $2 AND previous <> '' AND ($3 = '' OR previous = $3)
			ORDER BY id DESC LIMIT 1`, at.id, tag, dgst.String()).Scan(&desc.Digest)
		if errors.Is(err, sql.ErrNoRows) {
			return registry.Errorf(registry.ManifestUnknown, "the tag named nothing else that could be restored")
		}
		if err != nil {
			return err
		}
		err = tx.QueryRowContext(ctx, `SELECT size, media_type FROM manifests WHERE repository = $1 AND digest = $2`, at.id, desc.Digest.String()).Scan(&desc.Size, &desc.MediaType)
		if errors.Is(err, sql.ErrNoRows) {
			if _, err := allow(ctx, tx, repo, auth.Admin); err != nil {
				return err
			}
			desc, err = j.hub.hooks.restore(ctx, tx, at, desc.Digest, 0)
		}
		if err != nil {
			return err
		}
		return j.hub.hooks.setTag(ctx, tx, at, tag, desc, "restore")
	})
	return desc, err
}

// maxRestoreDepth bounds how deep indexes that hold each other are followed.
const maxRestoreDepth = 8

// restore moves a manifest out of the trash, and what it refers to before it.
func (hooks Hooks) restore(ctx context.Context, tx *sql.Tx, at place, dgst digest.Digest, depth int) (desc ocispec.Descriptor, err error) {
	desc.Digest = dgst
	err = tx.QueryRowContext(ctx, `SELECT size, media_type FROM trash WHERE repository = $1 AND digest = $2`, at.id, dgst.String()).Scan(&desc.Size, &desc.MediaType)
	if errors.Is(err, sql.ErrNoRows) || depth > maxRestoreDepth {
		return desc, errManifestUnknown()
	}
	if err != nil {
		return desc, err
	}
	var lost []digest.Digest
	err = sqldb.Each(ctx, tx, `
		SELECT f.child FROM trash_refs f WHERE f.repository = $1 AND f.manifest = $2
		AND NOT EXISTS (SELECT 1 FROM blobs b WHERE b.repository = f.repository AND b.digest = f.child)
		AND NOT EXISTS (SELECT 1 FROM manifests m WHERE m.repository = f.repository AND m.digest = f.child)`, []any{at.id, dgst.String()}, func(rows *sql.Rows) error {
		var d digest.Digest
		err := rows.Scan(&d)
		lost = append(lost, d)
		return err
	})
	if err != nil {
		return desc, err
	}
	for _, child := range lost {
		_, err := hooks.restore(ctx, tx, at, child, depth+1)
		if registry.HasCode(err, registry.ManifestUnknown) {
			return desc, registry.Errorf(registry.ManifestBlobUnknown, "%s cannot be restored: %s, which it needs, is gone", dgst, child)
		}
		if err != nil {
			return desc, err
		}
	}
	for _, text := range []string{
		`INSERT INTO manifests (repository, digest, size, media_type, subject, artifact_type, annotations, pushed, pusher, pulled, artifact, held)
			SELECT repository, digest, size, media_type, subject, artifact_type, annotations, pushed, pusher, pulled, artifact, held
			FROM trash WHERE repository = $1 AND digest = $2`,
		`INSERT INTO refs (repository, manifest, child) SELECT repository, manifest, child FROM trash_refs WHERE repository = $1 AND manifest = $2`,
		`DELETE FROM trash WHERE repository = $1 AND digest = $2`,
	} {
		if _, err := tx.ExecContext(ctx, text, at.id, dgst.String()); err != nil {
			return desc, err
		}
	}
	return desc, hooks.Call(ctx, tx, Change{Kind: ManifestRestored, Repository: at.name, ID: at.id, Desc: desc})
}

// Publish lets readers see a held manifest of repository id, called repo, what it
// refers to, and artifacts that refer to it, and lets the tags that waited for it name it.
func (hooks Hooks) Publish(ctx context.Context, tx *sql.Tx, id int64, repo string, dgst digest.Digest) error {
	desc := ocispec.Descriptor{Digest: dgst}
	err := tx.QueryRowContext(ctx, `SELECT size, media_type FROM manifests WHERE repository = $1 AND digest = $2`, id, dgst.String()).Scan(&desc.Size, &desc.MediaType)
	if errors.Is(err, sql.ErrNoRows) {
		return errManifestUnknown()
	}
	if err != nil {
		return err
	}
	_, err = tx.ExecContext(ctx, `
		WITH RECURSIVE graph (digest) AS (
		  SELECT digest FROM manifests WHERE repository = $1 AND digest = $2
		  UNION SELECT f.child FROM graph g JOIN refs f ON f.repository = $1 AND f.manifest = g.digest
		)
		UPDATE manifests SET held = 0 WHERE repository = $1 AND held = 1 AND (digest IN (SELECT digest FROM graph)
		  OR (artifact = 1 AND subject <> '' AND subject IN (SELECT digest FROM graph)))`, id, dgst.String())
	if err != nil {
		return fmt.Errorf("publish %s: %w", dgst, err)
	}
	tags := map[string]tagRow{}
	err = sqldb.Each(ctx, tx, `SELECT name, digest, pending FROM tags WHERE repository = $1 AND (pending = $2 OR digest = $2)`, []any{id, dgst.String()}, func(rows *sql.Rows) error {
		var name string
		var row tagRow
		err := rows.Scan(&name, &row.digest, &row.pending)
		tags[name] = row
		return err
	})
	if err != nil {
		return err
	}
	for tag, old := range tags {
		if old.pending == dgst {
			if _, err := tx.ExecContext(ctx, `UPDATE tags SET digest = pending, pending = '' WHERE repository = $1 AND name = $2`, id, tag); err != nil {
				return err
			}
			if err := record(ctx, tx, id, tag, old, tagRow{digest: dgst}, "publish"); err != nil {
				return err
			}
		}
		if err := hooks.Call(ctx, tx, Change{Kind: TagPublished, Repository: repo, ID: id, Desc: desc, Tag: tag}); err != nil {
			return err
		}
	}
	return nil
}
