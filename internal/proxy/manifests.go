package proxy

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io"
	"iter"
	"time"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"strake/internal/hub"
	"strake/internal/image"
	"strake/internal/registry"
	"strake/internal/remote"
	"strake/internal/sqldb"
)

const (
	askTimeout = 30 * time.Second // for the other registry to answer about a manifest
	restFor    = 30 * time.Second // for which a registry that failed is not asked again for what is here
)

// StatManifest implements registry.Reader.
func (c *Cache) StatManifest(ctx context.Context, repo, ref string) (ocispec.Descriptor, error) {
	if _, err := c.refresh(ctx, repo, ref); err != nil {
		return ocispec.Descriptor{}, err
	}
	return c.Hub.StatManifest(ctx, repo, ref)
}

// GetManifest implements registry.Reader. One that the other registry was not asked
// for, because it fails, comes with a warning.
func (c *Cache) GetManifest(ctx context.Context, repo, ref string) (registry.Manifest, error) {
	warning, err := c.refresh(ctx, repo, ref)
	if err != nil {
		return registry.Manifest{}, err
	}
	m, err := c.Hub.GetManifest(ctx, repo, ref)
	m.Warning = warning
	return m, err
}

// refresh sees to it that what ref names in a proxied repository is here, and not
// too old. It returns what to warn of.
func (c *Cache) refresh(ctx context.Context, repo, ref string) (warning string, err error) {
	at, ok, err := c.find(ctx, repo)
	if err != nil || !ok || registry.CheckReference(ref) != nil {
		return "", err
	}
	have, err := c.Hub.StatManifest(asSystem(ctx), repo, ref)
	here := err == nil
	if err != nil && !errdefs.IsNotFound(err) {
		return "", err
	}
	if here && registry.IsDigest(ref) {
		return "", nil
	}
	if here {
		if fresh, err := isFresh(ctx, c.db, at, ref); err != nil || fresh {
			return "", err
		}
		if c.resting(at.Namespace) {
			return staleText(at), nil
		}
	}
	// The work is for all that ask, so it does not end with the first of them.
	shared := context.WithoutCancel(ctx)
	done := c.ask.DoChan(repo+"@"+ref, func() (any, error) {
		ctx, cancel := context.WithTimeout(shared, askTimeout)
		defer cancel()
		return nil, c.update(asSystem(ctx), at, ref, have.Digest)
	})
	select {
	case <-ctx.Done():
		return "", context.Cause(ctx)
	case r := <-done:
		err = r.Err
	}
	if err != nil && here {
		c.opts.Log.Warn("served from the cache", "repository", repo, "reference", ref, "err", err)
		if !errdefs.IsNotFound(err) {
			c.rest(at.Namespace)
		}
		return staleText(at), nil
	}
	return "", outward(err, at)
}

func staleText(at place) string {
	return fmt.Sprintf("%s does not answer or has it no more: this is what it had", at.Host)
}

// resting reports whether the registry of a namespace failed just now.
func (c *Cache) resting(namespace string) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return time.Now().Before(c.refused[namespace])
}

func (c *Cache) rest(namespace string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.refused[namespace] = time.Now().Add(restFor)
}

// outward is an error of the other registry as our client may have it: that it
// refuses us must not have the client ask its user for a password.
func outward(err error, at place) error {
	switch {
	case err == nil:
		return nil
	case errdefs.IsUnauthorized(err), errdefs.IsPermissionDenied(err):
		return registry.Errorf(registry.ManifestUnknown, "%s refuses %s to this Hub", at.Host, at.name)
	case errdefs.IsNotFound(err), registry.HasCode(err, registry.TooManyRequests):
		return err
	case errdefs.IsInvalidArgument(err), errdefs.IsFailedPrecondition(err):
		return registry.Errorf(registry.Unavailable, "%s sent what is no image: %w", at.Host, err)
	}
	return registry.Errorf(registry.Unavailable, "%s does not answer: %w", at.Host, err)
}

// isFresh reports whether a tag was asked for not long ago.
func isFresh(ctx context.Context, db *sqldb.DB, at place, tag string) (bool, error) {
	var checked int64
	err := db.Get(ctx, `SELECT checked FROM proxy_tags WHERE repository = $1 AND tag = $2`, []any{at.repo, tag}, &checked)
	if errors.Is(err, sql.ErrNoRows) {
		return false, nil
	}
	return time.Since(time.Unix(checked, 0)) < time.Duration(at.Fresh)*time.Second, err
}

// update asks the other registry for ref, and fetches what it names unless that is
// have.
func (c *Cache) update(ctx context.Context, at place, ref string, have digest.Digest) error {
	there, err := c.remote(at.Proxy)
	if err != nil {
		return err
	}
	want := ocispec.Descriptor{Digest: digest.Digest(ref)}
	if !registry.IsDigest(ref) {
		if want, err = there.StatManifest(ctx, at.name, ref); err != nil {
			return err
		}
	}
	if want.Digest != have || have == "" {
		if err := c.fetchManifest(ctx, there, at, ref, want.Digest); err != nil {
			return err
		}
	}
	if registry.IsDigest(ref) {
		return nil
	}
	return c.db.Update(ctx, func(tx *sql.Tx) error {
		_, err := tx.ExecContext(ctx, `INSERT INTO proxy_tags (repository, tag, checked) VALUES ($1, $2, $3)
			ON CONFLICT (repository, tag) DO UPDATE SET checked = excluded.checked`, at.repo, ref, time.Now().Unix())
		return err
	})
}

// fetchManifest caches a manifest, and the config of an image, by which the Hub
// describes it.
func (c *Cache) fetchManifest(ctx context.Context, there *remote.Registry, at place, ref string, dgst digest.Digest) error {
	var tags []string
	if !registry.IsDigest(ref) {
		tags = []string{ref}
	}
	if dgst != "" {
		ref = dgst.String()
	}
	m, err := there.GetManifest(ctx, at.name, ref)
	if err != nil {
		return err
	}
	err = c.db.Update(ctx, func(tx *sql.Tx) error {
		_, err := tx.ExecContext(ctx, `INSERT INTO repositories (name, namespace, public, created) VALUES ($1, $2, $3, $4) ON CONFLICT DO NOTHING`,
			at.repo, at.Namespace, flag(at.Public), time.Now().Unix())
		return err
	})
	if err != nil {
		return err
	}
	if image.IsManifest(m.MediaType) {
		if err := fetchConfig(ctx, c.Hub, there, at, m); err != nil {
			return err
		}
	}
	_, err = hub.CacheManifest(ctx, c.Hub, at.repo, tags, m)
	return err
}

func fetchConfig(ctx context.Context, h *hub.Hub, there *remote.Registry, at place, m registry.Manifest) (err error) {
	parsed, err := image.ParseManifest(m.MediaType, m.Bytes)
	if err != nil {
		return err
	}
	if _, err := h.StatBlob(ctx, at.repo, parsed.Config.Digest); err == nil || parsed.Config.Size > image.MaxConfigSize || !image.IsConfig(parsed.Config.MediaType) {
		return nil
	}
	blob, err := there.OpenBlob(ctx, at.name, parsed.Config.Digest, 0)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, blob.Close()) }()
	return h.PushBlob(ctx, at.repo, parsed.Config, blob)
}

// Tags implements registry.Lister. It lists what the other registry has, or what
// is here where that fails.
func (c *Cache) Tags(ctx context.Context, repo, last string) iter.Seq2[string, error] {
	at, ok, err := c.find(ctx, repo)
	if err != nil {
		return func(yield func(string, error) bool) { yield("", err) }
	}
	if !ok {
		return c.Hub.Tags(ctx, repo, last)
	}
	return func(yield func(string, error) bool) {
		there, err := c.remote(at.Proxy)
		if err == nil && !c.resting(at.Namespace) {
			sent := false
			for tag, terr := range there.Tags(ctx, at.name, last) {
				if err = terr; err != nil {
					break
				}
				if sent = true; !yield(tag, nil) {
					return
				}
			}
			if err == nil {
				return
			}
			if sent {
				yield("", outward(err, at))
				return
			}
		}
		for tag, herr := range c.Hub.Tags(ctx, repo, last) {
			if herr != nil && errdefs.IsNotFound(herr) && err != nil {
				herr = outward(err, at)
			}
			if !yield(tag, herr) {
				return
			}
		}
	}
}

// Referrers implements registry.Lister, as Tags does.
func (c *Cache) Referrers(ctx context.Context, repo string, dgst digest.Digest, artifactType string, last digest.Digest) iter.Seq2[ocispec.Descriptor, error] {
	at, ok, err := c.find(ctx, repo)
	if err != nil {
		return func(yield func(ocispec.Descriptor, error) bool) { yield(ocispec.Descriptor{}, err) }
	}
	here := c.Hub.Referrers(ctx, repo, dgst, artifactType, last)
	if !ok || c.resting(at.Namespace) {
		return here
	}
	there, err := c.remote(at.Proxy)
	if err != nil {
		return here
	}
	return func(yield func(ocispec.Descriptor, error) bool) {
		sent := false
		for d, err := range there.Referrers(ctx, at.name, dgst, artifactType, last) {
			if err != nil && !sent {
				here(yield)
				return
			}
			if sent = true; !yield(d, err) {
				return
			}
		}
	}
}

// readOnly is the refusal to push.
func (c *Cache) readOnly(ctx context.Context, repo string) error {
	at, ok, err := c.find(ctx, repo)
	if err != nil || !ok {
		return err
	}
	return registry.Errorf(registry.Denied, "%s stands for %s: nothing can be pushed there", at.Namespace, at.Host)
}

// PushBlob implements registry.Writer.
func (c *Cache) PushBlob(ctx context.Context, repo string, desc ocispec.Descriptor, r io.Reader) error {
	if err := c.readOnly(ctx, repo); err != nil {
		return err
	}
	return c.Hub.PushBlob(ctx, repo, desc, r)
}

// StartUpload implements registry.Writer.
func (c *Cache) StartUpload(ctx context.Context, repo string) (registry.Upload, error) {
	if err := c.readOnly(ctx, repo); err != nil {
		return nil, err
	}
	return c.Hub.StartUpload(ctx, repo)
}

// MountBlob implements registry.Writer.
func (c *Cache) MountBlob(ctx context.Context, repo, from string, dgst digest.Digest) (ocispec.Descriptor, error) {
	if err := c.readOnly(ctx, repo); err != nil {
		return ocispec.Descriptor{}, err
	}
	return c.Hub.MountBlob(ctx, repo, from, dgst)
}

// PutManifest implements registry.Writer.
func (c *Cache) PutManifest(ctx context.Context, repo string, tags []string, m registry.Manifest) (ocispec.Descriptor, error) {
	if err := c.readOnly(ctx, repo); err != nil {
		return ocispec.Descriptor{}, err
	}
	return c.Hub.PutManifest(ctx, repo, tags, m)
}
