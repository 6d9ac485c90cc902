// Package s3cache keeps build cache in a bucket of an S3 server.
//
// The protocol is spoken here, with AWS's signer, and not by minio-go, which the Hub's package s3
// has: that is slow to start (ADR 24).
package s3cache

import (
	"context"
	"net/http"
	"time"

	"github.com/containerd/errdefs"
)

// maxTouched bounds what is touched, in bytes: S3 copies no larger object in one request.
const maxTouched = 5 << 30

// Options say which bucket.
type Options struct {
	Name, Region string
	Endpoint     string // URL of the server; "" is AWS's
	PathStyle    bool   // the bucket is in the path, not in the host

	// What requests are signed with. Without an AccessKeyID it is what AWS's programs would find on this machine.
	AccessKeyID, SecretAccessKey, SessionToken string

	Touch time.Duration // objects older than this get a new time when they are used again
	Tries int           // of a request that fails for no reason of its own; 0 is 4
	// Adaptive sends fewer requests in a second once the server asked for fewer.
	Adaptive bool
}

// Use implements bucketcache.Bucket. An object that is there and old gets a new time, by which
// rules of the bucket may know what is not used.
func (c *Bucket) Use(ctx context.Context, key string, size int64) (bool, error) {
	written, err := c.written(ctx, key)
	if errdefs.IsNotFound(err) {
		return false, nil
	}
	if err == nil && time.Since(written) > c.opts.Touch && size <= maxTouched {
		err = c.touch(ctx, key)
	}
	return err == nil, err
}

// kind is what a status means.
func kind(status int) error {
	switch status {
	case http.StatusNotFound:
		return errdefs.ErrNotFound
	case http.StatusUnauthorized, http.StatusForbidden:
		return errdefs.ErrPermissionDenied
	case http.StatusBadRequest, http.StatusMovedPermanently, http.StatusTemporaryRedirect:
		return errdefs.ErrInvalidArgument
	}
	return errdefs.ErrUnavailable
}
