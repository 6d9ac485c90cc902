// Package registry is the distribution API as a Go interface, with its error
// codes and its HTTP handler.
//
// A registry holds repositories, each with a name of path components. A
// repository holds blobs and manifests by digest, and tags that name manifests.
// A blob is readable only through a repository that holds it. An upload is a
// blob on its way in, named by an ID, that outlives the request that began it.
// A client of a remote registry, a store of one's own and a filter over another
// registry are all a Registry; NewHandler serves any.
package registry

import (
	"context"
	"io"
	"iter"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// Registry is all of it. Its methods are safe for concurrent use and fail with
// an error that ErrorOf understands: an *Error or one of errdefs' kinds.
// Repository names, tags and digests are checked by the callee.
type Registry interface {
	Reader
	Writer
	Deleter
	Lister
}

// Blob is an open blob. Closing it is the caller's part.
type Blob struct {
	io.ReadCloser // from the asked offset on; unverified. An *os.File is served by sendfile.
	Desc          ocispec.Descriptor
}

// Redirector is a Registry whose blobs clients may fetch from elsewhere.
type Redirector interface {
	// BlobURL returns a URL from which whoever has it may read the blob for a
	// while, or "" where OpenBlob is the way. It fails as StatBlob does.
	BlobURL(ctx context.Context, repo string, dgst digest.Digest) (string, error)
}

// Manifest is the bytes of a manifest or index and what they came as.
type Manifest struct {
	MediaType string
	Bytes     []byte        // 4 MiB at most; not to be changed by who gets them
	Digest    digest.Digest // of Bytes; empty in PutManifest: their sha256
	Warning   string        // of GetManifest: what users are to be told, "" mostly
}

// Reader reads.
type Reader interface {
	// StatBlob describes a blob of repo, or fails with BLOB_UNKNOWN or NAME_UNKNOWN.
	StatBlob(ctx context.Context, repo string, dgst digest.Digest) (ocispec.Descriptor, error)
	// OpenBlob opens a blob of repo from offset on. An offset beyond the size
	// fails with errdefs.ErrOutOfRange.
	OpenBlob(ctx context.Context, repo string, dgst digest.Digest, offset int64) (Blob, error)
	// StatManifest describes the manifest that ref, a tag or a digest, names,
	// or fails with MANIFEST_UNKNOWN or NAME_UNKNOWN.
	StatManifest(ctx context.Context, repo, ref string) (ocispec.Descriptor, error)
	// GetManifest reads it. The bytes are verified when ref is a digest.
	GetManifest(ctx context.Context, repo, ref string) (Manifest, error)
}

// Writer writes. A repository begins to exist with the first write.
type Writer interface {
	// PushBlob takes in a whole blob, all of it verified or nothing. It reads r
	// to its end.
	PushBlob(ctx context.Context, repo string, desc ocispec.Descriptor, r io.Reader) error
	// StartUpload begins an upload.
	StartUpload(ctx context.Context, repo string) (Upload, error)
	// ResumeUpload takes up the upload id, which one caller holds at a time, or
	// fails with BLOB_UPLOAD_UNKNOWN.
	ResumeUpload(ctx context.Context, repo, id string) (Upload, error)
	// MountBlob makes a blob that the repository from holds a blob of repo too,
	// or fails with BLOB_UNKNOWN. An empty from stands for any repository that
	// the caller may read.
	MountBlob(ctx context.Context, repo, from string, dgst digest.Digest) (ocispec.Descriptor, error)
	// PutManifest stores a manifest whose blobs are there and makes the tags
	// name it; all or nothing where the registry can. A blob that is not there
	// fails with MANIFEST_BLOB_UNKNOWN, a malformed manifest with
	// MANIFEST_INVALID, bytes of another digest with DIGEST_INVALID.
	PutManifest(ctx context.Context, repo string, tags []string, m Manifest) (ocispec.Descriptor, error)
}

// Upload is a blob on its way in. It is not safe for concurrent use.
type Upload interface {
	io.Writer

	// ID names the upload; letters, digits, '-' and '_' only.
	ID() string
	// Offset is the count of bytes held.
	Offset() int64
	// Commit makes the bytes the blob dgst of the repository, or fails with
	// DIGEST_INVALID and drops them.
	Commit(ctx context.Context, dgst digest.Digest) (ocispec.Descriptor, error)
	// Cancel drops the upload.
	Cancel(ctx context.Context) error
	// Close releases the upload and keeps its bytes for ResumeUpload. After
	// Commit or Cancel it does nothing.
	Close() error
}

// Expecter is an Upload that knows early what will be refused.
type Expecter interface {
	// Expect fails where the upload will not be taken once it is desc, of which the
	// digest may be empty: as beyond a quota. The upload stays.
	Expect(ctx context.Context, desc ocispec.Descriptor) error
}

// Deleter deletes from one repository.
type Deleter interface {
	// DeleteBlob fails with BLOB_UNKNOWN when repo does not hold the blob.
	DeleteBlob(ctx context.Context, repo string, dgst digest.Digest) error
	// DeleteManifest deletes a manifest and the tags that name it.
	DeleteManifest(ctx context.Context, repo string, dgst digest.Digest) error
	// DeleteTag deletes a tag and leaves the manifest.
	DeleteTag(ctx context.Context, repo, tag string) error
}

// Lister lists. The sequences end after an error, and are read once.
type Lister interface {
	// Repositories lists the names after last, in byte order.
	Repositories(ctx context.Context, last string) iter.Seq2[string, error]
	// Tags lists the tags of repo after last, in the order of CompareTags.
	Tags(ctx context.Context, repo, last string) iter.Seq2[string, error]
	// Referrers lists the manifests of repo whose subject is dgst, of one
	// artifact type unless that is empty, and after the one with the digest last
	// unless that is empty.
	Referrers(ctx context.Context, repo string, dgst digest.Digest, artifactType string, last digest.Digest) iter.Seq2[ocispec.Descriptor, error]
}
