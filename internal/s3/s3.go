// Package s3 is a content.Store in a bucket of an S3-compatible server.
//
//	blobs/<algorithm>/<hex>          a blob
//	ingest/<hash of ref>/lease       who writes an ingest, and its ref
//	ingest/<hash of ref>/<offset>    a segment: the bytes from an offset on
//
// A blob becomes visible by one request, which the server does whole or not at
// all: a PUT of what fits in one segment, or the end of a multipart upload whose
// parts the server copies from the segments.
//
// A segment carries the state of the sha256 of everything up to its end, and a
// hash of the names (ETags) of the segments before it. So any process resumes an
// ingest where its last segment ends, without reading what is there, and knows
// when the segments are not those that were hashed. All segments but the last
// have the same size.
//
// One writer at a time holds an ingest. It made the lease by a PUT that fails
// where there is one (If-None-Match: *), or took it over by one that fails where
// it is not the one that was read (If-Match), and it renews it all the time. A
// lease that was not renewed for leaseTime, by the server's clock, is free. A
// holder that sleeps for longer than that and wakes may still write a segment
// under a successor: the parts of a blob are copied only from segments with the
// names that their writer knows, so a commit after that fails, with
// errdefs.ErrUnavailable, and no blob is ever other than its digest.
package s3

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"path"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"github.com/minio/minio-go/v7"
	"github.com/minio/minio-go/v7/pkg/credentials"
	"github.com/opencontainers/go-digest"

	"strake/internal/content"
)

const (
	segmentSize = 8 << 20 // bytes of a segment; a part of a multipart upload has 5 MiB at least
	maxSegments = 10_000  // parts of a multipart upload
	octetStream = "application/octet-stream"
)

// Store is a content.Store. Its methods are safe for concurrent use.
type Store struct {
	client minio.Core
	public minio.Core // signs the URLs that clients get
	bucket string
	prefix string        // of all keys, with the slash at its end; or empty
	lease  time.Duration // leaseTime
	asleep bool          // leases are not renewed: for tests
}

var _ content.Store = (*Store)(nil)

// IsURL tells whether s is the URL of a bucket.
func IsURL(s string) bool {
	u, err := url.Parse(s)
	return err == nil && u.Scheme == "s3"
}

// Open opens the store in a bucket, which is there:
//
//	s3://bucket/prefix?endpoint=https://host:9000&region=us-east-1
//
// The parameters are endpoint (that of AWS in the region), region (us-east-1),
// public-endpoint (as which clients reach the server, if not by endpoint), and
// credentials, a file in the form of AWS's, with its profile. Without that they
// come from AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, from AWS's files, or
// from the machine's role. Open fails with errdefs.ErrInvalidArgument when the
// URL is not one, and with errdefs.ErrNotImplemented when the server does not do
// conditional writes, without which writers could not exclude each other.
func Open(ctx context.Context, storageURL string) (*Store, error) {
	u, err := url.Parse(storageURL)
	if err != nil || u.Scheme != "s3" || u.Host == "" || u.User != nil {
		return nil, fmt.Errorf("open storage: not a URL of a bucket, s3://bucket?endpoint=...: %w", errdefs.ErrInvalidArgument)
	}
	q := u.Query()
	for name := range q {
		if !strings.Contains(" endpoint public-endpoint region credentials profile ", " "+name+" ") {
			return nil, fmt.Errorf("open storage: unknown parameter %q: %w", name, errdefs.ErrInvalidArgument)
		}
	}
	s := &Store{bucket: u.Host, lease: leaseTime, prefix: strings.Trim(path.Clean(u.Path), "/.")}
	if s.prefix != "" {
		s.prefix += "/"
	}
	creds := credentials.NewChainCredentials(providers(q))
	if s.client, err = connect(q.Get("endpoint"), q.Get("region"), creds); err != nil {
		return nil, fmt.Errorf("open storage: %w", err)
	}
	s.public = s.client
	if public := q.Get("public-endpoint"); public != "" {
		if s.public, err = connect(public, q.Get("region"), creds); err != nil {
			return nil, fmt.Errorf("open storage: %w", err)
		}
	}
	if err := s.probe(ctx); err != nil {
		return nil, fmt.Errorf("open storage s3://%s: %w", s.bucket, err)
	}
	return s, nil
}

// providers say where credentials come from.
func providers(q url.Values) []credentials.Provider {
	file := &credentials.FileAWSCredentials{Filename: q.Get("credentials"), Profile: q.Get("profile")}
	if q.Get("credentials") != "" {
		return []credentials.Provider{file}
	}
	all := []credentials.Provider{&credentials.EnvAWS{}, file}
	if q.Get("endpoint") == "" { // elsewhere nobody would answer
		all = append(all, &credentials.IAM{})
	}
	return all
}

// connect returns a client of the server at endpoint, a URL.
func connect(endpoint, region string, creds *credentials.Credentials) (minio.Core, error) {
	if region == "" {
		region = "us-east-1"
	}
	if endpoint == "" {
		endpoint = "https://s3." + region + ".amazonaws.com"
	}
	u, err := url.Parse(endpoint)
	if err != nil || (u.Scheme != "http" && u.Scheme != "https") || u.Host == "" || strings.Trim(u.Path, "/") != "" {
		return minio.Core{}, fmt.Errorf("endpoint %q: not http:// or https:// and a host: %w", endpoint, errdefs.ErrInvalidArgument)
	}
	transport, err := minio.DefaultTransport(u.Scheme == "https")
	if err != nil {
		return minio.Core{}, err
	}
	transport.MaxIdleConnsPerHost = 128
	client, err := minio.New(u.Host, &minio.Options{
		Creds: creds, Secure: u.Scheme == "https", Region: region, Transport: transport, MaxRetries: 5,
	})
	if err != nil {
		return minio.Core{}, fmt.Errorf("endpoint %q: %w: %w", endpoint, err, errdefs.ErrInvalidArgument)
	}
	return minio.Core{Client: client}, nil
}

// probe finds out whether the server takes our requests and does conditional
// writes.
func (s *Store) probe(ctx context.Context) (err error) {
	key := s.prefix + "ingest/probe-" + newHolder()
	if _, err := s.put(ctx, key, nil, unlessThere()); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.remove(ctx, key)) }()
	switch _, err := s.put(ctx, key, []byte("again"), unlessThere()); {
	case isConflict(err):
		return nil
	case err != nil:
		return err
	}
	return fmt.Errorf("the server ignores If-None-Match: %w", errdefs.ErrNotImplemented)
}

// newHolder is a name that nobody else has.
func newHolder() string {
	var b [16]byte
	_, _ = rand.Read(b[:]) // never fails
	return hex.EncodeToString(b[:])
}

// key is where a blob is.
func (s *Store) key(dgst digest.Digest) (string, error) {
	if err := content.CheckDigest(dgst); err != nil {
		return "", err
	}
	return s.prefix + "blobs/" + string(dgst.Algorithm()) + "/" + dgst.Encoded(), nil
}

// Stat implements content.Provider.
func (s *Store) Stat(ctx context.Context, dgst digest.Digest) (content.Info, error) {
	key, err := s.key(dgst)
	if err != nil {
		return content.Info{}, err
	}
	o, err := s.client.StatObject(ctx, s.bucket, key, minio.StatObjectOptions{})
	if err != nil {
		return content.Info{}, fmt.Errorf("blob %s: %w", dgst, classify(err))
	}
	return content.Info{Digest: dgst, Size: o.Size, ModTime: o.LastModified}, nil
}

// URL returns a URL from which anybody reads the blob for a while. It asks no
// server: that of a blob which is not there answers 404.
func (s *Store) URL(ctx context.Context, dgst digest.Digest, expiry time.Duration) (string, error) {
	key, err := s.key(dgst)
	if err != nil {
		return "", err
	}
	u, err := s.public.PresignedGetObject(ctx, s.bucket, key, expiry, nil)
	if err != nil {
		return "", fmt.Errorf("sign URL of blob %s: %w", dgst, err)
	}
	return u.String(), nil
}

// Walk implements content.Manager.
func (s *Store) Walk(ctx context.Context, fn func(content.Info) error) error {
	prefix := s.prefix + "blobs/"
	err := s.list(ctx, prefix, func(o minio.ObjectInfo) error {
		alg, encoded, _ := strings.Cut(strings.TrimPrefix(o.Key, prefix), "/")
		dgst := digest.NewDigestFromEncoded(digest.Algorithm(alg), encoded)
		if !valid(dgst) {
			return nil
		}
		return fn(content.Info{Digest: dgst, Size: o.Size, ModTime: o.LastModified})
	})
	if err != nil {
		return fmt.Errorf("list blobs: %w", err)
	}
	return nil
}

// valid tells whether dgst can be the name of a blob.
func valid(dgst digest.Digest) bool { return content.CheckDigest(dgst) == nil }

// Delete implements content.Manager. An open ReaderAt may lose the rest of the
// blob.
func (s *Store) Delete(ctx context.Context, dgst digest.Digest) error {
	if _, err := s.Stat(ctx, dgst); err != nil {
		return err
	}
	key, err := s.key(dgst)
	if err == nil {
		err = s.remove(ctx, key)
	}
	if err != nil {
		return fmt.Errorf("delete blob %s: %w", dgst, err)
	}
	return nil
}

// Sweep ends the multipart uploads that began before a time: a process that dies
// while it commits leaves one, which takes room and is seen by nobody else.
func (s *Store) Sweep(ctx context.Context, before time.Time) error {
	for up := range s.client.ListIncompleteUploads(ctx, s.bucket, s.prefix+"blobs/", true) {
		if up.Err != nil {
			return fmt.Errorf("list multipart uploads: %w", classify(up.Err))
		}
		if !up.Initiated.Before(before) {
			continue
		}
		err := classify(s.client.AbortMultipartUpload(ctx, s.bucket, up.Key, up.UploadID))
		if err != nil && !errdefs.IsNotFound(err) {
			return fmt.Errorf("end multipart upload: %w", err)
		}
	}
	return ctx.Err()
}

// list calls fn for all objects whose keys begin with prefix, in their order.
func (s *Store) list(ctx context.Context, prefix string, fn func(minio.ObjectInfo) error) error {
	for o := range s.client.ListObjectsIter(ctx, s.bucket, minio.ListObjectsOptions{Prefix: prefix, Recursive: true}) {
		if o.Err != nil {
			return classify(o.Err)
		}
		if err := fn(o); err != nil {
			return err
		}
	}
	return ctx.Err()
}

// condition is on what a PUT depends.
type condition func(*minio.PutObjectOptions)

// unlessThere makes a PUT fail where there is an object.
func unlessThere() condition {
	return func(o *minio.PutObjectOptions) { o.SetMatchETagExcept("*") }
}

// unlessChanged makes a PUT fail unless there is the object etag.
func unlessChanged(etag string) condition {
	return func(o *minio.PutObjectOptions) { o.SetMatchETag(etag) }
}

// classify gives errors of the server their kind.
func classify(err error) error {
	if err == nil {
		return nil
	}
	var e minio.ErrorResponse
	if !errors.As(err, &e) {
		return err
	}
	switch {
	case e.StatusCode == http.StatusNotFound && e.Code != minio.NoSuchBucket:
		return fmt.Errorf("%w: %w", err, errdefs.ErrNotFound)
	case e.StatusCode == http.StatusPreconditionFailed, e.StatusCode == http.StatusConflict:
		return fmt.Errorf("%w: %w", err, errdefs.ErrConflict)
	}
	return err
}

// isConflict tells whether a conditional write found something else.
func isConflict(err error) bool { return errdefs.IsConflict(err) }
