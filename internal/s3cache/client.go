package s3cache

import (
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/aws/retry"
	v4 "github.com/aws/aws-sdk-go-v2/aws/signer/v4"
	"github.com/aws/smithy-go/encoding/httpbinding"
	"github.com/containerd/errdefs"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

const (
	partSize  = 8 << 20 // bytes of a part of an upload, which is held in memory
	maxParts  = 10_000
	maxAnswer = 1 << 20 // bytes of an answer
)

// Bucket is a bucketcache.Bucket. It speaks S3's protocol, follows no redirect, and tells its
// credentials to nobody. It is safe for concurrent use.
type Bucket struct {
	opts   Options
	base   url.URL // of the bucket, without a slash at its end
	http   *http.Client
	signer *v4.Signer
	creds  aws.CredentialsProvider
	pause  time.Duration       // before the second try
	pace   *retry.AdaptiveMode // nil: none
}

// New makes a Bucket; nothing is asked yet. It fails with errdefs.ErrInvalidArgument for an
// endpoint that is none.
func New(opts Options) (*Bucket, error) {
	opts.Tries = cmp.Or(opts.Tries, 4)
	base, err := url.Parse(cmp.Or(opts.Endpoint, "https://s3."+opts.Region+".amazonaws.com"))
	if err != nil || base.Host == "" || base.Scheme != "https" && base.Scheme != "http" || base.User != nil {
		return nil, fmt.Errorf("endpoint of the S3 server: not http[s]://HOST: %w", errdefs.ErrInvalidArgument) // it may have a password
	}
	base.Path, base.RawQuery = strings.TrimSuffix(base.Path, "/"), ""
	if opts.PathStyle {
		base.Path += "/" + opts.Name
	} else {
		base.Host = opts.Name + "." + base.Host
	}
	transport := &http.Transport{
		Proxy: http.ProxyFromEnvironment, DisableCompression: true,
		TLSHandshakeTimeout: 20 * time.Second, ResponseHeaderTimeout: time.Minute, IdleConnTimeout: 90 * time.Second,
	}
	client := &http.Client{Transport: transport, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	c := &Bucket{
		opts: opts, base: *base, pause: time.Second, http: client, creds: provider(opts, client),
		signer: v4.NewSigner(func(o *v4.SignerOptions) { o.DisableURIPathEscaping = true }),
	}
	if opts.Adaptive {
		c.pace = retry.NewAdaptiveMode()
	}
	return c, nil
}

// request is one request about an object.
type request struct {
	method, key string
	query       url.Values
	header      map[string]string
	body        []byte
}

// do sends a request until it is answered by something else than that it be sent again. An
// answer that tells of no success is an error.
func (c *Bucket) do(ctx context.Context, r request) (*http.Response, error) {
	creds, err := c.creds.Retrieve(ctx)
	if err != nil {
		return nil, err
	}
	for n := 1; ; n++ {
		res, err := c.paced(ctx, r, creds)
		again := err != nil || res.StatusCode >= 500 || res.StatusCode == http.StatusTooManyRequests
		if err == nil && res.StatusCode >= 300 {
			err = failure(r, res)
		}
		if err == nil {
			return res, nil
		}
		if !again || n == c.opts.Tries || ctx.Err() != nil {
			return nil, err
		}
		select {
		case <-time.After(c.pause << min(n-1, 4)):
		case <-ctx.Done():
			return nil, errors.Join(context.Cause(ctx), err)
		}
	}
}

// slowDown is what the pace is told of an answer that asks for fewer requests.
type slowDown struct{}

func (slowDown) Error() string     { return "slow down" }
func (slowDown) ErrorCode() string { return "SlowDown" }

// paced is once, as soon as a request may be sent.
func (c *Bucket) paced(ctx context.Context, r request, creds aws.Credentials) (*http.Response, error) {
	if c.pace == nil {
		return c.once(ctx, r, creds)
	}
	done, err := c.pace.GetAttemptToken(ctx)
	if err != nil {
		return nil, err
	}
	res, err := c.once(ctx, r, creds)
	var asked error
	if err == nil && (res.StatusCode == http.StatusServiceUnavailable || res.StatusCode == http.StatusTooManyRequests) {
		asked = slowDown{}
	}
	_ = done(asked) // it says nothing
	return res, err
}

func (c *Bucket) once(ctx context.Context, r request, creds aws.Credentials) (*http.Response, error) {
	u := c.base
	u.Path += "/" + r.key
	u.RawPath = httpbinding.EscapePath(u.Path, false) // all of it, as the signature has it
	u.RawQuery = r.query.Encode()
	req, err := http.NewRequestWithContext(ctx, r.method, u.String(), bytes.NewReader(r.body))
	if err != nil {
		return nil, err
	}
	for name, value := range r.header {
		req.Header.Set(name, value)
	}
	sum := sha256.Sum256(r.body)
	hash := hex.EncodeToString(sum[:])
	req.Header.Set("X-Amz-Content-Sha256", hash)
	if err := c.signer.SignHTTP(ctx, creds, req, hash, "s3", c.opts.Region, time.Now()); err != nil {
		return nil, fmt.Errorf("sign: %w", err)
	}
	return c.http.Do(req)
}

// failure is the error that an answer tells of.
func failure(r request, res *http.Response) error {
	b, err := io.ReadAll(io.LimitReader(res.Body, maxAnswer))
	err = errors.Join(err, res.Body.Close())
	var told struct{ Code, Message string }
	text := res.Status
	if xml.Unmarshal(b, &told) == nil && told.Code != "" {
		text = told.Code + ": " + told.Message
	}
	return errors.Join(fmt.Errorf("S3: %s %s: %.500s: %w", r.method, r.key, text, kind(res.StatusCode)), err)
}

// call is do for an answer that is read whole, into out where that is not nil.
func (c *Bucket) call(ctx context.Context, r request, out any) (header http.Header, err error) {
	res, err := c.do(ctx, r)
	if err != nil {
		return nil, err
	}
	b, err := io.ReadAll(io.LimitReader(res.Body, maxAnswer))
	if err = errors.Join(err, res.Body.Close()); err != nil {
		return nil, fmt.Errorf("S3: %s %s: %w", r.method, r.key, err)
	}
	var told struct {
		XMLName       xml.Name
		Code, Message string
	}
	if xml.Unmarshal(b, &told) == nil && told.XMLName.Local == "Error" { // S3 says OK before it knows
		return nil, fmt.Errorf("S3: %s %s: %s: %.500s: %w", r.method, r.key, told.Code, told.Message, errdefs.ErrUnavailable)
	}
	if out == nil {
		return res.Header, nil
	}
	if err := xml.Unmarshal(b, out); err != nil {
		return nil, fmt.Errorf("S3: %s %s: %w", r.method, r.key, err)
	}
	return res.Header, nil
}

// Get implements bucketcache.Bucket.
func (c *Bucket) Get(ctx context.Context, key string, offset int64) (io.ReadCloser, error) {
	r := request{method: http.MethodGet, key: key}
	if offset > 0 {
		r.header = map[string]string{"Range": fmt.Sprintf("bytes=%d-", offset)}
	}
	res, err := c.do(ctx, r)
	if err != nil {
		return nil, err
	}
	if want := map[bool]int{false: http.StatusOK, true: http.StatusPartialContent}[offset > 0]; res.StatusCode != want {
		return nil, errors.Join(fmt.Errorf("S3: GET %s: %s: %w", key, res.Status, errdefs.ErrUnavailable), res.Body.Close())
	}
	return res.Body, nil
}

// written is when an object was written, or touched. It fails with errdefs.ErrNotFound.
func (c *Bucket) written(ctx context.Context, key string) (time.Time, error) {
	header, err := c.call(ctx, request{method: http.MethodHead, key: key}, nil)
	if err != nil {
		return time.Time{}, err
	}
	at, err := http.ParseTime(header.Get("Last-Modified"))
	if err != nil {
		return at, fmt.Errorf("S3: HEAD %s: %w", key, err)
	}
	return at, nil
}

// touch gives an object a new time: it is copied to itself.
func (c *Bucket) touch(ctx context.Context, key string) error {
	source := httpbinding.EscapePath("/"+c.opts.Name+"/"+key, false)
	_, err := c.call(ctx, request{method: http.MethodPut, key: key, header: map[string]string{
		"X-Amz-Copy-Source": source, "X-Amz-Metadata-Directive": "REPLACE", "X-Amz-Meta-Updated-At": time.Now().UTC().Format(time.RFC3339),
	}}, nil)
	return err
}

// PutBytes implements bucketcache.Bucket.
func (c *Bucket) PutBytes(ctx context.Context, key string, b []byte) error {
	_, err := c.call(ctx, request{method: http.MethodPut, key: key, body: b}, nil)
	return err
}

// Put implements bucketcache.Bucket.
func (c *Bucket) Put(ctx context.Context, key string, desc ocispec.Descriptor, body io.Reader) error {
	sum := desc.Digest.Verifier()
	size := max(partSize, desc.Size/maxParts+1)
	checked := io.TeeReader(io.LimitReader(body, desc.Size+1), sum)
	if desc.Size <= size {
		b, err := io.ReadAll(checked)
		if err == nil && (int64(len(b)) != desc.Size || !sum.Verified()) {
			err = fmt.Errorf("%s has other bytes: %w", desc.Digest, errdefs.ErrDataLoss)
		}
		if err != nil {
			return err
		}
		return c.PutBytes(ctx, key, b)
	}
	var begun struct {
		UploadID string `xml:"UploadId"`
	}
	if _, err := c.call(ctx, request{method: http.MethodPost, key: key, query: url.Values{"uploads": {""}}}, &begun); err != nil {
		return err
	}
	parts, err := c.parts(ctx, key, begun.UploadID, size, checked)
	if err == nil && !sum.Verified() {
		err = fmt.Errorf("%s has other bytes: %w", desc.Digest, errdefs.ErrDataLoss)
	}
	upload := url.Values{"uploadId": {begun.UploadID}}
	if err == nil {
		_, err = c.call(ctx, request{method: http.MethodPost, key: key, query: upload, body: parts}, nil)
	}
	if err != nil {
		_, abort := c.call(context.WithoutCancel(ctx), request{method: http.MethodDelete, key: key, query: upload}, nil)
		return errors.Join(err, abort)
	}
	return nil
}

// parts writes the parts of an upload, and returns the request that makes them one.
func (c *Bucket) parts(ctx context.Context, key, upload string, size int64, body io.Reader) ([]byte, error) {
	type part struct {
		PartNumber int
		ETag       string
	}
	var all struct {
		XMLName xml.Name `xml:"CompleteMultipartUpload"`
		Part    []part
	}
	buf := make([]byte, size)
	for number := 1; ; number++ {
		n, err := io.ReadFull(body, buf)
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil && !errors.Is(err, io.ErrUnexpectedEOF) {
			return nil, err
		}
		query := url.Values{"uploadId": {upload}, "partNumber": {strconv.Itoa(number)}}
		header, perr := c.call(ctx, request{method: http.MethodPut, key: key, query: query, body: buf[:n]}, nil)
		if perr != nil {
			return nil, perr
		}
		all.Part = append(all.Part, part{number, header.Get("ETag")})
		if err != nil {
			break
		}
	}
	return xml.Marshal(all)
}
