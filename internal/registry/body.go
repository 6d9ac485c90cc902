package registry

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"sync"
	"time"
)

// Bodies are copied in big steps; each has the time of Options.Stall.
const (
	bufferSize = 256 << 10 // of what comes in
	sendStep   = 4 << 20   // of what goes out
)

// A body of expectFrom bytes is asked about before it is read, one of unknown
// length after each of as many more.
const expectFrom = 16 << 20

var buffers sync.Pool // of *[]byte

// copyBody adds the request's body, whose client may not stall, to up. It stops where
// up will be refused.
func (c *call) copyBody(up Upload) error {
	length := c.r.ContentLength
	if length >= expectFrom {
		if err := expect(c, up, length); err != nil {
			return err
		}
	}
	buf, ok := buffers.Get().(*[]byte)
	if !ok {
		b := make([]byte, bufferSize)
		buf = &b
	}
	defer buffers.Put(buf)
	body := c.body(c.r.Body)
	for {
		n, err := io.CopyBuffer(struct{ io.Writer }{up}, io.LimitReader(body, expectFrom), *buf)
		switch {
		case body.err != nil:
			return Errorf(BlobUploadInvalid, "receive body: %w", err)
		case err != nil:
			return fmt.Errorf("store body: %w", err)
		case n < expectFrom:
			return nil
		}
		if length < 0 {
			if err := expect(c, up, 1); err != nil {
				return err
			}
		}
	}
}

// body reads a request's body from r.
func (c *call) body(r io.Reader) *bodyReader {
	return &bodyReader{r: r, conn: http.NewResponseController(c.w), stall: c.opts.Stall}
}

// bodyReader gives each Read the time to stall, and keeps a failure to read apart
// from one to write.
type bodyReader struct {
	r     io.Reader
	conn  *http.ResponseController
	stall time.Duration
	err   error
}

func (b *bodyReader) Read(p []byte) (int, error) {
	_ = b.conn.SetReadDeadline(time.Now().Add(b.stall)) // a recorder of a test has none
	n, err := b.r.Read(p)
	switch {
	case errors.Is(err, io.EOF):
		_ = b.conn.SetReadDeadline(time.Time{})
	case err != nil: // the deadline stays: nobody is to wait for the rest of the body
		b.err = err
	}
	_ = b.conn.SetWriteDeadline(time.Now().Add(b.stall)) // of the answer
	return n, err
}

// send copies length bytes of r to the client, who may not stall. A *os.File goes
// out by sendfile.
func (c *call) send(r io.Reader, length int64) error {
	conn := http.NewResponseController(c.w)
	for sent := int64(0); sent < length; {
		_ = conn.SetWriteDeadline(time.Now().Add(c.opts.Stall)) // a recorder of a test has none
		step := min(length-sent, sendStep)
		n, err := io.Copy(c.w, &io.LimitedReader{R: r, N: step})
		sent += n
		if err == nil && n != step {
			err = io.ErrUnexpectedEOF
		}
		if err != nil {
			return fmt.Errorf("%w: %d of %d bytes: %w", errBodySent, sent, length, err)
		}
	}
	return nil
}
