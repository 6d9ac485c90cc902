package hub

import (
	"bytes"
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"strake/internal/auth"
	"strake/internal/content"
	"strake/internal/image"
	"strake/internal/registry"
	"strake/internal/sqldb"
)

// PushBlob implements registry.Writer. The bytes are read even where they are
// stored already: who knows a digest has not the blob for that.
func (h *Hub) PushBlob(ctx context.Context, repo string, desc ocispec.Descriptor, r io.Reader) error {
	if err := errors.Join(registry.CheckName(repo), registry.CheckDigest(desc.Digest)); err != nil {
		return err
	}
	if err := h.db.View(ctx, func(tx *sql.Tx) error { return h.mayTakeIn(ctx, tx, repo, desc) }); err != nil {
		return err
	}
	ref := uploadRef(newID())
	w, err := h.content.Writer(ctx, ref, content.WriterOptions{})
	if err != nil {
		return err
	}
	err = receive(w, desc, r)
	if err == nil {
		err = h.commit(ctx, w, repo, desc.Digest, "")
	}
	err = errors.Join(err, w.Close())
	if err == nil {
		return nil
	}
	// Nobody can resume it.
	if aerr := h.content.Abort(context.WithoutCancel(ctx), ref); aerr != nil && !errdefs.IsNotFound(aerr) {
		err = errors.Join(err, aerr)
	}
	return err
}

// receive reads desc's bytes, and no more, into w.
func receive(w content.Writer, desc ocispec.Descriptor, r io.Reader) error {
	in := &sourceReader{r: io.LimitReader(r, desc.Size+1)}
	buf := make([]byte, min(desc.Size+1, 256<<10))
	if _, err := io.CopyBuffer(struct{ io.Writer }{w}, in, buf); err != nil {
		if in.err != nil {
			return registry.Errorf(registry.BlobUploadInvalid, "receive blob: %w", err)
		}
		return fmt.Errorf("store blob: %w", err)
	}
	if w.Offset() != desc.Size {
		return registry.Errorf(registry.DigestInvalid, "provided digest or length did not match uploaded content")
	}
	return nil
}

// sourceReader keeps a failure to read apart from one to write.
type sourceReader struct {
	r   io.Reader
	err error
}

func (s *sourceReader) Read(p []byte) (int, error) {
	n, err := s.r.Read(p)
	if err != nil && !errors.Is(err, io.EOF) {
		s.err = err
	}
	return n, err
}

// commit makes w's bytes the blob dgst of repo and ends the upload id, if any.
func (h *Hub) commit(ctx context.Context, w content.Writer, repo string, dgst digest.Digest, id string) error {
	desc := ocispec.Descriptor{MediaType: octetStream, Digest: dgst, Size: w.Offset()}
	held := contents{h.db, &h.changes, h.content}
	epoch, err := held.reserve(ctx, dgst, desc.Size)
	if err != nil {
		return err
	}
	if err := w.Commit(ctx, 0, dgst); isMismatch(err) { // the upload is gone all the same
		bad := registry.Errorf(registry.DigestInvalid, "provided digest did not match uploaded content")
		return errors.Join(bad, h.db.Update(ctx, func(tx *sql.Tx) error { return endUpload(ctx, tx, id) }))
	} else if err != nil {
		return fmt.Errorf("commit blob: %w", err)
	}
	return held.link(ctx, epoch, dgst, desc.Size, func(ctx context.Context, tx *sql.Tx) error {
		if err := endUpload(ctx, tx, id); err != nil {
			return err
		}
		return h.hooks.linkBlob(ctx, tx, repo, desc)
	})
}

// endUpload forgets an upload, if it has an ID.
func endUpload(ctx context.Context, tx *sql.Tx, id string) error {
	if id == "" {
		return nil
	}
	_, err := tx.ExecContext(ctx, `DELETE FROM uploads WHERE id = $1`, id)
	return err
}

// mountSources is how many repositories that hold a blob are tried where the
// client names none.
const mountSources = 32

// MountBlob implements registry.Writer.
func (h *Hub) MountBlob(ctx context.Context, repo, from string, dgst digest.Digest) (desc ocispec.Descriptor, err error) {
	if err := errors.Join(registry.CheckName(repo), registry.CheckDigest(dgst)); err != nil {
		return desc, err
	}
	if from != "" {
		if err := registry.CheckName(from); err != nil {
			return desc, err
		}
	}
	err = h.changes.update(ctx, func(ctx context.Context, tx *sql.Tx) error {
		if _, err := allow(ctx, tx, repo, auth.Write); err != nil {
			return err
		}
		sources := []string{from}
		if from == "" {
			if sources, err = holders(ctx, tx, repo, dgst); err != nil {
				return err
			}
		}
		for _, source := range sources {
			desc, err = findBlob(ctx, tx, source, dgst)
			if err == nil {
				return h.hooks.linkBlob(ctx, tx, repo, desc)
			}
			if _, ok := errors.AsType[*registry.Error](err); !ok { // whatever it is, it is not theirs to know
				return err
			}
		}
		return errBlobUnknown()
	})
	return desc, err
}

// holders are repositories that hold a blob, whoever may read them: those of
// repo's own namespace first, then public ones.
func holders(ctx context.Context, tx *sql.Tx, repo string, dgst digest.Digest) (names []string, err error) {
	err = sqldb.Each(ctx, tx, `
		SELECT r.name FROM blobs b JOIN repositories r ON r.id = b.repository WHERE b.digest = $1
		ORDER BY CASE r.namespace WHEN $2 THEN 0 ELSE 1 END, r.public DESC, r.id LIMIT $3`,
		[]any{dgst.String(), auth.Namespace(repo), mountSources}, func(rows *sql.Rows) error {
			var name string
			err := rows.Scan(&name)
			names = append(names, name)
			return err
		})
	return names, err
}

// notation is the type of the config of signatures in the form of the Notary Project.
const notation = "application/vnd.cncf.notary.signature"

// manifestInfo is what is to be known of a manifest before it is stored.
type manifestInfo struct {
	desc        ocispec.Descriptor
	children    []ocispec.Descriptor
	subject     digest.Digest
	annotations []byte
	artifact    bool // nothing that a client runs
	partial     bool // the repository need not hold the children
}

// readManifest checks m, or fails with MANIFEST_INVALID.
func readManifest(m registry.Manifest) (manifestInfo, error) {
	info := manifestInfo{desc: image.Bytes(m.MediaType, m.Bytes)}
	if m.Digest != "" && m.Digest != info.desc.Digest {
		if err := registry.CheckDigest(m.Digest); err != nil {
			return info, err
		}
		if got := m.Digest.Algorithm().FromBytes(m.Bytes); got != m.Digest {
			return info, registry.Errorf(registry.DigestInvalid, "manifest has digest %s, not %s", got, m.Digest)
		}
		info.desc.Digest = m.Digest
	}
	var subject *ocispec.Descriptor
	var annotations map[string]string
	var err error
	if image.IsIndex(m.MediaType) {
		var x ocispec.Index
		x, err = image.ParseIndex(m.MediaType, m.Bytes)
		info.children, subject, annotations, info.desc.ArtifactType = x.Manifests, x.Subject, x.Annotations, x.ArtifactType
	} else {
		var x ocispec.Manifest
		x, err = image.ParseManifest(m.MediaType, m.Bytes)
		info.children = append([]ocispec.Descriptor{x.Config}, x.Layers...)
		subject, annotations, info.desc.ArtifactType = x.Subject, x.Annotations, x.ArtifactType
		info.artifact = x.Config.MediaType == ocispec.MediaTypeEmptyJSON || x.Config.MediaType == notation
		if x.ArtifactType == "" {
			info.desc.ArtifactType = x.Config.MediaType
		}
	}
	if err != nil {
		return info, registry.Errorf(registry.ManifestInvalid, "%w", err)
	}
	if subject == nil {
		return info, nil
	}
	info.subject = subject.Digest
	if len(annotations) > 0 {
		if info.annotations, err = json.Marshal(annotations); err != nil {
			return info, err
		}
	}
	return info, nil
}

// PutManifest implements registry.Writer.
func (h *Hub) PutManifest(ctx context.Context, repo string, tags []string, m registry.Manifest) (ocispec.Descriptor, error) {
	return putManifest(ctx, h, repo, tags, m, h.sparse)
}

// CacheManifest is PutManifest for a manifest of another registry, of which the
// repository need not hold what it refers to.
func CacheManifest(ctx context.Context, h *Hub, repo string, tags []string, m registry.Manifest) (ocispec.Descriptor, error) {
	return putManifest(ctx, h, repo, tags, m, true)
}

func putManifest(ctx context.Context, h *Hub, repo string, tags []string, m registry.Manifest, partial bool) (ocispec.Descriptor, error) {
	if err := registry.CheckName(repo); err != nil {
		return ocispec.Descriptor{}, err
	}
	for _, tag := range tags {
		if err := registry.CheckTag(tag); err != nil {
			return ocispec.Descriptor{}, err
		}
	}
	info, err := readManifest(m)
	if err != nil {
		return info.desc, err
	}
	info.partial = partial
	// The children are looked for twice: here, so that a manifest that is to be
	// refused leaves no bytes, and in the transaction, so that they are there.
	if err := h.db.View(ctx, func(tx *sql.Tx) error { return checkPush(ctx, tx, repo, info) }); err != nil {
		return info.desc, err
	}
	held := contents{h.db, &h.changes, h.content}
	epoch, err := held.reserve(ctx, info.desc.Digest, info.desc.Size)
	if err != nil {
		return info.desc, err
	}
	if err := content.WriteBlob(ctx, h.content, info.desc.Digest, info.desc.Size, bytes.NewReader(m.Bytes)); err != nil {
		return info.desc, fmt.Errorf("store manifest: %w", hide(err))
	}
	err = held.link(ctx, epoch, info.desc.Digest, info.desc.Size, func(ctx context.Context, tx *sql.Tx) error {
		return h.hooks.putManifest(ctx, tx, repo, tags, info)
	})
	if err == nil {
		h.recent.put(info.desc.Digest, bytes.Clone(m.Bytes))
	}
	return info.desc, err
}

func (hooks Hooks) putManifest(ctx context.Context, tx *sql.Tx, repo string, tags []string, info manifestInfo) error {
	if err := checkPush(ctx, tx, repo, info); err != nil {
		return err
	}
	id, err := makeRepository(ctx, tx, repo)
	if err != nil {
		return err
	}
	d, now, pusher := info.desc, time.Now().Unix(), auth.From(ctx).Name
	known, err := holdsManifest(ctx, tx, id, d.Digest)
	if err != nil {
		return err
	}
	_, err = tx.ExecContext(ctx, `
		INSERT INTO manifests (repository, digest, size, media_type, subject, artifact_type, annotations, pushed, pusher, artifact)
		VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10) ON CONFLICT (repository, digest) DO UPDATE SET pushed = excluded.pushed`,
		id, d.Digest.String(), d.Size, d.MediaType, info.subject.String(), d.ArtifactType, string(info.annotations), now, pusher, flag(info.artifact))
	if err != nil {
		return err
	}
	for _, child := range info.children {
		if _, err := tx.ExecContext(ctx, `INSERT INTO refs (repository, manifest, child) VALUES ($1, $2, $3) ON CONFLICT DO NOTHING`,
			id, d.Digest.String(), child.Digest.String()); err != nil {
			return err
		}
	}
	if err := untrash(ctx, tx, id, d.Digest); err != nil {
		return err
	}
	if _, err := tx.ExecContext(ctx, `UPDATE repositories SET pushed = $2 WHERE id = $1`, id, now); err != nil {
		return err
	}
	if err := hooks.Call(ctx, tx, Change{Kind: ManifestPut, Repository: repo, ID: id, Desc: d, Fresh: !known}); err != nil {
		return err
	}
	for _, tag := range tags {
		if err := hooks.setTag(ctx, tx, place{id, repo}, tag, d, "set"); err != nil {
			return err
		}
	}
	return nil
}

// mayTakeIn fails unless the caller may write the blob desc to repo; its digest
// may be empty and its size 0 when nobody knows them yet.
func (h *Hub) mayTakeIn(ctx context.Context, tx *sql.Tx, repo string, desc ocispec.Descriptor) error {
	if _, err := allow(ctx, tx, repo, auth.Write); err != nil {
		return err
	}
	return h.hooks.Call(ctx, tx, Change{Kind: Incoming, Repository: repo, Desc: desc})
}

// checkPush fails unless the caller may write to repo and repo holds what a
// manifest refers to.
func checkPush(ctx context.Context, tx *sql.Tx, repo string, info manifestInfo) error {
	if _, err := allow(ctx, tx, repo, auth.Write); err != nil || info.partial {
		return err
	}
	return checkChildren(ctx, tx, repo, info.children)
}

// checkChildren fails with MANIFEST_BLOB_UNKNOWN unless repo holds children, in
// the size that they have there. Those that are to be had elsewhere need not be.
func checkChildren(ctx context.Context, tx *sql.Tx, repo string, children []ocispec.Descriptor) error {
	const query = `
		SELECT b.size FROM repositories r JOIN %s b ON b.repository = r.id
		WHERE r.name = $1 AND b.digest = $2`
	blobs, err := tx.PrepareContext(ctx, fmt.Sprintf(query, "blobs"))
	if err != nil {
		return err
	}
	defer blobs.Close() //nolint:errcheck // ends with the transaction
	manifests, err := tx.PrepareContext(ctx, fmt.Sprintf(query, "manifests"))
	if err != nil {
		return err
	}
	defer manifests.Close() //nolint:errcheck // ends with the transaction
	for _, d := range children {
		if len(d.URLs) > 0 {
			continue
		}
		stmt := blobs
		if image.IsManifest(d.MediaType) || image.IsIndex(d.MediaType) {
			stmt = manifests
		}
		var size int64
		err := stmt.QueryRowContext(ctx, repo, d.Digest.String()).Scan(&size)
		if errors.Is(err, sql.ErrNoRows) {
			e := registry.Errorf(registry.ManifestBlobUnknown, "manifest refers to %s, which the repository does not hold", d.Digest)
			e.Detail = json.RawMessage(`{"digest":"` + d.Digest.String() + `"}`) // which was checked
			return e
		}
		if err != nil {
			return err
		}
		if size != d.Size {
			return registry.Errorf(registry.ManifestInvalid, "manifest says that %s has %d bytes, it has %d", d.Digest, d.Size, size)
		}
	}
	return nil
}

// DeleteBlob implements registry.Deleter.
func (h *Hub) DeleteBlob(ctx context.Context, repo string, dgst digest.Digest) error {
	if err := errors.Join(registry.CheckName(repo), registry.CheckDigest(dgst)); err != nil {
		return err
	}
	return h.delete(ctx, repo, errBlobUnknown(), func(tx *sql.Tx, at place) error {
		desc := ocispec.Descriptor{MediaType: octetStream, Digest: dgst}
		err := tx.QueryRowContext(ctx, `DELETE FROM blobs WHERE repository = $1 AND digest = $2 RETURNING size`, at.id, dgst.String()).Scan(&desc.Size)
		if errors.Is(err, sql.ErrNoRows) {
			return errBlobUnknown()
		}
		if err != nil {
			return err
		}
		return h.hooks.Call(ctx, tx, Change{Kind: BlobDeleted, Repository: repo, ID: at.id, Desc: desc})
	})
}

// DeleteManifest implements registry.Deleter. It can be undone: see Journal.
func (h *Hub) DeleteManifest(ctx context.Context, repo string, dgst digest.Digest) error {
	if err := errors.Join(registry.CheckName(repo), registry.CheckReference(dgst.String())); err != nil {
		return err
	}
	return h.delete(ctx, repo, errManifestUnknown(), func(tx *sql.Tx, at place) error {
		return h.hooks.deleteManifest(ctx, tx, at, dgst)
	})
}

// DeleteTag implements registry.Deleter. It can be undone: see Journal.
func (h *Hub) DeleteTag(ctx context.Context, repo, tag string) error {
	if err := errors.Join(registry.CheckName(repo), registry.CheckTag(tag)); err != nil {
		return err
	}
	return h.delete(ctx, repo, errManifestUnknown(), func(tx *sql.Tx, at place) error {
		return h.hooks.deleteTag(ctx, tx, at, tag, "delete")
	})
}

// delete runs what deletes from repo for who may; of a repository that is not
// there it answers as of what is not in one.
func (h *Hub) delete(ctx context.Context, repo string, missing *registry.Error, run func(tx *sql.Tx, at place) error) error {
	return h.db.Update(ctx, func(tx *sql.Tx) error {
		if _, err := allow(ctx, tx, repo, auth.Admin); err != nil {
			return err
		}
		id, err := repositoryID(ctx, tx, repo)
		if registry.HasCode(err, registry.NameUnknown) {
			return missing
		}
		if err != nil {
			return err
		}
		return run(tx, place{id, repo})
	})
}

// flag is a bool as the database has it.
func flag(b bool) int {
	if b {
		return 1
	}
	return 0
}
