package remote

import (
	"context"
	"errors"
	"io"
	"time"

	"github.com/opencontainers/go-digest"
)

// A big blob is read in pieces, each a bounded range, so that connections stay
// usable. The first one tells how fast a connection is: what is fast goes on as
// one stream, what is slow is fetched over several connections at once.
const (
	bigBlob     = 32 << 20
	firstPiece  = 4 << 20
	pieceSize   = 1 << 20  // what a kill loses is small
	pieceAhead  = 5        // pieces of one blob that are under way or wait to be read
	piecesHeld  = 20       // likewise, of all blobs of a client
	fastEnough  = 40 << 20 // bytes a second
	nanoseconds = float64(time.Second)
)

// pieceReader reads a big blob.
type pieceReader struct {
	open func(ctx context.Context, offset, end int64) *blobReader
	held chan struct{} // of the client: one for each piece
	more func()        // begins to fetch pieces, within the call that opened the blob

	stream  *blobReader // nil once pieces are fetched
	blocked time.Duration
	offset  int64
	first   int64 // where the first piece ends; 0 when it is over
	size    int64

	pieces chan *piece // in their order
	cur    *piece
	rest   []byte // of cur
	failed error
	cancel context.CancelFunc
}

// piece is a part of a blob in memory.
type piece struct {
	data []byte
	err  error
	done chan struct{} // closed when data or err is set
	free func()
}

// newPieceReader makes a reader of the bytes from offset on of a blob of size
// bytes, whose requests end with ctx.
func newPieceReader(ctx context.Context, r *Registry, repo string, dgst digest.Digest, offset, size int64) *pieceReader {
	p := &pieceReader{held: r.client.pieces, offset: offset, first: offset + firstPiece, size: size}
	p.open = func(ctx context.Context, offset, end int64) *blobReader {
		b := newBlobReader(ctx, r, repo, dgst, offset)
		b.end = end
		return b
	}
	p.stream = p.open(ctx, offset, p.first)
	p.more = func() {
		if rate := float64(firstPiece) / max(1, float64(p.blocked)) * nanoseconds; rate >= fastEnough {
			p.stream = p.open(ctx, p.offset, 0)
			return
		}
		p.stream, p.pieces = nil, make(chan *piece, pieceAhead-1)
		ctx, p.cancel = context.WithCancel(ctx)
		go p.fetch(ctx, p.offset)
	}
	return p
}

// fetch fetches the pieces from offset on.
func (p *pieceReader) fetch(ctx context.Context, offset int64) {
	defer close(p.pieces)
	for ; offset < p.size; offset += pieceSize {
		next := &piece{done: make(chan struct{}), free: func() { <-p.held }}
		select {
		case p.held <- struct{}{}:
		case <-ctx.Done():
			return
		}
		go next.fetch(p.open(ctx, offset, min(offset+pieceSize, p.size)))
		select {
		case p.pieces <- next:
		case <-ctx.Done():
			<-next.done
			next.free()
			return
		}
	}
}

func (p *piece) fetch(b *blobReader) {
	defer close(p.done)
	p.data = make([]byte, b.end-b.offset)
	_, err := io.ReadFull(b, p.data)
	p.err = errors.Join(err, b.Close())
}

func (p *pieceReader) Read(b []byte) (int, error) {
	for {
		if p.stream != nil {
			n, err := p.readStream(b)
			if n > 0 || err != nil {
				return n, err
			}
			continue
		}
		if len(p.rest) > 0 {
			n := copy(b, p.rest)
			p.rest = p.rest[n:]
			p.offset += int64(n)
			return n, nil
		}
		if err := p.next(); err != nil {
			return 0, err
		}
	}
}

// readStream reads the stream; 0 bytes and no error say that the first piece is
// over.
func (p *pieceReader) readStream(b []byte) (int, error) {
	begun := time.Now()
	n, err := p.stream.Read(b)
	p.blocked += time.Since(begun)
	p.offset += int64(n)
	if !errors.Is(err, io.EOF) || p.offset != p.first {
		return n, err
	}
	p.first = 0
	if err := p.stream.Close(); err != nil {
		return n, err
	}
	p.more()
	return n, nil
}

// next waits for the next piece.
func (p *pieceReader) next() error {
	if p.failed != nil {
		return p.failed
	}
	if p.cur != nil {
		p.cur.free()
		p.cur = nil
	}
	next, ok := <-p.pieces
	if !ok && p.offset == p.size {
		return io.EOF
	}
	if !ok {
		return io.ErrUnexpectedEOF // the context ended
	}
	p.cur = next
	<-next.done
	if p.failed = next.err; p.failed == nil {
		p.rest = next.data
	}
	return p.failed
}

// Close ends all requests.
func (p *pieceReader) Close() error {
	if p.stream != nil {
		return p.stream.Close()
	}
	p.cancel()
	if p.cur != nil {
		p.cur.free()
		p.cur = nil
	}
	for next := range p.pieces {
		<-next.done
		next.free()
	}
	return nil
}
