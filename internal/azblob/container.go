package azblob

import (
	"bytes"
	"cmp"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/url"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// Options say which container.
type Options struct {
	AccountURL string
	Account    string // its name; "" is the first label of the URL's host
	Key        string // of the account, in base64
	Container  string
}

// Container is a bucketcache.Bucket. It follows no redirect, and tells its key to nobody. It is
// safe for concurrent use.
type Container struct {
	client  Client
	base    url.URL // of the container
	account string
	key     []byte
}

// New makes a Container; nothing is asked yet. It fails with errdefs.ErrInvalidArgument for a URL
// or a key that is none.
func New(opts Options) (*Container, error) {
	base, err := url.Parse(opts.AccountURL)
	if err != nil || base.Host == "" || base.Scheme != "https" && base.Scheme != "http" || base.User != nil || base.RawQuery != "" {
		return nil, fmt.Errorf("URL of an account of Azure's storage, https://NAME.blob.core.windows.net: %w", errdefs.ErrInvalidArgument)
	}
	key, err := base64.StdEncoding.DecodeString(opts.Key)
	if err != nil {
		return nil, fmt.Errorf("the key of the account is not in base64: %w", errdefs.ErrInvalidArgument)
	}
	label, _, _ := strings.Cut(base.Hostname(), ".")
	transport := &http.Transport{
		Proxy: http.ProxyFromEnvironment, DisableCompression: true,
		TLSHandshakeTimeout: 20 * time.Second, ResponseHeaderTimeout: time.Minute, IdleConnTimeout: 90 * time.Second,
	}
	return &Container{
		client: Client{
			HTTP:  &http.Client{Transport: transport, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }},
			Pause: time.Second,
		},
		base: *base.JoinPath(opts.Container), account: cmp.Or(opts.Account, label), key: key,
	}, nil
}

// do sends a request about the blob of a key, or about the container where that is "".
func (c *Container) do(ctx context.Context, method, key string, query url.Values, header map[string]string, body []byte) (*http.Response, error) {
	address := c.base
	if key != "" {
		address.Path, address.RawPath = c.base.Path+path.Join("/", key), ""
	}
	address.RawQuery = query.Encode()
	return c.client.Do(ctx, func() (*http.Request, error) {
		req, err := http.NewRequestWithContext(ctx, method, address.String(), bytes.NewReader(body))
		if err != nil {
			return nil, err
		}
		for name, value := range header {
			req.Header.Set(name, value)
		}
		req.Header.Set("X-Ms-Version", version)
		req.Header.Set("X-Ms-Date", time.Now().UTC().Format(http.TimeFormat))
		req.Header.Set("Authorization", "SharedKey "+c.account+":"+c.signature(req))
		return req, nil
	})
}

// signature is that of a request by the account's key, by "Authorize with Shared Key" of Azure's
// documentation. Headers that Container does not set are left empty there.
func (c *Container) signature(req *http.Request) string {
	length := ""
	if req.ContentLength > 0 {
		length = fmt.Sprint(req.ContentLength)
	}
	text := req.Method + "\n\n\n" + length + "\n\n\n\n\n\n\n\n" + req.Header.Get("Range") + "\n"
	for _, name := range slices.Sorted(maps.Keys(req.Header)) {
		if strings.HasPrefix(name, "X-Ms-") {
			text += strings.ToLower(name) + ":" + req.Header.Get(name) + "\n"
		}
	}
	text += "/" + c.account + req.URL.EscapedPath()
	query := req.URL.Query()
	for _, name := range slices.Sorted(maps.Keys(query)) {
		text += "\n" + name + ":" + query.Get(name)
	}
	sum := hmac.New(sha256.New, c.key)
	_, _ = io.WriteString(sum, text) // a hash
	return base64.StdEncoding.EncodeToString(sum.Sum(nil))
}

// Get implements bucketcache.Bucket.
func (c *Container) Get(ctx context.Context, key string, offset int64) (io.ReadCloser, error) {
	header := map[string]string{}
	if offset > 0 {
		header["Range"] = fmt.Sprintf("bytes=%d-", offset)
	}
	res, err := c.do(ctx, http.MethodGet, key, nil, header, nil)
	var body io.ReadCloser
	if err == nil {
		body, err = opened(res, offset)
	}
	if err != nil {
		return nil, fmt.Errorf("azblob: GET %s: %w", key, err)
	}
	return body, nil
}

// Use implements bucketcache.Bucket. A blob of another size is not there: it is written again.
func (c *Container) Use(ctx context.Context, key string, size int64) (bool, error) {
	res, err := c.do(ctx, http.MethodHead, key, nil, nil, nil)
	if err == nil {
		if res.StatusCode != http.StatusOK {
			err = failure(res)
		}
		err = errors.Join(err, res.Body.Close())
	}
	if errdefs.IsNotFound(err) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("azblob: HEAD %s: %w", key, err)
	}
	return res.ContentLength == size, nil
}

// Put implements bucketcache.Bucket.
func (c *Container) Put(ctx context.Context, key string, desc ocispec.Descriptor, body io.Reader) error {
	return upload(desc, body, func(query url.Values, b []byte) error { return c.put(ctx, key, query, nil, b) })
}

// PutBytes implements bucketcache.Bucket.
func (c *Container) PutBytes(ctx context.Context, key string, b []byte) error {
	return c.put(ctx, key, nil, map[string]string{"X-Ms-Blob-Type": "BlockBlob"}, b)
}

// put does one operation that writes. A container that is not there is made.
func (c *Container) put(ctx context.Context, key string, query url.Values, header map[string]string, b []byte) error {
	once := func() error {
		res, err := c.do(ctx, http.MethodPut, key, query, header, b)
		if err != nil {
			return err
		}
		return written(res)
	}
	err := once()
	if errdefs.IsNotFound(err) {
		if err = c.create(ctx); err == nil {
			err = once()
		}
	}
	if err != nil {
		return fmt.Errorf("azblob: PUT %s: %w", key, err)
	}
	return nil
}

// create makes the container. It succeeds where there is one.
func (c *Container) create(ctx context.Context) error {
	res, err := c.do(ctx, http.MethodPut, "", url.Values{"restype": {"container"}}, nil, nil)
	if err != nil {
		return err
	}
	if code(res) == "ContainerAlreadyExists" {
		return res.Body.Close()
	}
	return written(res)
}
