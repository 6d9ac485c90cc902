package remote

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"strake/internal/image"
	"strake/internal/registry"
)

// Repository is one repository of a registry. Its refs are tags and digests.
// What is read comes from the first of its mirrors that has it, or else from
// the registry; what is written goes to the registry. It is safe for concurrent
// use.
type Repository struct {
	site
	mirrors []*mirrorSite

	mu     sync.Mutex
	last   registry.Manifest        // the one that was pushed last: Tag is likely to name it
	source *site                    // what Resolve read from last
	held   map[digest.Digest]bool   // blobs that were pushed
	gave   map[digest.Digest][]site // where blobs were read from, for Doubt
}

// site is where a repository is.
type site struct {
	reg  *Registry
	name string // within the registry
}

func (s site) String() string { return s.reg.host + "/" + s.name }

// mirrorSite is where a repository may be read from.
type mirrorSite struct {
	site
	byTag, byDigest bool
	down            atomic.Bool // it failed, and is not asked again
}

var (
	_ image.Source      = (*Repository)(nil)
	_ image.Doubter     = (*Repository)(nil)
	_ image.Target      = (*Repository)(nil)
	_ image.BlobMounter = (*Repository)(nil)
)

// Registry is the registry that the repository is in.
func (r *Repository) Registry() *Registry { return r.reg }

// Name is the repository's name within its registry.
func (r *Repository) Name() string { return r.name }

// Source is the host and repository that Resolve found its last answer at: of
// the registry, or of a mirror. It is "" before.
func (r *Repository) Source() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.source == nil {
		return ""
	}
	return r.source.String()
}

// from reports whether Resolve found its last answer at s, which then is good
// for the blobs too.
func (r *Repository) from(s site) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.source != nil && *r.source == s
}

// read calls get with each site that may serve a tag or a digest, until one
// succeeds. When all fail the registry's own failure counts.
func (r *Repository) read(ctx context.Context, digest bool, get func(site) error) error {
	for _, m := range r.mirrors {
		if m.down.Load() || digest && !m.byDigest && !r.from(m.site) || !digest && !m.byTag {
			continue
		}
		err := get(m.site)
		if err == nil || ctx.Err() != nil {
			return err
		}
		m.fail(err)
	}
	return get(r.site)
}

// fail passes over a mirror because of err, and for good unless it only lacks
// what it was asked for.
func (m *mirrorSite) fail(err error) {
	m.reg.client.opts.Log.Debug("mirror passed over", "mirror", m.reg.host, "repository", m.name, "err", err)
	if !errdefs.IsNotFound(err) {
		m.down.Store(true)
	}
}

// Resolve implements image.Source.
func (r *Repository) Resolve(ctx context.Context, ref string) (desc ocispec.Descriptor, err error) {
	err = r.read(ctx, registry.IsDigest(ref), func(s site) error {
		if desc, err = s.reg.StatManifest(ctx, s.name, ref); err == nil {
			r.mu.Lock()
			defer r.mu.Unlock()
			r.source = &s
		}
		return err
	})
	if errdefs.IsNotFound(err) { // the answer to a HEAD has no text
		if _, getErr := r.reg.GetManifest(ctx, r.name, ref); getErr != nil {
			err = getErr
		}
	}
	return desc, err
}

// Fetch implements image.Source.
func (r *Repository) Fetch(ctx context.Context, desc ocispec.Descriptor, offset int64) (io.ReadCloser, error) {
	if err := image.CheckDescriptor(desc); err != nil {
		return nil, err
	}
	rc, m, err := r.open(ctx, desc, offset)
	if err != nil || m == nil {
		return rc, err
	}
	return newMirrorReader(ctx, r, desc, offset, rc, m), nil
}

// open opens a blob at the first site that has it: m, or the registry.
func (r *Repository) open(ctx context.Context, desc ocispec.Descriptor, offset int64) (rc io.ReadCloser, m *mirrorSite, err error) {
	err = r.read(ctx, true, func(s site) error {
		if rc, err = s.fetch(ctx, desc, offset); err != nil {
			return err
		}
		m = r.mirror(s)
		r.note(desc.Digest, offset, s)
		return nil
	})
	return rc, m, err
}

// note remembers for Doubt that s gives the bytes of a blob from offset on.
func (r *Repository) note(dgst digest.Digest, offset int64, s site) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.gave == nil {
		r.gave = map[digest.Digest][]site{}
	}
	if offset == 0 {
		r.gave[dgst] = nil
	}
	if !slices.Contains(r.gave[dgst], s) {
		r.gave[dgst] = append(r.gave[dgst], s)
	}
}

// mirror is the mirror that s is, nil for the registry.
func (r *Repository) mirror(s site) *mirrorSite {
	i := slices.IndexFunc(r.mirrors, func(m *mirrorSite) bool { return m.site == s })
	if i < 0 || s == r.site {
		return nil
	}
	return r.mirrors[i]
}

func (s site) fetch(ctx context.Context, desc ocispec.Descriptor, offset int64) (io.ReadCloser, error) {
	if isGraph(desc) {
		m, err := s.reg.GetManifest(ctx, s.name, desc.Digest.String())
		if err != nil {
			return nil, err
		}
		if offset < 0 || offset > int64(len(m.Bytes)) {
			return nil, fmt.Errorf("manifest %s: offset %d: %w", desc.Digest, offset, errdefs.ErrOutOfRange)
		}
		return io.NopCloser(bytes.NewReader(m.Bytes[offset:])), nil
	}
	if offset < 0 || offset > desc.Size {
		return nil, fmt.Errorf("blob %s: offset %d of %d: %w", desc.Digest, offset, desc.Size, errdefs.ErrOutOfRange)
	}
	if offset == desc.Size && offset > 0 { // there is no such range to ask for
		return io.NopCloser(bytes.NewReader(nil)), nil
	}
	if desc.Size-offset >= bigBlob {
		return s.fetchPieces(ctx, desc, offset)
	}
	b := newBlobReader(ctx, s.reg, s.name, desc.Digest, offset, &version{size: desc.Size})
	if err := b.open(); err != nil {
		return nil, err
	}
	return b, nil
}

// fetchPieces is fetch for a big blob.
func (s site) fetchPieces(ctx context.Context, desc ocispec.Descriptor, offset int64) (io.ReadCloser, error) {
	p := newPieceReader(ctx, s.reg, s.name, desc.Digest, offset, desc.Size)
	if err := p.stream.open(); err != nil {
		return nil, errors.Join(err, p.Close())
	}
	return p, nil
}

func (r *Repository) hold(dgst digest.Digest) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.held == nil {
		r.held = map[digest.Digest]bool{}
	}
	r.held[dgst] = true
}

// Exists implements image.Target.
func (r *Repository) Exists(ctx context.Context, desc ocispec.Descriptor) (bool, error) {
	r.mu.Lock()
	held := r.held[desc.Digest]
	r.mu.Unlock()
	if held {
		return true, nil
	}
	var err error
	if isGraph(desc) {
		_, err = r.reg.StatManifest(ctx, r.name, desc.Digest.String())
	} else {
		_, err = r.reg.StatBlob(ctx, r.name, desc.Digest)
	}
	if errors.Is(err, errdefs.ErrNotFound) {
		return false, nil
	}
	return err == nil, err
}

// Push implements image.Target.
func (r *Repository) Push(ctx context.Context, desc ocispec.Descriptor, open image.Opener) error {
	if err := image.CheckDescriptor(desc); err != nil {
		return err
	}
	if isGraph(desc) {
		return r.pushManifest(ctx, desc, open)
	}
	if desc.Size > chunkSize {
		return r.reg.uploads(r.name).pushStream(ctx, desc, open)
	}
	return r.reg.uploads(r.name).pushWhole(ctx, desc, open, false)
}

func (r *Repository) pushManifest(ctx context.Context, desc ocispec.Descriptor, open image.Opener) error {
	b, err := image.ReadAll(ctx, openSource(open), desc, image.MaxManifestSize)
	if err != nil {
		return err
	}
	m := registry.Manifest{MediaType: desc.MediaType, Bytes: b}
	if _, err := r.reg.PutManifest(ctx, r.name, nil, m); err != nil {
		return err
	}
	r.mu.Lock()
	r.last = m
	r.mu.Unlock()
	return nil
}

// openSource is a Source of the one thing that an Opener opens.
type openSource image.Opener

func (o openSource) Resolve(context.Context, string) (ocispec.Descriptor, error) {
	return ocispec.Descriptor{}, errdefs.ErrNotFound
}

func (o openSource) Fetch(ctx context.Context, _ ocispec.Descriptor, offset int64) (io.ReadCloser, error) {
	return o(ctx, offset)
}

// Tag implements image.Target.
func (r *Repository) Tag(ctx context.Context, desc ocispec.Descriptor, ref string) error {
	if registry.IsDigest(ref) {
		if ref != desc.Digest.String() {
			return fmt.Errorf("tag %s as %s: %w", desc.Digest, ref, errdefs.ErrInvalidArgument)
		}
		return nil // by its digest it is there
	}
	r.mu.Lock()
	m := r.last
	r.mu.Unlock()
	if m.Bytes == nil || digest.FromBytes(m.Bytes) != desc.Digest {
		var err error
		if m, err = r.reg.GetManifest(ctx, r.name, desc.Digest.String()); err != nil {
			return err
		}
	}
	_, err := r.reg.PutManifest(ctx, r.name, []string{ref}, m)
	return err
}

// MountBlob implements image.BlobMounter. Of a registry that refuses nothing is
// held against it: the blob is uploaded then.
func (r *Repository) MountBlob(ctx context.Context, desc ocispec.Descriptor, from []string) (string, bool, error) {
	for _, repo := range from {
		if repo == r.name {
			continue
		}
		_, err := r.reg.MountBlob(ctx, r.name, repo, desc.Digest)
		if err == nil {
			return repo, true, nil
		}
		if ctx.Err() != nil {
			return "", false, err
		}
		r.reg.client.opts.Log.Debug("mount refused", "repository", repo, "digest", desc.Digest, "err", err)
	}
	return "", false, nil
}

func isGraph(desc ocispec.Descriptor) bool {
	return image.IsManifest(desc.MediaType) || image.IsIndex(desc.MediaType)
}
