package store

import (
	"context"
	"fmt"

	"github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"
)

// Root is the store's directory.
func (s *contents) Root() string { return s.root }

// Free is how many bytes the file system of the store has left for this user.
func (s *contents) Free() (int64, error) {
	var stat unix.Statfs_t
	if err := unix.Statfs(s.root, &stat); err != nil {
		return 0, fmt.Errorf("free space of %s: %w", s.root, err)
	}
	return int64(stat.Bavail) * int64(stat.Bsize), nil //nolint:gosec,unconvert // types differ between systems; below 2^63
}

// Parts tells of blobs that an earlier try did not finish how many bytes are here.
func (s *contents) Parts(ctx context.Context) (map[digest.Digest]int64, error) {
	ingests, err := s.blobs.Ingests(ctx)
	if err != nil {
		return nil, err
	}
	parts := map[digest.Digest]int64{}
	for _, in := range ingests {
		parts[digest.Digest(in.Ref)] = in.Offset
	}
	return parts, nil
}
