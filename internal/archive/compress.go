package archive

import (
	"bufio"
	"bytes"
	"compress/bzip2"
	"errors"
	"fmt"
	"io"
	"runtime"
	"sync"

	"github.com/containerd/errdefs"
	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
	"github.com/klauspost/pgzip"
	"github.com/ulikunitz/xz"
)

// Compression is a way to make a stream smaller.
type Compression string

// The compressions that Decompress knows; Compress writes the first three.
const (
	None  Compression = "none"
	Gzip  Compression = "gzip"
	Zstd  Compression = "zstd"
	Bzip2 Compression = "bzip2"
	XZ    Compression = "xz"
)

const (
	maxWindow  = 128 << 20 // bytes of memory that a stream may ask for
	maxRatio   = 500       // of a stream of more than freeBytes
	freeBytes  = 64 << 30
	chunkBytes = 256 << 10 // of decompressed data passed on at once
	chunksHeld = 4         // of them, at most, ahead of the reader
)

const gzipLevel = 4 // where none is given

// Detect tells a stream's compression by its first bytes, of which it needs 6.
func Detect(head []byte) Compression {
	switch {
	case bytes.HasPrefix(head, []byte{0x1f, 0x8b, 0x08}):
		return Gzip
	case len(head) >= 4 && bytes.Equal(head[1:4], []byte{0xb5, 0x2f, 0xfd}) && head[0] == 0x28,
		len(head) >= 4 && head[0]&0xf0 == 0x50 && bytes.Equal(head[1:4], []byte{0x2a, 0x4d, 0x18}):
		return Zstd
	case bytes.HasPrefix(head, []byte("BZh")):
		return Bzip2
	case bytes.HasPrefix(head, []byte{0xfd, '7', 'z', 'X', 'Z', 0}):
		return XZ
	}
	return None
}

// Decompress finds out how r is compressed and reads what is in it. The work is
// done ahead of the reader, in a goroutine that ends with Close. A stream that is
// cut short, broken or followed by other bytes than zeros is an error of the kind
// DataLoss, once the reader gets there; one that grows without measure, an error
// of the kind ResourceExhausted; several gzip members are one stream. Close waits for a Read of r that is under way, and for nothing else.
func Decompress(r io.Reader) (io.ReadCloser, Compression, error) {
	return decompressWithin(r, freeBytes)
}

func decompressWithin(r io.Reader, free int64) (io.ReadCloser, Compression, error) {
	source := &countingReader{r: r}
	br := bufio.NewReaderSize(source, readAhead)
	head, err := br.Peek(6)
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, None, fmt.Errorf("read compressed stream: %w", err)
	}
	c := Detect(head)
	if c == None {
		return io.NopCloser(br), None, nil
	}
	a := &aheadReader{
		full: make(chan []byte, chunksHeld), empty: make(chan []byte, chunksHeld),
		quit: make(chan struct{}), ended: make(chan struct{}), source: source, free: free,
	}
	for range chunksHeld {
		a.empty <- nil
	}
	go a.run(func() (io.Reader, func(), error) { return open(br, c) }, c)
	return a, c, nil
}

// open begins to decompress br.
func open(br *bufio.Reader, c Compression) (io.Reader, func(), error) {
	switch c {
	case Gzip:
		return &gzipReader{br: br}, func() {}, nil
	case Zstd:
		d, err := zstd.NewReader(br, zstd.WithDecoderMaxWindow(maxWindow), zstd.WithDecoderConcurrency(2), zstd.WithDecoderLowmem(true))
		if err != nil {
			return nil, nil, err
		}
		return d, d.Close, nil
	case Bzip2:
		return bzip2.NewReader(br), func() {}, nil
	}
	x := &xzReader{br: br}
	d, err := xz.ReaderConfig{DictCap: 1 << 16}.NewReader(x)
	x.r = d
	return readerFunc(x.decode), func() {}, err
}

type readerFunc func(p []byte) (int, error)

func (f readerFunc) Read(p []byte) (int, error) { return f(p) }

// xzReader watches what the xz package reads, which takes a stream that is cut
// short between two blocks for a whole one: a whole one ends with "YZ" and zeros.
type xzReader struct {
	br   *bufio.Reader
	r    io.Reader
	last [2]byte // but zeros
}

func (x *xzReader) ReadByte() (byte, error) {
	b, err := x.br.ReadByte()
	if err == nil && b != 0 {
		x.last = [2]byte{x.last[1], b}
	}
	return b, err
}

func (x *xzReader) Read(p []byte) (int, error) {
	n, err := x.br.Read(p)
	for _, b := range bytes.TrimRight(p[:n], "\x00") {
		x.last = [2]byte{x.last[1], b}
	}
	return n, err
}

func (x *xzReader) decode(p []byte) (int, error) {
	n, err := x.r.Read(p)
	if errors.Is(err, io.EOF) && x.last != [2]byte{'Y', 'Z'} {
		err = io.ErrUnexpectedEOF
	}
	return n, err
}

// gzipReader reads gzip members until the stream ends. As gzip(1), it takes
// zeros after a member for padding and anything else but a member for damage.
type gzipReader struct {
	br *bufio.Reader
	gz *gzip.Reader
}

func (g *gzipReader) Read(p []byte) (int, error) {
	for {
		if g.gz == nil {
			if err := g.begin(); err != nil {
				return 0, err
			}
		}
		n, err := g.gz.Read(p)
		if n > 0 && errors.Is(err, io.EOF) {
			return n, nil // it says so again
		}
		if n > 0 || !errors.Is(err, io.EOF) {
			return n, err
		}
		if err := g.between(); err != nil {
			return 0, err
		}
	}
}

func (g *gzipReader) begin() (err error) {
	if g.gz, err = gzip.NewReader(g.br); err == nil {
		g.gz.Multistream(false)
	}
	return noEOF(err)
}

// between goes from one member to the next, or fails with io.EOF at the end.
func (g *gzipReader) between() error {
	for zeros := 0; ; zeros++ {
		b, err := g.br.ReadByte()
		if err != nil {
			return err
		}
		if b == 0 {
			continue
		}
		if err := g.br.UnreadByte(); err != nil {
			return err
		}
		if head, _ := g.br.Peek(3); zeros > 0 || Detect(head) != Gzip {
			return fmt.Errorf("trailing garbage after gzip stream: %w", errdefs.ErrDataLoss)
		}
		if err := g.gz.Reset(g.br); err != nil {
			return noEOF(err)
		}
		g.gz.Multistream(false)
		return nil
	}
}

func noEOF(err error) error {
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}

// countingReader counts what is read.
type countingReader struct {
	r io.Reader
	n int64
}

func (c *countingReader) Read(p []byte) (int, error) {
	n, err := c.r.Read(p)
	c.n += int64(n)
	return n, err
}

// aheadReader reads what a goroutine has decompressed.
type aheadReader struct {
	full  chan []byte
	empty chan []byte
	quit  chan struct{}
	ended chan struct{} // closed when the goroutine is over
	once  sync.Once
	err   error // set before full is closed

	source *countingReader
	free   int64 // bytes that may be decompressed from however few

	chunk []byte
	rest  []byte
}

func (a *aheadReader) run(open func() (io.Reader, func(), error), c Compression) {
	defer close(a.ended)
	defer close(a.full)
	r, end, err := open()
	if err != nil {
		a.err = brokenStream(c, noEOF(err))
		return
	}
	defer end()
	for total := int64(0); ; {
		var buf []byte
		select {
		case buf = <-a.empty:
		case <-a.quit:
			return
		}
		if buf == nil {
			buf = make([]byte, chunkBytes)
		}
		n, err := fill(r, buf[:chunkBytes])
		if total += int64(n); total > a.free && total/maxRatio > a.source.n {
			a.err = fmt.Errorf("%s stream: %d bytes from %d: %w", c, total, a.source.n, errdefs.ErrResourceExhausted)
			return
		}
		if n > 0 {
			select {
			case a.full <- buf[:n]:
			case <-a.quit:
				return
			}
		}
		if err != nil {
			if a.err = err; !errors.Is(err, io.EOF) {
				a.err = brokenStream(c, err)
			}
			return
		}
	}
}

// fill reads until p is full or r fails. Unlike io.ReadFull it keeps the end of
// r and a stream that is cut short apart.
func fill(r io.Reader, p []byte) (n int, err error) {
	for n < len(p) && err == nil {
		var m int
		m, err = r.Read(p[n:])
		n += m
	}
	return n, err
}

func brokenStream(c Compression, err error) error {
	return fmt.Errorf("decompress %s: %w: %w", c, err, errdefs.ErrDataLoss)
}

func (a *aheadReader) Read(p []byte) (int, error) {
	if len(a.rest) == 0 {
		if a.chunk != nil {
			a.empty <- a.chunk
			a.chunk = nil
		}
		chunk, ok := <-a.full
		if !ok {
			if a.err == nil {
				return 0, io.ErrClosedPipe
			}
			return 0, a.err
		}
		a.chunk, a.rest = chunk, chunk
	}
	n := copy(p, a.rest)
	a.rest = a.rest[n:]
	return n, nil
}

// Close ends the goroutine. It is safe to call more than once.
func (a *aheadReader) Close() error {
	a.once.Do(func() { close(a.quit) })
	<-a.ended
	return nil
}

// Compress compresses what is written until Close, which does not close w. The
// bytes depend on what is written, the compression and the level alone, not on
// the machine. Level 0 is the default: gzip's 4 (which takes a quarter less time
// than 6, for 1 to 3 % more bytes), zstd's 3.
func Compress(w io.Writer, c Compression, level int) (io.WriteCloser, error) {
	switch c {
	case None:
		return nopWriteCloser{w}, nil
	case Gzip:
		if level == 0 {
			level = gzipLevel
		}
		z, err := pgzip.NewWriterLevel(w, level)
		if err == nil {
			err = z.SetConcurrency(1<<20, runtime.GOMAXPROCS(0))
		}
		if err != nil {
			return nil, fmt.Errorf("compress with gzip: %w", err)
		}
		return z, nil
	case Zstd:
		if level == 0 {
			level = 3
		}
		z, err := zstd.NewWriter(w, zstd.WithEncoderLevel(zstd.EncoderLevelFromZstd(level)))
		if err != nil {
			return nil, fmt.Errorf("compress with zstd: %w", err)
		}
		return z, nil
	}
	return nil, fmt.Errorf("compress with %q: %w", c, errdefs.ErrNotImplemented)
}

type nopWriteCloser struct{ io.Writer }

func (nopWriteCloser) Close() error { return nil }
