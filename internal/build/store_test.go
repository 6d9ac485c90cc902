package build

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"

	"strake/internal/layer"
)

// dirStore is a Store and ContextStore in a directory and memory.
type dirStore struct {
	dir string

	mu     sync.Mutex
	layers map[digest.Digest]layer.Files
	cache  map[string][]byte
	last   map[string][]byte
	index  map[string][]byte
	wrote  int // layers
	held   []digest.Digest

	commit func() error // stands for the wait for the disk; nil: there is none
	lock   func(ctx context.Context, key string, busy func()) (func() error, error)
}

func newDirStore(t testing.TB) *dirStore {
	t.Helper()
	return &dirStore{
		dir: t.TempDir(), layers: map[digest.Digest]layer.Files{}, cache: map[string][]byte{},
		last: map[string][]byte{}, index: map[string][]byte{},
	}
}

func (s *dirStore) WriteLayer(ctx context.Context, write func(io.Writer) error) (layer.Files, error) {
	var files layer.Files
	f, err := os.CreateTemp(s.dir, "tar-*")
	if err != nil {
		return files, err
	}
	defer f.Close()
	h := sha256.New()
	if err := write(io.MultiWriter(f, h)); err != nil {
		return files, errors.Join(err, os.Remove(f.Name()))
	}
	files.DiffID = digest.NewDigestFromBytes(digest.SHA256, h.Sum(nil))
	name := filepath.Join(s.dir, hex.EncodeToString(h.Sum(nil)))
	files.Tar, files.Index = name+".tar", name+".idx"
	if err := os.Rename(f.Name(), files.Tar); err != nil {
		return files, err
	}
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		return files, err
	}
	idx, err := os.Create(files.Index)
	if err != nil {
		return files, err
	}
	defer idx.Close()
	side, err := os.Create(name + ".side")
	if err != nil {
		return files, err
	}
	defer side.Close()
	info, err := layer.WriteIndex(ctx, f, idx, side)
	if err != nil {
		return files, err
	}
	if info.SideSize > 0 {
		files.Side = side.Name()
	}
	fi, err := f.Stat()
	if err != nil {
		return files, err
	}
	files.Size = fi.Size()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.layers[files.DiffID] = files
	s.wrote++
	return files, nil
}

// dirStaged is a layer that was written at once.
type dirStaged struct{ files layer.Files }

func (l dirStaged) Files() layer.Files { return l.files }
func (l dirStaged) Close() error       { return nil }

func (s *dirStore) StageLayer(ctx context.Context, write func(io.Writer) error) (layer.Staged, error) {
	files, err := s.WriteLayer(ctx, write)
	return dirStaged{files}, err
}

func (s *dirStore) CommitLayers(ctx context.Context, commits []layer.Commit) error {
	for _, c := range commits {
		if s.commit != nil {
			if err := s.commit(); err != nil {
				return err
			}
		}
		for _, r := range c.Records {
			if err := s.SaveCache(ctx, r.Key, r.Slot, []digest.Digest{c.Files().DiffID}, r.Value); err != nil {
				return err
			}
		}
	}
	return nil
}

func (s *dirStore) LockStep(ctx context.Context, key string, busy func()) (func() error, error) {
	if s.lock != nil {
		return s.lock(ctx, key, busy)
	}
	return func() error { return nil }, nil
}

func (s *dirStore) Layer(_ context.Context, id digest.Digest) (layer.Files, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if f, ok := s.layers[id]; ok {
		return f, nil
	}
	return layer.Files{}, fmt.Errorf("layer %s: %w", id, errdefs.ErrNotFound)
}

func (s *dirStore) HoldLayers(ctx context.Context, ids ...digest.Digest) error {
	for _, id := range ids {
		if _, err := s.Layer(ctx, id); err != nil {
			return err
		}
		s.mu.Lock()
		s.held = append(s.held, id)
		s.mu.Unlock()
	}
	return nil
}

func (s *dirStore) TempDir(context.Context) (string, error) { return os.MkdirTemp(s.dir, "tmp-*") }

func (s *dirStore) CacheMount(context.Context, string, string, string, func(), func(string) error) (string, func() error, error) {
	return "", nil, errdefs.ErrNotImplemented
}

func (s *dirStore) ReadCacheMount(context.Context, string, string, func(), func(string) error) error {
	return errdefs.ErrNotFound
}

func (s *dirStore) get(m map[string][]byte, key string) ([]byte, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if b, ok := m[key]; ok {
		return b, nil
	}
	return nil, fmt.Errorf("%s: %w", key, errdefs.ErrNotFound)
}

func (s *dirStore) LoadCache(_ context.Context, key string) ([]byte, error) {
	return s.get(s.cache, key)
}

func (s *dirStore) LastCache(_ context.Context, slot string) ([]byte, error) {
	return s.get(s.last, slot)
}

func (s *dirStore) SaveCache(_ context.Context, key, slot string, _ []digest.Digest, value []byte) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.cache[key], s.last[slot] = value, value
	return nil
}

func (s *dirStore) LoadContextIndex(_ context.Context, dir string) ([]byte, error) {
	return s.get(s.index, dir)
}

func (s *dirStore) SaveContextIndex(_ context.Context, dir string, b []byte) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.index[dir] = b
	return nil
}
