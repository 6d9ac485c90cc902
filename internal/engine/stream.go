package engine

import (
	"context"
	"fmt"
	"sync"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"strake/internal/remote"
	"strake/internal/store"
)

// streams are the uploads of layers that go out while they are compressed, and
// the Progress of the push that they belong to.
type streams struct {
	repo *remote.Repository
	next func(Event)

	wg   sync.WaitGroup
	mu   sync.Mutex // guards sent and serialises next
	sent map[digest.Digest]bool
}

// smallLayer is the size up to which a layer is uploaded whole: a stream costs a
// request more.
const smallLayer = 1 << 20

// open is the Tee of CompressOptions for a layer that is compressed so.
func (s *streams) open(ctx context.Context, layer ocispec.Descriptor, compression string) store.Tee {
	if layer.Size <= smallLayer {
		return nil
	}
	s.wg.Add(1)
	return &stream{s: s, out: s.repo.Stream(ctx, fmt.Sprintf("%s (%s) of %s", layer.MediaType, compression, layer.Digest))}
}

// wait waits until all streams have ended.
func (s *streams) wait() { s.wg.Wait() }

// record is Progress for the copy that follows: what the streams have sent was
// not there before.
func (s *streams) record(e Event) {
	if s.next == nil {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if e.State == StateExists && s.sent[e.Desc.Digest] {
		e.State = StateDone
	}
	s.next(e)
}

// stream is one of them.
type stream struct {
	s   *streams
	out *remote.BlobStream
}

func (t *stream) Write(p []byte) (int, error) { return t.out.Write(p) }

// Done implements store.Tee. The upload ends beside the caller's own commit.
func (t *stream) Done(desc ocispec.Descriptor, err error) {
	go func() {
		defer t.s.wg.Done()
		if err != nil {
			t.out.Cancel()
			return
		}
		if t.out.Finish(desc) != nil {
			return // the copy pushes it, and says what is wrong
		}
		t.s.mu.Lock()
		defer t.s.mu.Unlock()
		if t.s.sent == nil {
			t.s.sent = map[digest.Digest]bool{}
		}
		t.s.sent[desc.Digest] = true
	}()
}
