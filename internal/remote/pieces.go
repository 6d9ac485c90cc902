package remote

import (
	"context"
	"errors"
	"io"
	"sync/atomic"
	"time"

	"github.com/opencontainers/go-digest"
)

// A big blob is read in pieces, each a bounded range, so that connections stay
// usable. The first one tells how fast a connection is: what is fast goes on as
// one stream. What is slow goes on as one too, while a second connection fetches
// a piece further on: only where both together are faster than the one was, the
// rest is fetched over several connections; elsewhere they would share what one
// gets alone.
const (
	bigBlob    = 32 << 20
	firstPiece = 4 << 20  // and as much is read on each connection in the trial
	pieceSize  = 1 << 20  // what a kill loses is small
	pieceAhead = 6        // pieces of one blob that are under way or wait to be read
	piecesHeld = 20       // likewise, of all blobs of a client
	fastEnough = 40 << 20 // bytes a second
	worthwhile = 1.4      // times as fast with a second connection
)

// pieceReader reads a big blob.
type pieceReader struct {
	open   func(offset, end int64) *blobReader // its requests end with cancel
	piece  func(offset, end int64) *blobReader // its requests end with ended, and take nothing but the range
	ended  <-chan struct{}                     // by stop, or by cancel
	stop   context.CancelFunc                  // of the pieces
	cancel context.CancelFunc
	held   chan struct{} // of the client: one for each piece

	stream *blobReader // nil while pieces are read
	until  int64       // where the stream ends; size for the last
	offset int64
	size   int64
	alone  meter         // of the second half of the first piece: in the first a connection finds its speed
	half   time.Time     // when that began
	waited time.Duration // in it, for the network
	read   atomic.Int64  // bytes of the second, for the trial

	pieces chan *piece // in their order; nil in the first stream, and in the last
	cur    *piece
	rest   []byte // of cur
	failed error
}

// piece is a part of a blob in memory.
type piece struct {
	data []byte
	err  error
	done chan struct{} // closed when data or err is set
	free func()
}

// meter measures a transfer.
type meter struct {
	bytes int64
	took  time.Duration
}

// perSecond is the measured rate; of what took no time it is without bound.
func (m meter) perSecond() float64 { return float64(m.bytes) / m.took.Seconds() }

// newPieceReader makes a reader of the bytes from offset on of a blob of size
// bytes, whose requests end with ctx.
func newPieceReader(ctx context.Context, r *Registry, repo string, dgst digest.Digest, offset, size int64) *pieceReader {
	ctx, cancel := context.WithCancel(ctx)
	pieces, stop := context.WithCancel(ctx)
	p := &pieceReader{held: r.client.pieces, ended: pieces.Done(), stop: stop, cancel: cancel, offset: offset, until: offset + firstPiece, size: size}
	blob := &version{size: size}
	p.open = func(offset, end int64) *blobReader {
		b := newBlobReader(ctx, r, repo, dgst, offset, blob)
		b.end = end
		return b
	}
	p.piece = func(offset, end int64) *blobReader {
		b := newBlobReader(pieces, r, repo, dgst, offset, blob)
		b.end, b.ranged = end, true
		return b
	}
	p.stream = p.open(offset, p.until)
	return p
}

// goOn begins what follows the first piece.
func (p *pieceReader) goOn() {
	p.alone.took = time.Since(p.half)
	network := meter{p.alone.bytes, p.waited} // without what the reader does between
	if network.perSecond() >= fastEnough || p.size-p.offset < bigBlob/2 {
		p.streamRest()
		return
	}
	p.until = p.offset + firstPiece
	p.stream = p.open(p.offset, p.until)
	p.pieces = make(chan *piece, pieceAhead-1)
	go p.fetch(p.until)
}

// streamRest reads on in one stream.
func (p *pieceReader) streamRest() {
	p.stream, p.pieces, p.until = p.open(p.offset, 0), nil, p.size
}

// fetch fetches the piece at offset for a trial, and those that follow it if
// that was worthwhile.
func (p *pieceReader) fetch(offset int64) {
	defer close(p.pieces)
	trial, ok := p.begin()
	if !ok || !p.isWorthwhile(trial, offset) {
		return
	}
	for offset += firstPiece; offset < p.size; offset += pieceSize {
		next, ok := p.begin()
		if !ok {
			return
		}
		go next.fetch(p.piece(offset, min(offset+pieceSize, p.size)))
	}
}

// begin hands the reader the next piece, which is to be fetched; false: no more
// of them are wanted.
func (p *pieceReader) begin() (*piece, bool) {
	next := &piece{done: make(chan struct{}), free: func() { <-p.held }}
	select {
	case p.held <- struct{}{}:
	case <-p.ended:
		return nil, false
	}
	select {
	case p.pieces <- next:
		return next, true
	case <-p.ended:
		next.free()
		return nil, false
	}
}

func (p *piece) fetch(b *blobReader) {
	defer close(p.done)
	p.data = make([]byte, b.end-b.offset)
	_, err := io.ReadFull(b, p.data)
	p.err = errors.Join(err, b.Close())
}

// isWorthwhile fetches the piece at offset and reports whether the blob came
// faster meanwhile than over one connection.
func (p *pieceReader) isWorthwhile(trial *piece, offset int64) bool {
	defer close(trial.done)
	trial.data = make([]byte, firstPiece)
	b := p.piece(offset, offset+firstPiece)
	begun, before := time.Now(), p.read.Load()
	_, err := io.ReadFull(b, trial.data)
	both := meter{bytes: firstPiece + p.read.Load() - before, took: time.Since(begun)}
	trial.err = errors.Join(err, b.Close())
	return trial.err == nil && both.perSecond() >= worthwhile*p.alone.perSecond()
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

// readStream reads the stream; 0 bytes and no error say that it ended before the
// blob.
func (p *pieceReader) readStream(b []byte) (int, error) {
	begun := time.Now()
	n, err := p.stream.Read(b)
	p.offset += int64(n)
	if p.pieces == nil && p.until-p.offset < firstPiece/2 {
		if p.half.IsZero() {
			p.half = begun
		}
		p.alone.bytes += int64(n)
		p.waited += time.Since(begun)
	}
	if p.pieces != nil {
		p.read.Add(int64(n))
	}
	if !errors.Is(err, io.EOF) || p.offset != p.until || p.until == p.size {
		return n, err
	}
	if err := p.stream.Close(); err != nil {
		return n, err
	}
	p.stream = nil
	if p.pieces == nil {
		p.goOn()
	}
	return n, nil
}

// next waits for the next piece. Where the registry gives no pieces, the rest is
// read in one stream, which takes whatever it answers with.
func (p *pieceReader) next() error {
	if p.failed != nil {
		return p.failed
	}
	if p.cur != nil {
		p.cur.free()
		p.cur = nil
	}
	next, ok := <-p.pieces
	if !ok {
		return p.pastPieces()
	}
	p.cur = next
	<-next.done
	if errors.Is(next.err, errRange) {
		p.drop()
		p.streamRest()
		return nil
	}
	if p.failed = next.err; p.failed == nil {
		p.rest = next.data
	}
	return p.failed
}

// pastPieces goes on after the last piece.
func (p *pieceReader) pastPieces() error {
	if p.offset == p.size {
		return io.EOF
	}
	select {
	case <-p.ended:
		return io.ErrUnexpectedEOF
	default:
		p.streamRest()
		return nil
	}
}

// drop gives up the pieces that are not read.
func (p *pieceReader) drop() {
	p.stop()
	if p.cur != nil {
		p.cur.free()
		p.cur = nil
	}
	if p.pieces == nil {
		return
	}
	for next := range p.pieces {
		<-next.done
		next.free()
	}
}

// Close ends all requests.
func (p *pieceReader) Close() error {
	var err error
	if p.stream != nil {
		err = p.stream.Close()
	}
	p.cancel()
	p.drop()
	return err
}
