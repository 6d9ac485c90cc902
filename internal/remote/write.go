package remote

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"strake/internal/image"
	"strake/internal/registry"
)

// uploader uploads blobs to a repository.
type uploader struct {
	*connection
	repo string
}

func (r *Registry) uploads(repo string) uploader { return uploader{r.connection, repo} }

// PushBlob implements registry.Writer.
func (r *Registry) PushBlob(ctx context.Context, repo string, desc ocispec.Descriptor, rd io.Reader) error {
	open := func(context.Context, int64) (io.ReadCloser, error) { return io.NopCloser(rd), nil }
	return r.uploads(repo).pushWhole(ctx, desc, open, true)
}

// pushWhole uploads a blob in one request after the one that begins it. once
// says that open works only once.
func (r uploader) pushWhole(ctx context.Context, desc ocispec.Descriptor, open image.Opener, once bool) error {
	if err := errors.Join(registry.CheckName(r.repo), image.CheckDescriptor(desc)); err != nil {
		return err
	}
	location, err := r.start(ctx)
	if err != nil {
		return err
	}
	resp, err := r.do(ctx, request{
		method: http.MethodPut, url: withDigest(location, desc.Digest), scopes: push(r.repo),
		header: octets(), accept: []int{http.StatusCreated, http.StatusNoContent},
		body: func() (io.ReadCloser, error) { return open(ctx, 0) }, size: desc.Size, once: once,
	})
	if err != nil {
		return fmt.Errorf("upload %s: %w", desc.Digest, err)
	}
	discard(resp)
	return nil
}

// pushStream uploads a big blob in a stream that is taken up where it broke, by
// this process or an earlier one.
func (r uploader) pushStream(ctx context.Context, desc ocispec.Descriptor, open image.Opener) error {
	key := desc.Digest.String()
	location, offset := r.remembered(ctx, key)
	if offset > 0 && offset <= desc.Size {
		r.client.opts.Log.Debug("upload taken up", "digest", desc.Digest, "offset", offset)
		err := r.pushFrom(ctx, desc, open, location, offset)
		if !lost(err) {
			return err
		}
		r.client.opts.Log.Debug("upload is of no use, beginning again", "digest", desc.Digest, "err", err)
	}
	location, err := r.begin(ctx, key)
	if err != nil {
		return err
	}
	return r.pushFrom(ctx, desc, open, location, 0)
}

// pushFrom is pushStream from offset on. It leaves an upload that is interrupted
// to who comes next.
func (r uploader) pushFrom(ctx context.Context, desc ocispec.Descriptor, open image.Opener, location *url.URL, offset int64) (err error) {
	defer func() { r.leave(ctx, desc.Digest.String(), location, err) }()
	for try, best := 1, offset; offset < desc.Size; try++ {
		next, err := r.patch(ctx, location, offset, desc.Size, open)
		if err == nil {
			location = next
			break
		}
		if try == maxTries || ctx.Err() != nil || !passing(err) {
			return fmt.Errorf("upload %s: %w", desc.Digest, err)
		}
		if err := sleep(ctx, backoff(try)); err != nil {
			return err
		}
		next, held, err := r.state(ctx, location)
		if err != nil || held == 0 || held > desc.Size {
			r.client.opts.Log.Debug("upload lost, beginning again", "digest", desc.Digest, "offset", held, "err", err)
			held = 0
			if next, err = r.begin(ctx, desc.Digest.String()); err != nil {
				return err
			}
		}
		location, offset = next, held
		if offset > best { // it gets on: these tries do not count
			best, try = offset, 0
		}
	}
	return r.commit(ctx, location, desc.Digest)
}

// remembered returns the upload of key that is unfinished and nobody's, and how
// many bytes of it the registry holds: 0 when there is none that could be taken
// up. It is the caller's then.
func (r uploader) remembered(ctx context.Context, key string) (*url.URL, int64) {
	if r.client.opts.Uploads == nil {
		return nil, 0
	}
	text, err := r.client.opts.Uploads.ClaimUpload(ctx, r.host+"/"+r.repo, key)
	if err != nil || text == "" {
		return nil, 0
	}
	origin, err := r.origin(ctx)
	if err != nil {
		return nil, 0
	}
	location, err := url.Parse(text)
	if err != nil || checkPlace(origin, location) != nil {
		return nil, 0
	}
	location, offset, err := r.state(ctx, location)
	if err != nil {
		r.client.opts.Log.Debug("upload lost", "key", key, "err", err)
		return nil, 0
	}
	return location, offset
}

// begin begins the upload of what key names, and remembers it.
func (r uploader) begin(ctx context.Context, key string) (*url.URL, error) {
	location, err := r.start(ctx)
	if err == nil {
		r.remember(ctx, key, location.String(), false)
	}
	return location, err
}

func (r uploader) forget(ctx context.Context, key string) { r.remember(ctx, key, "", false) }

// leave leaves an upload that err ended to who takes it up, or forgets it where
// there is nothing to go on with.
func (r uploader) leave(ctx context.Context, key string, location *url.URL, err error) {
	if location == nil || !interrupted(err) {
		r.forget(ctx, key)
		return
	}
	r.remember(ctx, key, location.String(), true)
}

// remember notes where an upload goes on. Without the note it only begins again.
func (r uploader) remember(ctx context.Context, key, location string, left bool) {
	if r.client.opts.Uploads == nil {
		return
	}
	if err := r.client.opts.Uploads.SetUpload(context.WithoutCancel(ctx), r.host+"/"+r.repo, key, location, left); err != nil {
		r.client.opts.Log.Debug("upload not remembered", "key", key, "err", err)
	}
}

// patch sends the bytes from offset up to size, and returns where the upload
// goes on.
func (r uploader) patch(ctx context.Context, location *url.URL, offset, size int64, open image.Opener) (*url.URL, error) {
	header := octets()
	if offset > 0 {
		header.Set("Content-Range", fmt.Sprintf("%d-%d", offset, size-1))
	}
	resp, err := r.do(ctx, request{
		method: http.MethodPatch, url: location, scopes: push(r.repo), header: header, once: true,
		accept: []int{http.StatusAccepted, http.StatusNoContent}, size: size - offset,
		body: func() (io.ReadCloser, error) { return open(ctx, offset) },
	})
	if err != nil {
		return nil, err
	}
	discard(resp)
	return r.location(ctx, location, resp)
}

// start begins an upload and returns where it goes on.
func (r uploader) start(ctx context.Context) (*url.URL, error) {
	resp, err := r.do(ctx, request{
		method: http.MethodPost, path: "/v2/" + r.repo + "/blobs/uploads/",
		scopes: push(r.repo), accept: []int{http.StatusAccepted},
	})
	if err != nil {
		return nil, fmt.Errorf("begin upload: %w", err)
	}
	discard(resp)
	return r.location(ctx, nil, resp)
}

// location returns where resp says that its upload goes on; keep when it says
// nothing.
func (r *connection) location(ctx context.Context, keep *url.URL, resp *http.Response) (*url.URL, error) {
	s := resp.Header.Get("Location")
	if s == "" && keep != nil {
		return keep, nil
	}
	origin, err := r.origin(ctx)
	if err != nil {
		return nil, err
	}
	u, err := resp.Request.URL.Parse(s)
	if err != nil || s == "" {
		return nil, permanent(fmt.Errorf("%s: malformed Location", place(resp.Request.URL)))
	}
	return u, checkPlace(origin, u)
}

// state asks how many bytes of an upload the registry holds: 0 may be 1.
func (r uploader) state(ctx context.Context, location *url.URL) (*url.URL, int64, error) {
	resp, err := r.do(ctx, request{
		method: http.MethodGet, url: location, scopes: push(r.repo),
		accept: []int{http.StatusNoContent, http.StatusAccepted, http.StatusOK},
	})
	if err != nil {
		return nil, 0, err
	}
	discard(resp)
	next, err := r.location(ctx, location, resp)
	if err != nil {
		return nil, 0, err
	}
	_, last, ok := strings.Cut(resp.Header.Get("Range"), "-")
	n, err := strconv.ParseInt(last, 10, 64)
	if !ok || err != nil || n < 0 {
		return nil, 0, permanent(fmt.Errorf("%s: malformed Range", place(location)))
	}
	if n == 0 { // "0-0" is what registries say of one byte and of none
		return next, 0, nil
	}
	return next, n + 1, nil
}

// commit makes an upload a blob.
func (r uploader) commit(ctx context.Context, location *url.URL, dgst digest.Digest) error {
	resp, err := r.do(ctx, request{
		method: http.MethodPut, url: withDigest(location, dgst), scopes: push(r.repo), header: octets(),
		accept: []int{http.StatusCreated, http.StatusNoContent},
		body:   func() (io.ReadCloser, error) { return http.NoBody, nil },
	})
	if err != nil {
		return fmt.Errorf("finish upload of %s: %w", dgst, err)
	}
	discard(resp)
	return nil
}

func withDigest(u *url.URL, dgst digest.Digest) *url.URL {
	v := *u
	if v.RawQuery != "" {
		v.RawQuery += "&"
	}
	v.RawQuery += "digest=" + url.QueryEscape(dgst.String())
	return &v
}

func octets() http.Header { return http.Header{"Content-Type": {"application/octet-stream"}} }

// MountBlob implements registry.Writer.
func (r *Registry) MountBlob(ctx context.Context, repo, from string, dgst digest.Digest) (ocispec.Descriptor, error) {
	desc := ocispec.Descriptor{MediaType: "application/octet-stream", Digest: dgst}
	if err := errors.Join(registry.CheckName(repo), registry.CheckDigest(dgst)); err != nil {
		return desc, err
	}
	query, scopes := url.Values{"mount": {dgst.String()}}, push(repo)
	if from != "" {
		if err := registry.CheckName(from); err != nil {
			return desc, err
		}
		query.Set("from", from)
		scopes = append(scopes, pull(from)...)
	}
	resp, err := r.do(ctx, request{
		method: http.MethodPost, path: "/v2/" + repo + "/blobs/uploads/", query: query,
		scopes: scopes, accept: []int{http.StatusCreated, http.StatusAccepted},
	})
	if err != nil {
		return desc, fmt.Errorf("mount %s from %s: %w", dgst, from, err)
	}
	discard(resp)
	if resp.StatusCode == http.StatusCreated {
		return r.StatBlob(ctx, repo, dgst)
	}
	if location, err := r.location(ctx, nil, resp); err == nil { // it began an upload instead, which nobody wants
		r.uploads(repo).cancel(ctx, location)
	}
	return desc, registry.Errorf(registry.BlobUnknown, "mount %s from %s: refused: %w", dgst, from, errdefs.ErrNotFound)
}

// cancel drops an upload. A failure is left to the registry's own clearing.
func (r uploader) cancel(ctx context.Context, location *url.URL) {
	resp, err := r.do(ctx, request{
		method: http.MethodDelete, url: location, scopes: push(r.repo), once: true,
		accept: []int{http.StatusNoContent, http.StatusAccepted, http.StatusOK},
	})
	if err != nil {
		r.client.opts.Log.Debug("cancel upload", "host", r.host, "err", err)
		return
	}
	discard(resp)
}

// PutManifest implements registry.Writer. Tags are set one after the other: few
// registries take more than one at once.
func (r *Registry) PutManifest(ctx context.Context, repo string, tags []string, m registry.Manifest) (ocispec.Descriptor, error) {
	desc := image.Bytes(m.MediaType, m.Bytes)
	if m.Digest != "" {
		desc.Digest = m.Digest
	}
	if len(tags) == 0 {
		return r.putManifest(ctx, repo, desc.Digest.String(), desc, m)
	}
	for _, tag := range tags {
		if _, err := r.putManifest(ctx, repo, tag, desc, m); err != nil {
			return desc, err
		}
	}
	return desc, nil
}

// putManifest puts a manifest as ref, a tag or its digest.
func (r *Registry) putManifest(ctx context.Context, repo, ref string, desc ocispec.Descriptor, m registry.Manifest) (ocispec.Descriptor, error) {
	if err := errors.Join(registry.CheckName(repo), registry.CheckReference(ref)); err != nil {
		return desc, err
	}
	req := request{
		method: http.MethodPut, path: manifestPath(repo, ref), scopes: push(repo),
		header: http.Header{"Content-Type": {m.MediaType}}, accept: []int{http.StatusCreated, http.StatusOK, http.StatusAccepted},
		body: func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(m.Bytes)), nil }, size: desc.Size,
	}
	resp, err := r.do(ctx, req) //nolint:bodyclose // discard does
	// The digest is right. distribution's file system driver says otherwise when
	// somebody else writes the same manifest meanwhile.
	for try := 1; registry.HasCode(err, registry.DigestInvalid) && try < maxTries; try++ {
		if err := sleep(ctx, backoff(try)); err != nil {
			return desc, err
		}
		resp, err = r.do(ctx, req) //nolint:bodyclose // discard does
	}
	if err != nil {
		return desc, fmt.Errorf("put manifest %s: %w", ref, err)
	}
	discard(resp)
	if got := resp.Header.Get("Docker-Content-Digest"); got != "" && got != desc.Digest.String() {
		return desc, fmt.Errorf("put manifest %s: the registry stored %s: %w", desc.Digest, printable(got), errdefs.ErrFailedPrecondition)
	}
	return desc, nil
}

// DeleteBlob implements registry.Deleter.
func (r *Registry) DeleteBlob(ctx context.Context, repo string, dgst digest.Digest) error {
	if err := errors.Join(registry.CheckName(repo), registry.CheckDigest(dgst)); err != nil {
		return err
	}
	return r.delete(ctx, repo, blobPath(repo, dgst))
}

// DeleteManifest implements registry.Deleter.
func (r *Registry) DeleteManifest(ctx context.Context, repo string, dgst digest.Digest) error {
	if err := errors.Join(registry.CheckName(repo), registry.CheckDigest(dgst)); err != nil {
		return err
	}
	return r.delete(ctx, repo, manifestPath(repo, dgst.String()))
}

// DeleteTag implements registry.Deleter.
func (r *Registry) DeleteTag(ctx context.Context, repo, tag string) error {
	if err := errors.Join(registry.CheckName(repo), registry.CheckTag(tag)); err != nil {
		return err
	}
	return r.delete(ctx, repo, manifestPath(repo, tag))
}

func (r *connection) delete(ctx context.Context, repo, path string) error {
	resp, err := r.do(ctx, request{
		method: http.MethodDelete, path: path, scopes: []string{"repository:" + repo + ":delete"},
		accept: []int{http.StatusAccepted, http.StatusOK, http.StatusNoContent},
	})
	if err != nil {
		return fmt.Errorf("delete: %w", err)
	}
	discard(resp)
	return nil
}
