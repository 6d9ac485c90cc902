package scandb

import (
	"bytes"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"strake/internal/archive"
	"strake/internal/layer"
	"strake/internal/scan"
	"strake/internal/sqldb"
)

// LayerFiles is what a layer does to those below it.
type LayerFiles struct {
	Bytes   int64 `json:"bytes"` // of the files that it adds or changes
	Waste   int64 `json:"waste"` // of these, those that later layers hide
	Added   int   `json:"added"`
	Changed int   `json:"changed"`
	Deleted int   `json:"deleted"`
}

// maxFiles is how many bytes of a layer's index are kept, compressed: those of
// about 800,000 files. The files of an image with a larger one are not counted.
const maxFiles = 16 << 20

// layer finds the record of a layer, or makes it. The blob is read once, whoever
// asks for it at the same time in whichever replica.
func (s *Scanner) layer(ctx context.Context, repo string, desc ocispec.Descriptor) (r scan.Record, err error) {
	err = s.alone(ctx, desc.Digest, func() (known bool, err error) {
		var made bool
		r, made, err = recordWithFiles(ctx, s.DB, desc.Digest)
		return made, err
	}, func() error {
		var files []byte
		if r, files, err = s.read(ctx, repo, desc); err != nil {
			return err
		}
		return saveRecord(ctx, s.DB, desc.Digest, &r, files)
	})
	return r, err
}

// read reads a layer as a stream, within archive's bounds of how much may come out
// of how little: its record, and its index, which is empty where none is kept.
func (s *Scanner) read(ctx context.Context, repo string, desc ocispec.Descriptor) (r scan.Record, files []byte, err error) {
	blob, err := s.Source.OpenBlob(ctx, repo, desc.Digest, 0)
	if err != nil {
		return r, nil, notFound(err)
	}
	defer func() { err = errors.Join(err, blob.Close()) }()
	tar, _, err := archive.Decompress(blob)
	if err != nil {
		return r, nil, err
	}
	defer func() { err = errors.Join(err, tar.Close()) }()
	from, to := io.Pipe()
	var indexing sync.WaitGroup
	var indexError error
	indexing.Go(func() {
		files, indexError = indexOf(ctx, from)
		_, _ = io.Copy(io.Discard, from) // the scan goes on where the index cannot
	})
	r, err = scan.Tar(ctx, io.TeeReader(tar, to))
	if err == nil {
		_, err = io.Copy(to, tar) // what follows the last entry
	}
	_ = to.CloseWithError(err) // it never fails
	indexing.Wait()
	switch {
	case err != nil:
		return scan.Record{}, nil, err
	case broken(indexError):
		return r, []byte{}, nil
	}
	return r, files, indexError
}

// indexOf is the index of a layer, compressed, or nothing where it is too large.
func indexOf(ctx context.Context, tar io.Reader) (files []byte, err error) {
	side, err := os.CreateTemp("", "strake-hub-side-") // of sparse files, whose bytes are not wanted
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, side.Close(), os.Remove(side.Name())) }()
	kept := &limitedBuffer{}
	z, err := archive.Compress(kept, archive.Zstd, 0)
	if err != nil {
		return nil, err
	}
	_, err = layer.WriteIndex(ctx, tar, z, side)
	if err := errors.Join(err, z.Close()); err != nil {
		return nil, err
	}
	return kept.bytes(), nil
}

// limitedBuffer keeps up to maxFiles bytes, or none.
type limitedBuffer struct {
	bytes.Buffer
	over bool
}

func (b *limitedBuffer) Write(p []byte) (int, error) {
	if b.over = b.over || b.Len()+len(p) > maxFiles; b.over {
		b.Reset()
		return len(p), nil
	}
	return b.Buffer.Write(p)
}

func (b *limitedBuffer) bytes() []byte { return append([]byte{}, b.Bytes()...) }

// notedFor is for how long it is not noted again that a record is used.
const notedFor = 24 * time.Hour

// recordWithFiles is Record for who wants the layer's index too: made tells that
// both are there. It notes that the record is used.
func recordWithFiles(ctx context.Context, db *sqldb.DB, dgst digest.Digest) (r scan.Record, made bool, err error) {
	r, found, err := Record(ctx, db, dgst)
	if err != nil || !found {
		return r, false, err
	}
	old := false
	now := time.Now()
	err = db.Get(ctx, "SELECT files IS NOT NULL, used < $2 FROM scan_records WHERE layer = $1", []any{dgst.String(), now.Add(-notedFor).Unix()}, &made, &old)
	if err == nil && old {
		err = db.Update(ctx, func(tx *sql.Tx) error {
			_, err := tx.ExecContext(ctx, "UPDATE scan_records SET used = $2 WHERE layer = $1", dgst.String(), now.Unix())
			return err
		})
	}
	return r, made, err
}

// count counts the files of layers, by their indexes in the database. There are no
// counts where the index of one is not kept.
func (s *Scanner) count(ctx context.Context, layers []ocispec.Descriptor) (counts []LayerFiles, err error) {
	dir, err := os.MkdirTemp("", "strake-hub-layers-")
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	var files []layer.Files
	for i, l := range layers {
		f := layer.Files{DiffID: l.Digest, Index: filepath.Join(dir, strconv.Itoa(i))}
		if found, err := s.unpackIndex(ctx, l.Digest, f.Index); err != nil || !found {
			return nil, err
		}
		files = append(files, f)
	}
	chain, err := layer.OpenChain(files)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, chain.Close()) }()
	changes, err := layer.FindChanges(ctx, chain, layer.ChangesOptions{})
	for _, ch := range changes {
		counts = append(counts, LayerFiles{Bytes: ch.Size, Waste: ch.Waste, Added: ch.Added, Changed: ch.Changed, Deleted: ch.Deleted})
	}
	return counts, err
}

// unpackIndex writes the index of a layer to a file, if it is kept.
func (s *Scanner) unpackIndex(ctx context.Context, dgst digest.Digest, path string) (found bool, err error) {
	var kept []byte
	err = s.DB.Get(ctx, "SELECT files FROM scan_records WHERE layer = $1", []any{dgst.String()}, &kept)
	if errors.Is(err, sql.ErrNoRows) || err == nil && len(kept) == 0 {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	index, _, err := archive.Decompress(bytes.NewReader(kept))
	if err != nil {
		return false, err
	}
	defer func() { err = errors.Join(err, index.Close()) }()
	f, err := os.Create(path)
	if err != nil {
		return false, err
	}
	_, err = io.Copy(f, index)
	if err = errors.Join(err, f.Close()); err != nil {
		return false, fmt.Errorf("index of layer %s: %w", dgst, err)
	}
	return true, nil
}

// countable tells whether layers are tars that are here.
func countable(layers []ocispec.Descriptor) bool {
	for _, l := range layers {
		if len(l.URLs) > 0 || !strings.Contains(l.MediaType, "tar") {
			return false
		}
	}
	return true
}
