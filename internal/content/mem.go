package content

import (
	"bytes"
	"context"
	"crypto/sha256"
	"fmt"
	"hash"
	"io/fs"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
)

// Mem is a Store in memory. The zero value is an empty store.
type Mem struct {
	mu      sync.Mutex
	blobs   map[digest.Digest]memBlob
	ingests map[string]*memIngest
}

type memBlob struct {
	data    []byte // never changed
	modTime time.Time
}

type memIngest struct {
	data    []byte
	modTime time.Time
	held    bool
}

// memReader is a ReaderAt of a blob.
type memReader struct{ *bytes.Reader }

func (memReader) Close() error { return nil }

// blob returns a blob. The caller holds no lock.
func (m *Mem) blob(dgst digest.Digest) (memBlob, error) {
	if _, err := newHash(dgst); err != nil {
		return memBlob{}, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	b, ok := m.blobs[dgst]
	if !ok {
		return memBlob{}, fmt.Errorf("blob %s: %w", dgst, errdefs.ErrNotFound)
	}
	return b, nil
}

// Stat implements Provider.
func (m *Mem) Stat(_ context.Context, dgst digest.Digest) (Info, error) {
	b, err := m.blob(dgst)
	if err != nil {
		return Info{}, err
	}
	return Info{Digest: dgst, Size: int64(len(b.data)), ModTime: b.modTime}, nil
}

// Open implements Provider.
func (m *Mem) Open(_ context.Context, dgst digest.Digest) (ReaderAt, error) {
	b, err := m.blob(dgst)
	if err != nil {
		return nil, err
	}
	return memReader{bytes.NewReader(b.data)}, nil
}

// Walk implements Manager.
func (m *Mem) Walk(ctx context.Context, fn func(Info) error) error {
	m.mu.Lock()
	all := maps.Clone(m.blobs)
	m.mu.Unlock()
	for dgst, b := range all {
		if err := ctx.Err(); err != nil {
			return err
		}
		if err := fn(Info{Digest: dgst, Size: int64(len(b.data)), ModTime: b.modTime}); err != nil {
			return err
		}
	}
	return nil
}

// Delete implements Manager.
func (m *Mem) Delete(_ context.Context, dgst digest.Digest) error {
	if _, err := m.blob(dgst); err != nil {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.blobs, dgst)
	return nil
}

// Ingests implements Manager.
func (m *Mem) Ingests(context.Context) ([]IngestInfo, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	var infos []IngestInfo
	for _, ref := range slices.Sorted(maps.Keys(m.ingests)) {
		in := m.ingests[ref]
		infos = append(infos, IngestInfo{Ref: ref, Offset: int64(len(in.data)), ModTime: in.modTime, Held: in.held})
	}
	return infos, nil
}

// Abort implements Manager.
func (m *Mem) Abort(_ context.Context, ref string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	in, ok := m.ingests[ref]
	switch {
	case !ok:
		return fmt.Errorf("abort ingest %q: %w", ref, errdefs.ErrNotFound)
	case in.held:
		return fmt.Errorf("abort ingest %q: held by a writer: %w", ref, errdefs.ErrUnavailable)
	}
	delete(m.ingests, ref)
	return nil
}

// Writer implements Ingester.
func (m *Mem) Writer(_ context.Context, ref string, opts WriterOptions) (Writer, error) {
	if err := CheckRef(ref); err != nil {
		return nil, err
	}
	if opts.Expected != "" {
		_, err := m.blob(opts.Expected)
		if err == nil {
			return nil, fmt.Errorf("blob %s: %w", opts.Expected, errdefs.ErrAlreadyExists)
		}
		if !errdefs.IsNotFound(err) {
			return nil, err
		}
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	in := m.ingests[ref]
	if in == nil {
		in = &memIngest{}
		if m.ingests == nil {
			m.ingests = make(map[string]*memIngest)
		}
		m.ingests[ref] = in
	}
	if in.held {
		return nil, fmt.Errorf("ingest %q: held by another writer: %w", ref, errdefs.ErrUnavailable)
	}
	in.held, in.modTime = true, time.Now()
	w := &memWriter{mem: m, ref: ref, ingest: in, size: opts.Size, hash: sha256.New()}
	w.hash.Write(in.data)
	return w, nil
}

// memWriter is the Writer of a Mem.
type memWriter struct {
	mem    *Mem
	ref    string
	ingest *memIngest // its data is guarded by mem.mu; nil: closed
	hash   hash.Hash
	size   int64
}

func (w *memWriter) Offset() int64 {
	if w.ingest == nil {
		return 0
	}
	return int64(len(w.ingest.data))
}

func (w *memWriter) Digest() digest.Digest { return sum(digest.SHA256, w.hash) }

func (w *memWriter) Write(p []byte) (int, error) {
	if w.ingest == nil {
		return 0, fmt.Errorf("write ingest %q: %w", w.ref, fs.ErrClosed)
	}
	if err := CheckRoom(w.ref, w.Offset(), int64(len(p)), w.size); err != nil {
		return 0, err
	}
	w.mem.mu.Lock()
	defer w.mem.mu.Unlock()
	w.ingest.data = append(w.ingest.data, p...)
	w.ingest.modTime = time.Now()
	return w.hash.Write(p)
}

func (w *memWriter) ReadAt(p []byte, offset int64) (int, error) {
	if w.ingest == nil {
		return 0, fmt.Errorf("read ingest %q: %w", w.ref, fs.ErrClosed)
	}
	w.mem.mu.Lock()
	defer w.mem.mu.Unlock()
	return bytes.NewReader(w.ingest.data).ReadAt(p, offset)
}

func (w *memWriter) Truncate(offset int64) error {
	if w.ingest == nil {
		return fmt.Errorf("truncate ingest %q: %w", w.ref, fs.ErrClosed)
	}
	if offset < 0 || offset > w.Offset() {
		return fmt.Errorf("truncate ingest %q of %d bytes to %d: %w", w.ref, w.Offset(), offset, errdefs.ErrOutOfRange)
	}
	w.mem.mu.Lock()
	defer w.mem.mu.Unlock()
	w.ingest.data = w.ingest.data[:offset]
	w.hash.Reset()
	w.hash.Write(w.ingest.data)
	return nil
}

func (w *memWriter) Commit(ctx context.Context, size int64, expected digest.Digest) error {
	if w.ingest == nil {
		return fmt.Errorf("commit ingest %q: %w", w.ref, fs.ErrClosed)
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	data := w.ingest.data
	dgst, err := Verify(w.ref, w.Offset(), size, w.Digest(), expected, bytes.NewReader(data))
	if err != nil && !errdefs.IsFailedPrecondition(err) {
		return err
	}
	w.mem.mu.Lock()
	defer w.mem.mu.Unlock()
	delete(w.mem.ingests, w.ref)
	w.ingest = nil
	if err != nil {
		return err
	}
	if w.mem.blobs == nil {
		w.mem.blobs = make(map[digest.Digest]memBlob)
	}
	if _, ok := w.mem.blobs[dgst]; !ok {
		w.mem.blobs[dgst] = memBlob{data: data, modTime: time.Now()}
	}
	return nil
}

func (w *memWriter) Close() error {
	if w.ingest == nil {
		return nil
	}
	w.mem.mu.Lock()
	defer w.mem.mu.Unlock()
	w.ingest.held = false
	w.ingest = nil
	return nil
}
