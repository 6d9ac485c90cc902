//go:build linux

package main

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"slices"
	"sync"
	"time"
)

// A loadCase is what a client repeats.
type loadCase struct {
	name, title string
	do          func(c *client) error
}

var cases = []loadCase{
	{"manifest", "GET of a manifest by tag, one of 100", (*client).manifest},
	{"blob", "GET of a blob of 64 KiB, one of 100", (*client).blob},
	{"put", "POST and PUT of a new blob of 16 KiB, durable", (*client).put},
	{"tags", "GET of the list of all tags", (*client).tags},
	{"mixed", "70 % reads (manifests and blobs alike), 30 % blobs put", func(c *client) error {
		switch n := c.random.IntN(100); {
		case n < 35:
			return c.manifest()
		case n < 70:
			return c.blob()
		}
		return c.put()
	}},
}

// A client has one connection. It writes requests by hand, so that it takes little of the processor from the server.
type client struct {
	s      *server
	conn   net.Conn
	in     *bufio.Reader
	out    []byte
	random *rand.Rand
	body   []byte
}

func (s *server) client(ctx context.Context, seed uint64) (*client, error) {
	conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", s.addr)
	if err != nil {
		return nil, err
	}
	return &client{s: s, conn: conn, in: bufio.NewReaderSize(conn, 64<<10), random: rand.New(rand.NewPCG(seed, uint64(time.Now().UnixNano()))), body: make([]byte, putSize)}, nil // #nosec G404 -- no secret
}

// send sends a request and reads the answer, which has the status and, unless size is negative, the size.
func (c *client) send(method, path string, body []byte, status, size int) (location string, err error) {
	return c.sendTyped(method, path, "application/octet-stream", body, status, size)
}

// sendTyped is send with the media type of the body.
func (c *client) sendTyped(method, path, mediaType string, body []byte, status, size int) (location string, err error) {
	c.out = fmt.Appendf(c.out[:0], "%s %s HTTP/1.1\r\nHost: %s\r\nAccept: %s\r\nContent-Type: %s\r\nContent-Length: %d\r\n\r\n", method, path, c.s.addr, manifestType, mediaType, len(body))
	c.out = append(c.out, body...)
	if _, err := c.conn.Write(c.out); err != nil {
		return "", err
	}
	resp, err := http.ReadResponse(c.in, nil)
	if err != nil {
		return "", err
	}
	n, err := io.Copy(io.Discard, resp.Body)
	if err := errors.Join(err, resp.Body.Close()); err != nil {
		return "", err
	}
	if resp.StatusCode != status || size >= 0 && n != int64(size) {
		return "", fmt.Errorf("%s %s: %s, %d bytes", method, path, resp.Status, n)
	}
	return resp.Header.Get("Location"), nil
}

func (c *client) manifest() error {
	_, err := c.send("GET", c.s.content.manifests[c.random.IntN(images)], nil, 200, -1)
	return err
}

func (c *client) blob() error {
	_, err := c.send("GET", c.s.content.blobs[c.random.IntN(images)], nil, 200, blobSize)
	return err
}

func (c *client) tags() error {
	_, err := c.send("GET", "/v2/team/tags/tags/list", nil, 200, -1)
	return err
}

func (c *client) put() error {
	at, err := c.send("POST", "/v2/team/app/blobs/uploads/", nil, 202, 0)
	if err != nil {
		return err
	}
	for i := 0; i < len(c.body); i += 8 {
		binary.LittleEndian.PutUint64(c.body[i:], c.random.Uint64())
	}
	_, err = c.send("PUT", withDigest(path(at), digestOf(c.body)), c.body, 201, 0)
	return err
}

// path is a location without its host.
func path(location string) string {
	if i := slices.Index([]byte(location), '?'); i < 0 && len(location) > 0 && location[0] == '/' {
		return location
	}
	r, err := http.NewRequest("GET", location, nil) //nolint:noctx // only parsed
	if err != nil {
		return location
	}
	return r.URL.RequestURI()
}

// lasting is for so long.
func lasting(last time.Duration) func(time.Duration) bool {
	return func(ran time.Duration) bool { return ran < last }
}

// load lets so many clients repeat a case, while more says so of how long they did.
func load(ctx context.Context, s *server, c loadCase, clients int, more func(ran time.Duration) bool) (f figures, err error) {
	all := make([]*client, clients)
	for i := range all {
		if all[i], err = s.client(ctx, uint64(i)); err != nil {
			return f, err
		}
		defer all[i].conn.Close()            //nolint:errcheck // only this run's
		if err := c.do(all[i]); err != nil { // warm
			return f, err
		}
	}
	if err := s.resetPeak(); err != nil {
		return f, err
	}
	before, err := s.cpu()
	if err != nil {
		return f, err
	}
	took, errs := make([][]time.Duration, clients), make([]error, clients)
	start := time.Now()
	var wg sync.WaitGroup
	for i, cl := range all {
		wg.Go(func() {
			for at := start; errs[i] == nil && more(at.Sub(start)); {
				errs[i] = c.do(cl)
				now := time.Now()
				took[i] = append(took[i], now.Sub(at))
				at = now
			}
		})
	}
	wg.Wait()
	wall := time.Since(start)
	after, err := s.cpu()
	if err := errors.Join(append(errs, err)...); err != nil {
		return f, err
	}
	f.rss, err = s.peak()
	times := slices.Concat(took...)
	slices.Sort(times)
	n := len(times)
	f.rate = float64(n) / wall.Seconds()
	f.p50, f.p99 = times[n/2], times[min(n*99/100, n-1)]
	f.cpu = (after - before) / time.Duration(n)
	return f, err
}
