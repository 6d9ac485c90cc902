package remote

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"iter"
	"mime"
	"net/http"
	"net/url"
	"slices"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"strake/internal/image"
	"strake/internal/registry"
)

// Bounds of a list.
const (
	maxListBody = 16 << 20 // bytes of a page
	maxPages    = 1000
)

// nextPage fails when a list has more pages than any honest one.
func nextPage(n int) error {
	if n < maxPages {
		return nil
	}
	return fmt.Errorf("list of more than %d pages: %w", maxPages, errdefs.ErrResourceExhausted)
}

func pull(repo string) []string { return []string{"repository:" + repo + ":pull"} }
func push(repo string) []string { return []string{"repository:" + repo + ":pull,push"} }

func blobPath(repo string, dgst digest.Digest) string {
	return "/v2/" + repo + "/blobs/" + dgst.String()
}

func manifestPath(repo, ref string) string { return "/v2/" + repo + "/manifests/" + ref }

// StatBlob implements registry.Reader.
func (r *Registry) StatBlob(ctx context.Context, repo string, dgst digest.Digest) (ocispec.Descriptor, error) {
	if err := errors.Join(registry.CheckName(repo), registry.CheckDigest(dgst)); err != nil {
		return ocispec.Descriptor{}, err
	}
	resp, err := r.do(ctx, request{method: http.MethodHead, path: blobPath(repo, dgst), scopes: pull(repo)})
	if err != nil {
		return ocispec.Descriptor{}, err
	}
	discard(resp)
	return ocispec.Descriptor{MediaType: "application/octet-stream", Digest: dgst, Size: resp.ContentLength}, nil
}

// OpenBlob implements registry.Reader. The reader asks for the rest of a blob
// again when the connection breaks or stalls.
func (r *Registry) OpenBlob(ctx context.Context, repo string, dgst digest.Digest, offset int64) (registry.Blob, error) {
	if err := errors.Join(registry.CheckName(repo), registry.CheckDigest(dgst)); err != nil {
		return registry.Blob{}, err
	}
	b := newBlobReader(ctx, r, repo, dgst, offset, &version{size: -1})
	if err := b.open(); err != nil {
		return registry.Blob{}, err
	}
	desc := ocispec.Descriptor{MediaType: "application/octet-stream", Digest: dgst, Size: b.blob.length()}
	return registry.Blob{ReadCloser: b, Desc: desc}, nil
}

// StatManifest implements registry.Reader.
func (r *Registry) StatManifest(ctx context.Context, repo, ref string) (ocispec.Descriptor, error) {
	if err := errors.Join(registry.CheckName(repo), registry.CheckReference(ref)); err != nil {
		return ocispec.Descriptor{}, err
	}
	resp, err := r.do(ctx, request{
		method: http.MethodHead, path: manifestPath(repo, ref), scopes: pull(repo), header: acceptManifests(),
		accept: []int{http.StatusOK, http.StatusMethodNotAllowed},
	})
	if err != nil {
		return ocispec.Descriptor{}, err
	}
	discard(resp)
	desc := ocispec.Descriptor{
		MediaType: contentType(resp),
		Digest:    digest.Digest(resp.Header.Get("Docker-Content-Digest")),
		Size:      resp.ContentLength,
	}
	if resp.StatusCode == http.StatusOK && slices.Contains(image.ManifestTypes(), desc.MediaType) &&
		image.CheckDescriptor(desc) == nil {
		if registry.IsDigest(ref) && desc.Digest.String() != ref {
			return ocispec.Descriptor{}, fmt.Errorf("manifest %s: the registry answers with %s: %w", ref, desc.Digest, errdefs.ErrFailedPrecondition)
		}
		return desc, nil
	}
	m, err := r.GetManifest(ctx, repo, ref) // the header says too little
	if err != nil {
		return ocispec.Descriptor{}, err
	}
	desc = image.Bytes(m.MediaType, m.Bytes)
	if registry.IsDigest(ref) {
		desc.Digest = digest.Digest(ref)
	}
	return desc, nil
}

// GetManifest implements registry.Reader.
func (r *Registry) GetManifest(ctx context.Context, repo, ref string) (m registry.Manifest, err error) {
	if err := errors.Join(registry.CheckName(repo), registry.CheckReference(ref)); err != nil {
		return m, err
	}
	resp, err := r.do(ctx, request{method: http.MethodGet, path: manifestPath(repo, ref), scopes: pull(repo), header: acceptManifests()})
	if err != nil {
		return m, err
	}
	defer func() { err = errors.Join(err, resp.Body.Close()) }()
	b, err := io.ReadAll(io.LimitReader(resp.Body, image.MaxManifestSize+1))
	if err != nil {
		return m, fmt.Errorf("read manifest %s: %w", ref, err)
	}
	if len(b) > image.MaxManifestSize {
		return m, fmt.Errorf("manifest %s: more than %d bytes: %w", ref, image.MaxManifestSize, errdefs.ErrResourceExhausted)
	}
	m = registry.Manifest{MediaType: contentType(resp), Bytes: b}
	if !registry.IsDigest(ref) {
		m.Digest = digest.FromBytes(b)
	} else if m.Digest = digest.Digest(ref).Algorithm().FromBytes(b); m.Digest != digest.Digest(ref) {
		return m, fmt.Errorf("manifest %s: the registry sent %s: %w", ref, m.Digest, errdefs.ErrFailedPrecondition)
	}
	if !slices.Contains(image.ManifestTypes(), m.MediaType) {
		if m.MediaType != "" && m.MediaType != "application/json" && m.MediaType != "application/octet-stream" && m.MediaType != "text/plain" {
			return m, fmt.Errorf("manifest %s: media type %q: %w", ref, printable(m.MediaType), errdefs.ErrNotImplemented)
		}
		m.MediaType = image.SniffMediaType(b)
	}
	return m, nil
}

func acceptManifests() http.Header {
	return http.Header{"Accept": {strings.Join(image.ManifestTypes(), ", ")}}
}

func contentType(resp *http.Response) string {
	t, _, err := mime.ParseMediaType(resp.Header.Get("Content-Type"))
	if err != nil {
		return ""
	}
	return t
}

// Repositories implements registry.Lister.
func (r *Registry) Repositories(ctx context.Context, last string) iter.Seq2[string, error] {
	return r.list(ctx, "/v2/_catalog", last, []string{"registry:catalog:*"})
}

// Tags implements registry.Lister.
func (r *Registry) Tags(ctx context.Context, repo, last string) iter.Seq2[string, error] {
	if err := registry.CheckName(repo); err != nil {
		return func(yield func(string, error) bool) { yield("", err) }
	}
	return r.list(ctx, "/v2/"+repo+"/tags/list", last, pull(repo))
}

// list reads a list page by page.
func (r *connection) list(ctx context.Context, path, last string, scopes []string) iter.Seq2[string, error] {
	return func(yield func(string, error) bool) {
		req := request{method: http.MethodGet, path: path, scopes: scopes, query: url.Values{"n": {"1000"}}}
		if last != "" {
			req.query.Set("last", last)
		}
		for n := 0; ; n++ {
			var page struct{ Repositories, Tags []string }
			next, err := r.getJSON(ctx, req, &page)
			if err = errors.Join(err, nextPage(n)); err != nil {
				yield("", err)
				return
			}
			for _, name := range append(page.Repositories, page.Tags...) {
				if name > last && !yield(name, nil) {
					return
				}
			}
			if next == nil || len(page.Repositories)+len(page.Tags) == 0 {
				return
			}
			req.url = next
		}
	}
}

// Referrers implements registry.Lister.
func (r *Registry) Referrers(ctx context.Context, repo string, dgst digest.Digest, artifactType string, last digest.Digest) iter.Seq2[ocispec.Descriptor, error] {
	return func(yield func(ocispec.Descriptor, error) bool) {
		if err := errors.Join(registry.CheckName(repo), registry.CheckDigest(dgst)); err != nil {
			yield(ocispec.Descriptor{}, err)
			return
		}
		req := request{method: http.MethodGet, path: "/v2/" + repo + "/referrers/" + dgst.String(), scopes: pull(repo)}
		if artifactType != "" {
			req.query = url.Values{"artifactType": {artifactType}}
		}
		for n := 0; ; n++ {
			var index ocispec.Index
			next, err := r.getJSON(ctx, req, &index)
			if err = errors.Join(err, nextPage(n)); err != nil {
				yield(ocispec.Descriptor{}, err)
				return
			}
			for _, d := range index.Manifests {
				if artifactType != "" && d.ArtifactType != artifactType || image.CheckDescriptor(d) != nil {
					continue
				}
				if last != "" { // what came before it was told already
					if d.Digest == last {
						last = ""
					}
					continue
				}
				if !yield(d, nil) {
					return
				}
			}
			if next == nil || len(index.Manifests) == 0 {
				return
			}
			req.url = next
		}
	}
}

// getJSON reads an answer into v and returns where the next page is, or nil.
func (r *connection) getJSON(ctx context.Context, req request, v any) (next *url.URL, err error) {
	resp, err := r.do(ctx, req)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, resp.Body.Close()) }()
	if err := json.NewDecoder(io.LimitReader(resp.Body, maxListBody)).Decode(v); err != nil {
		return nil, fmt.Errorf("%s: malformed answer: %w", place(resp.Request.URL), err)
	}
	link := resp.Header.Get("Link")
	target, params, ok := strings.Cut(strings.TrimPrefix(link, "<"), ">")
	if !ok || !strings.Contains(params, "next") {
		return nil, nil
	}
	origin, err := r.origin(ctx)
	if err != nil {
		return nil, err
	}
	if next, err = resp.Request.URL.Parse(target); err != nil || !sameOrigin(next, origin) {
		return nil, fmt.Errorf("%s: next page elsewhere: %w", place(resp.Request.URL), errdefs.ErrPermissionDenied)
	}
	return next, nil
}
