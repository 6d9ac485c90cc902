package build

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"

	"strake/internal/address"
	"strake/internal/progress"
)

// maxDownload bounds one ADD of a URL, in bytes.
const maxDownload = 64 << 30

// URL is a file that ADD downloads. It gets mode 0600.
type URL struct {
	Address  string
	Name     string        // the file's name
	Checksum digest.Digest // "" if any content will do
}

// Fetched is what a step takes from elsewhere: a file, or a commit.
type Fetched struct {
	URI    string        // without user and password
	Digest digest.Digest // of a file
	Commit string        // of a repository
	Ref    *GitRef       // of a repository
}

func (w *Work) fetched(f Fetched) {
	if told := w.solver.opts.Fetched; told != nil {
		told(f)
	}
}

// fetched is what the cache keeps of a download, to ask the server whether it
// changed.
type fetched struct {
	ETag     string    `json:"etag"`
	Modified time.Time `json:"modified"`
	Sum      []byte    `json:"sum"`
	Size     int64     `json:"size"`
}

// download makes the tree of one downloaded file. The content is fetched when
// it is read, or now if its sum is not known otherwise: from the checksum, or
// from the server, which says that it did not change.
func (w *Work) download(ctx context.Context, u URL) (memTree, error) {
	d, err := u.admit(ctx, w)
	if err != nil {
		return memTree{}, err
	}
	t := memTree{node: node{path: lexical(d.url.Name), mode: 0o600}}
	t.opener = func() (io.ReadCloser, error) { return d.open(ctx) }
	if err := d.learn(ctx); err != nil {
		return memTree{}, fmt.Errorf("failed to load cache key: %w", err)
	}
	t.mtime, t.size = d.known.Modified, d.known.Size
	copy(t.sum[:], d.known.Sum)
	w.fetched(Fetched{URI: Redact(d.url.Address), Digest: digest.NewDigestFromBytes(digest.SHA256, d.known.Sum)})
	return t, nil
}

type download struct {
	solver *Solver
	url    URL
	log    io.Writer
	known  fetched
	learnt bool   // that known is so
	dir    string // where the file is, once fetched
}

func (d *download) cacheKey() string {
	sum := sha256.Sum256([]byte(d.url.Address))
	return "url:" + hex.EncodeToString(sum[:])
}

// learn finds the sum and size of the content, once.
func (d *download) learn(ctx context.Context) (err error) {
	if d.learnt {
		return nil
	}
	defer func() { d.learnt = err == nil }()
	store := d.solver.opts.Store
	if b, err := store.LoadCache(ctx, d.cacheKey()); err == nil {
		var f fetched
		if json.Unmarshal(b, &f) == nil && len(f.Sum) == sha256.Size {
			if d.url.Checksum != "" && d.url.Checksum == digest.NewDigestFromBytes(digest.SHA256, f.Sum) {
				d.known = f
				return nil
			}
			if f.ETag != "" && d.url.Checksum == "" {
				d.known = f
			}
		}
	}
	same, err := d.get(ctx)
	if err != nil || same {
		return err
	}
	b, err := json.Marshal(d.known)
	if err != nil {
		return fmt.Errorf("save the cache record: %w", err)
	}
	if err := store.SaveCache(ctx, d.cacheKey(), d.cacheKey(), nil, b); err != nil {
		return fmt.Errorf("save the cache record: %w", err)
	}
	return nil
}

// open opens the content, fetched again if it is not here.
func (d *download) open(ctx context.Context) (io.ReadCloser, error) {
	if d.dir == "" {
		d.known.ETag = ""
		if _, err := d.get(ctx); err != nil {
			return nil, err
		}
	}
	f, err := os.Open(filepath.Join(d.dir, "file"))
	if err != nil {
		return nil, err
	}
	return &removing{File: f, dir: d.dir, d: d}, nil
}

// removing removes the file's directory when it is closed.
type removing struct {
	*os.File
	dir string
	d   *download
}

func (r *removing) Close() error {
	r.d.dir = ""
	return errors.Join(r.File.Close(), os.RemoveAll(r.dir))
}

// get fetches the file, unless the server says that it is the known one.
func (d *download) get(ctx context.Context) (same bool, err error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, d.url.Address, nil)
	if err != nil {
		return false, err
	}
	if d.known.ETag != "" {
		req.Header.Set("If-None-Match", d.known.ETag)
	}
	auth, err := downloadAuthorization(d.solver, d.url.Address)
	if err != nil {
		return false, err
	}
	auth.give(req)
	user := userProxy()
	out := address.Outbound(func(req *http.Request) (*url.URL, error) { return user(req.URL) })
	defer out.CloseIdleConnections()
	follow := func(req *http.Request, via []*http.Request) error {
		auth.give(req)
		return address.CheckRedirect(req, via)
	}
	resp, err := (&http.Client{Transport: out, CheckRedirect: follow}).Do(req)
	if err != nil {
		return false, err
	}
	defer func() { err = errors.Join(err, resp.Body.Close()) }()
	// Some servers have ETags and send the same file again nevertheless.
	if d.known.ETag != "" && (resp.StatusCode == http.StatusNotModified ||
		resp.StatusCode == http.StatusOK && sameTag(resp.Header.Get("ETag"), d.known.ETag)) {
		return true, nil
	}
	if resp.StatusCode < 200 || resp.StatusCode >= 300 {
		return false, fmt.Errorf("invalid response status %d", resp.StatusCode)
	}
	if d.dir, err = d.solver.opts.Store.TempDir(ctx); err != nil {
		return false, err
	}
	d.known = fetched{ETag: resp.Header.Get("ETag"), Modified: time.Unix(0, 0)}
	if t, err := http.ParseTime(resp.Header.Get("Last-Modified")); err == nil {
		d.known.Modified = t
	}
	return false, d.save(resp.Body, resp.ContentLength)
}

// save writes the body to a file and verifies it.
func (d *download) save(body io.Reader, length int64) (err error) {
	f, err := os.Create(filepath.Join(d.dir, "file"))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	h := sha256.New()
	check := digest.Canonical
	if d.url.Checksum != "" {
		check = d.url.Checksum.Algorithm()
	}
	v := check.Digester()
	n, err := io.Copy(io.MultiWriter(f, h, v.Hash()), io.LimitReader(body, maxDownload+1))
	if err != nil {
		return err
	}
	if n > maxDownload {
		return fmt.Errorf("larger than %d bytes", int64(maxDownload))
	}
	if length >= 0 && n != length {
		return fmt.Errorf("got %d bytes of %d", n, length)
	}
	if d.url.Checksum != "" && v.Digest() != d.url.Checksum {
		return fmt.Errorf("digest mismatch %s: %s", v.Digest(), d.url.Checksum)
	}
	d.known.Sum, d.known.Size = h.Sum(nil), n
	if p, ok := d.log.(*Reporter); ok {
		p.Item(progress.Item{ID: "downloading " + d.url.Name, Current: n, Total: n, Done: true})
	}
	return nil
}

// sameTag compares ETags, weak ones too.
func sameTag(a, b string) bool {
	return a != "" && strings.TrimPrefix(a, "W/") == strings.TrimPrefix(b, "W/")
}
