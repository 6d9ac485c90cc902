package build

import (
	"context"
	"fmt"
	"io"
	"io/fs"

	"github.com/opencontainers/go-digest"
)

// Open opens a regular file of a chain of layers; symlinks are followed inside
// it. A missing file is fs.ErrNotExist. The caller closes it.
func (s *Solver) Open(ctx context.Context, layers []digest.Digest, name string) (io.ReadCloser, error) {
	t, err := s.chain(ctx, layers)
	if err != nil {
		return nil, err
	}
	resolved, err := follow(t.lstat, name)
	if err != nil {
		return nil, err
	}
	n, err := t.lstat(resolved)
	if err != nil {
		return nil, err
	}
	if !n.mode.IsRegular() {
		return nil, fmt.Errorf("%s: %w", name, fs.ErrInvalid)
	}
	return t.open(resolved)
}
