// Package azblob reads and writes blobs of Azure's blob storage: at addresses that somebody else
// signed (Client), or in a container of an account whose key is known (Container).
//
// A blob is written as blocks of bytes, which become the blob when their list is sent: it is there
// whole or not at all.
package azblob

import (
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

const (
	// BlockSize is the bytes of a block of an upload, which is held in memory.
	BlockSize = 8 << 20
	// Tries is how often a request is sent that fails for no reason of its own.
	Tries = 4

	version = "2020-10-02" // of the protocol
)

// Client sends requests, each again while it fails for no reason of its own. It is safe for concurrent use.
type Client struct {
	HTTP  *http.Client
	Pause time.Duration // before the second try; twice as long before each further one
}

// Do sends a request until it is answered by something else than that it be sent again; each try
// is a request of its own. No error has its address, which may be signed.
func (c *Client) Do(ctx context.Context, request func() (*http.Request, error)) (*http.Response, error) {
	for n := 1; ; n++ {
		req, err := request()
		if err != nil {
			return nil, err
		}
		res, err := c.HTTP.Do(req)
		var address *url.Error
		if errors.As(err, &address) {
			err = address.Err
		}
		again := err != nil || res.StatusCode >= 500 || res.StatusCode == http.StatusTooManyRequests
		if !again || n == Tries || ctx.Err() != nil {
			return res, err
		}
		if err == nil {
			err = res.Body.Close()
		}
		select {
		case <-time.After(c.Pause << (n - 1)):
		case <-ctx.Done():
			return nil, errors.Join(context.Cause(ctx), err)
		}
	}
}

// Get opens a blob at a signed address from offset on. It fails with errdefs.ErrNotFound.
func (c *Client) Get(ctx context.Context, address string, offset int64) (io.ReadCloser, error) {
	res, err := c.Do(ctx, func() (*http.Request, error) { return get(ctx, address, offset) })
	if err != nil {
		return nil, err
	}
	return opened(res, offset)
}

func get(ctx context.Context, address string, offset int64) (*http.Request, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, address, nil)
	if err == nil && offset > 0 {
		req.Header.Set("Range", fmt.Sprintf("bytes=%d-", offset))
	}
	return req, err
}

// opened is the body of the answer to get.
func opened(res *http.Response, offset int64) (io.ReadCloser, error) {
	if want := map[bool]int{false: http.StatusOK, true: http.StatusPartialContent}[offset > 0]; res.StatusCode != want {
		return nil, errors.Join(failure(res), res.Body.Close())
	}
	return res.Body, nil
}

// Put writes a blob at a signed address: the bytes of desc, or none. It fails with
// errdefs.ErrDataLoss where body has others.
func (c *Client) Put(ctx context.Context, address string, desc ocispec.Descriptor, body io.Reader) error {
	separator := "?"
	if strings.Contains(address, "?") {
		separator = "&"
	}
	return upload(desc, body, func(query url.Values, b []byte) error {
		res, err := c.Do(ctx, func() (*http.Request, error) {
			req, err := http.NewRequestWithContext(ctx, http.MethodPut, address+separator+query.Encode(), bytes.NewReader(b))
			if err == nil {
				req.Header.Set("X-Ms-Version", version)
			}
			return req, err
		})
		if err != nil {
			return err
		}
		return written(res)
	})
}

// upload sends blocks, and their list when all of desc is there.
func upload(desc ocispec.Descriptor, body io.Reader, send func(query url.Values, b []byte) error) error {
	var list strings.Builder // of blocks, in Azure's XML
	sum := desc.Digest.Verifier()
	var size int64
	for buf, blocks := make([]byte, min(BlockSize, desc.Size+1)), 0; ; blocks++ {
		n, err := io.ReadFull(body, buf)
		if err != nil && !errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) {
			return err
		}
		if size += int64(n); size > desc.Size {
			break
		}
		if n > 0 {
			_, _ = sum.Write(buf[:n]) // a hash
			id := blockID(blocks, buf[:n])
			if err := send(url.Values{"comp": {"block"}, "blockid": {id}}, buf[:n]); err != nil {
				return err
			}
			list.WriteString("<Latest>" + id + "</Latest>")
		}
		if err != nil {
			break
		}
	}
	if size != desc.Size || !sum.Verified() {
		return fmt.Errorf("%s has other bytes: %w", desc.Digest, errdefs.ErrDataLoss)
	}
	return send(url.Values{"comp": {"blocklist"}}, []byte("<BlockList>"+list.String()+"</BlockList>"))
}

// blockID names the block at an index by what it holds: others that write the same blob at the
// same time write the same blocks, and whoever writes something else writes other ones. It is as
// long as the names of Azure's libraries, for those of a blob must all be.
func blockID(index int, b []byte) string {
	sum := sha256.Sum256(b)
	return base64.StdEncoding.EncodeToString(fmt.Appendf(nil, "%08d%s", index, hex.EncodeToString(sum[:])[:56]))
}

// written ends a request that writes.
func written(res *http.Response) (err error) {
	if res.StatusCode != http.StatusCreated {
		err = failure(res)
	}
	return errors.Join(err, res.Body.Close())
}

// failure is the error that an answer tells of.
func failure(res *http.Response) error {
	text, err := cmp.Or(code(res), res.Status), error(errdefs.ErrUnavailable)
	switch {
	case res.StatusCode == http.StatusNotFound:
		err = errdefs.ErrNotFound
	case res.StatusCode == http.StatusUnauthorized || res.StatusCode == http.StatusForbidden:
		err = errdefs.ErrPermissionDenied
	case res.StatusCode == http.StatusBadRequest || res.StatusCode >= 300 && res.StatusCode < 400:
		err = errdefs.ErrInvalidArgument
	}
	return fmt.Errorf("%s: %w", text, err)
}

// code is Azure's word for what went wrong, or "".
func code(res *http.Response) string {
	text := res.Header.Get("X-Ms-Error-Code")
	letter := func(r rune) bool { return r|0x20 >= 'a' && r|0x20 <= 'z' }
	if len(text) > 100 || strings.TrimFunc(text, letter) != "" {
		return ""
	}
	return text
}
