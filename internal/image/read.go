package image

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"

	"github.com/containerd/errdefs"
	imagespec "github.com/moby/docker-image-spec/specs-go/v1"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// ReadAll reads the bytes of desc, at most limit, and verifies them. Bytes
// other than desc says fail with errdefs.ErrFailedPrecondition.
func ReadAll(ctx context.Context, src Fetcher, desc ocispec.Descriptor, limit int64) ([]byte, error) {
	if err := CheckDescriptor(desc); err != nil {
		return nil, err
	}
	if desc.Size > limit {
		return nil, fmt.Errorf("read %s: %d bytes, more than %d: %w", desc.Digest, desc.Size, limit, errdefs.ErrResourceExhausted)
	}
	for {
		b, err := readOnce(ctx, src, desc)
		if err == nil {
			return b, nil
		}
		again, err := doubt(src, desc, err)
		if !again {
			return nil, fmt.Errorf("read %s: %w", desc.Digest, err)
		}
	}
}

func readOnce(ctx context.Context, src Fetcher, desc ocispec.Descriptor) ([]byte, error) {
	rc, err := src.Fetch(ctx, desc, 0)
	if err != nil {
		return nil, err
	}
	b, err := io.ReadAll(io.LimitReader(rc, desc.Size+1))
	if err := errors.Join(err, rc.Close()); err != nil {
		return nil, err
	}
	return b, verify(desc, b)
}

// doubt returns what became of taking in what src gave as desc, which failed
// with err: where the bytes may be the reason, the error says where they came
// from, and whether another try gets others is told.
func doubt(src Fetcher, desc ocispec.Descriptor, err error) (again bool, failed error) {
	d, ok := src.(Doubter)
	if !ok || !errdefs.IsFailedPrecondition(err) && !errdefs.IsDataLoss(err) && !errdefs.IsInvalidArgument(err) && !errdefs.IsOutOfRange(err) {
		return false, err
	}
	from, again := d.Doubt(desc)
	if from == "" {
		return false, err
	}
	return again, fmt.Errorf("bytes from %s: %w", from, err)
}

// verify fails with errdefs.ErrFailedPrecondition unless b is desc's bytes.
func verify(desc ocispec.Descriptor, b []byte) error {
	if int64(len(b)) != desc.Size {
		return fmt.Errorf("size %d, expected %d: %w", len(b), desc.Size, errdefs.ErrFailedPrecondition)
	}
	if got := desc.Digest.Algorithm().FromBytes(b); got != desc.Digest {
		return fmt.Errorf("digest %s, expected %s: %w", got, desc.Digest, errdefs.ErrFailedPrecondition)
	}
	return nil
}

// ReadManifest reads, verifies and parses the manifest desc. The bytes are
// returned too, for their digest must live on.
func ReadManifest(ctx context.Context, src Fetcher, desc ocispec.Descriptor) (ocispec.Manifest, []byte, error) {
	b, err := ReadAll(ctx, src, desc, MaxManifestSize)
	if err != nil {
		return ocispec.Manifest{}, nil, err
	}
	m, err := ParseManifest(desc.MediaType, b)
	return m, b, err
}

// ReadIndex is ReadManifest for an index.
func ReadIndex(ctx context.Context, src Fetcher, desc ocispec.Descriptor) (ocispec.Index, []byte, error) {
	b, err := ReadAll(ctx, src, desc, MaxManifestSize)
	if err != nil {
		return ocispec.Index{}, nil, err
	}
	x, err := ParseIndex(desc.MediaType, b)
	return x, b, err
}

// ReadConfig reads, verifies and parses the image config desc.
func ReadConfig(ctx context.Context, src Fetcher, desc ocispec.Descriptor) (imagespec.DockerOCIImage, []byte, error) {
	b, err := ReadAll(ctx, src, desc, MaxConfigSize)
	if err != nil {
		return imagespec.DockerOCIImage{}, nil, err
	}
	c, err := ParseConfig(b)
	return c, b, err
}

// ParseConfig parses an image config, as strictly as ParseManifest, and checks
// its diffIDs.
func ParseConfig(b []byte) (imagespec.DockerOCIImage, error) {
	var c imagespec.DockerOCIImage
	if len(b) > MaxConfigSize {
		return c, fmt.Errorf("image config: %d bytes, more than %d: %w", len(b), MaxConfigSize, errdefs.ErrResourceExhausted)
	}
	if _, err := checkJSON(b); err != nil {
		return c, fmt.Errorf("image config: %w", err)
	}
	if err := json.Unmarshal(b, &c); err != nil {
		return c, fmt.Errorf("image config: %w: %w", err, errdefs.ErrInvalidArgument)
	}
	for _, id := range c.RootFS.DiffIDs {
		if err := CheckDigest(id); err != nil {
			return c, fmt.Errorf("image config: diffID: %w", err)
		}
	}
	return c, nil
}

// Bytes describes b as a descriptor of mediaType.
func Bytes(mediaType string, b []byte) ocispec.Descriptor {
	return ocispec.Descriptor{MediaType: mediaType, Digest: digest.FromBytes(b), Size: int64(len(b))}
}
