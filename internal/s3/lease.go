package s3

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/containerd/errdefs"
	"github.com/minio/minio-go/v7"

	"strake/internal/content"
)

const (
	leaseTime = 12 * time.Second // after which a lease that is not renewed is free
	maxLease  = 16 << 10         // bytes of a lease
	leaseName = "lease"

	takeTries = 4 // to take a lease for which another request races
	takePause = 100 * time.Millisecond
)

// leaseBody is what a lease says.
type leaseBody struct {
	Ref    []byte `json:"ref"`
	Holder string `json:"holder,omitempty"` // empty: free
	Count  int    `json:"count"`            // of its renewals, so that each differs
}

// lease is a lease that this process holds.
type lease struct {
	store   *Store
	key     string
	stop    chan struct{}
	done    chan struct{} // closed when nothing renews it any more
	created bool          // it is new: there are no segments

	mu   sync.Mutex
	body leaseBody
	etag string
	lost error
}

// dir is the prefix of the keys of an ingest.
func (s *Store) dir(ref string) string {
	h := sha256.Sum256([]byte(ref))
	return s.prefix + "ingest/" + hex.EncodeToString(h[:]) + "/"
}

// acquire takes the lease of ref, or fails with errdefs.ErrUnavailable. Where
// there is none and create is not set it fails with errdefs.ErrNotFound.
func (s *Store) acquire(ctx context.Context, ref string, create bool) (*lease, error) {
	l := &lease{
		store: s, key: s.dir(ref) + leaseName, body: leaseBody{Ref: []byte(ref), Holder: newHolder()},
		stop: make(chan struct{}), done: make(chan struct{}),
	}
	err := l.take(ctx, create)
	for n := 1; raced(err, create); n++ {
		if n == takeTries {
			return nil, fmt.Errorf("ingest %q: another writer just held it: %w", ref, errdefs.ErrUnavailable)
		}
		select {
		case <-time.After(takePause):
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
		err = l.take(ctx, create)
	}
	if err != nil {
		return nil, err
	}
	go l.renew() //nolint:contextcheck // it outlives the call
	return l, nil
}

// take makes the lease, or takes over what is there, once.
func (l *lease) take(ctx context.Context, create bool) error {
	err := fmt.Errorf("ingest %q: %w", l.body.Ref, errdefs.ErrNotFound)
	if create {
		err = l.write(ctx, unlessThere())
		l.created = err == nil
	}
	if isConflict(err) || errdefs.IsNotFound(err) {
		err = l.takeOver(ctx)
	}
	return err
}

// raced tells whether somebody was faster, to take the lease or to end it, or
// the server has not decided yet who was.
func raced(err error, create bool) bool {
	return isConflict(err) || create && errdefs.IsNotFound(err)
}

// takeOver takes the lease that is there if it is free.
func (l *lease) takeOver(ctx context.Context) error {
	have, err := l.store.readLease(ctx, l.key)
	switch {
	case err != nil:
		return err
	case have.body.Holder == l.body.Holder: // the answer to our first request was lost
		l.etag = have.etag
		return nil
	case have.held:
		return fmt.Errorf("ingest %q: held by another writer: %w", l.body.Ref, errdefs.ErrUnavailable)
	}
	return l.write(ctx, unlessChanged(have.etag))
}

// write writes the lease.
func (l *lease) write(ctx context.Context, on condition) error {
	b, err := json.Marshal(l.body)
	if err != nil {
		return err
	}
	etag, err := l.store.put(ctx, l.key, b, on)
	if err == nil {
		l.etag = etag
	}
	return err
}

// renew renews the lease until it is released or another process has it.
func (l *lease) renew() {
	defer close(l.done)
	tick := time.NewTicker(l.store.lease / 4)
	defer tick.Stop()
	for {
		select {
		case <-l.stop:
			return
		case <-tick.C:
		}
		if !l.store.asleep && l.renewOnce() {
			return
		}
	}
}

// renewOnce tells whether the lease is lost. A server that does not answer may
// do so again, and nobody takes what nobody reaches.
func (l *lease) renewOnce() bool {
	ctx, cancel := context.WithTimeout(context.Background(), l.store.lease)
	defer cancel()
	l.mu.Lock()
	defer l.mu.Unlock()
	l.body.Count++
	err := l.write(ctx, unlessChanged(l.etag))
	if isConflict(err) || errdefs.IsNotFound(err) {
		have, readErr := l.store.readLease(ctx, l.key)
		if readErr == nil && have.body.Holder == l.body.Holder && have.body.Count == l.body.Count { // the answer was lost
			l.etag = have.etag
			return false
		}
		l.lost = fmt.Errorf("ingest %q: another writer took it over: %w", l.body.Ref, errdefs.ErrUnavailable)
	}
	return l.lost != nil
}

// check fails once the lease is lost.
func (l *lease) check() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.lost
}

// end stops renewing and tells whether the lease was lost before.
func (l *lease) end() (lost bool) {
	close(l.stop)
	<-l.done
	return l.lost != nil
}

// release frees the lease; the ingest stays.
func (l *lease) release(ctx context.Context) error {
	if l.end() {
		return nil // it is another's
	}
	l.body.Holder = ""
	err := l.write(ctx, unlessChanged(l.etag))
	if isConflict(err) || errdefs.IsNotFound(err) {
		return nil // another's, too
	}
	return err
}

// drop removes the ingest, the lease last.
func (l *lease) drop(ctx context.Context) error {
	if l.end() {
		return nil
	}
	dir := strings.TrimSuffix(l.key, leaseName)
	var keys []string
	err := l.store.list(ctx, dir, func(o minio.ObjectInfo) error {
		if o.Key != l.key {
			keys = append(keys, o.Key)
		}
		return nil
	})
	if err == nil {
		err = l.store.remove(ctx, keys...)
	}
	if err == nil {
		err = l.store.remove(ctx, l.key)
	}
	return err
}

// foundLease is a lease that was read.
type foundLease struct {
	body leaseBody
	etag string
	held bool
}

// readLease reads a lease.
func (s *Store) readLease(ctx context.Context, key string) (found foundLease, err error) {
	body, info, header, err := s.client.GetObject(ctx, s.bucket, key, minio.GetObjectOptions{})
	if err != nil {
		return found, classify(err)
	}
	defer func() { err = errors.Join(err, body.Close()) }()
	b, err := io.ReadAll(io.LimitReader(body, maxLease))
	if err != nil {
		return found, err
	}
	if err := json.Unmarshal(b, &found.body); err != nil {
		return found, fmt.Errorf("lease %s: %w", key, err)
	}
	now, err := http.ParseTime(header.Get("Date"))
	if err != nil {
		now = time.Now()
	}
	found.etag = info.ETag
	found.held = found.body.Holder != "" && now.Sub(info.LastModified) <= s.lease
	return found, nil
}

// put stores b under key and returns its ETag. The server verifies what it got.
func (s *Store) put(ctx context.Context, key string, b []byte, on condition) (etag string, err error) {
	return s.putMeta(ctx, key, b, nil, on)
}

// putMeta is put with metadata.
func (s *Store) putMeta(ctx context.Context, key string, b []byte, meta map[string]string, on condition) (etag string, err error) {
	opts := minio.PutObjectOptions{ContentType: octetStream, UserMetadata: meta, DisableContentSha256: true} // no chunked signature: the whole is signed
	if on != nil {
		on(&opts)
	}
	h := sha256.Sum256(b)
	info, err := s.client.PutObject(ctx, s.bucket, key, bytes.NewReader(b), int64(len(b)), "", hex.EncodeToString(h[:]), opts)
	return info.ETag, classify(err)
}

// remove removes objects; those that are not there do not count.
func (s *Store) remove(ctx context.Context, keys ...string) error {
	if len(keys) == 1 {
		return classify(s.client.RemoveObject(ctx, s.bucket, keys[0], minio.RemoveObjectOptions{}))
	}
	all := make(chan minio.ObjectInfo)
	go func() {
		defer close(all)
		for _, key := range keys {
			all <- minio.ObjectInfo{Key: key}
		}
	}()
	var errs []error
	for failed := range s.client.RemoveObjects(ctx, s.bucket, all, minio.RemoveObjectsOptions{}) {
		if err := classify(failed.Err); !errdefs.IsNotFound(err) {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// Ingests implements content.Manager.
func (s *Store) Ingests(ctx context.Context) ([]content.IngestInfo, error) {
	var infos []content.IngestInfo
	prefix := s.prefix + "ingest/"
	ends := map[string]content.IngestInfo{} // by directory
	err := s.list(ctx, prefix, func(o minio.ObjectInfo) error {
		dir, name, ok := strings.Cut(strings.TrimPrefix(o.Key, prefix), "/")
		if !ok {
			return nil
		}
		info := ends[dir]
		if offset, ok := parseOffset(name); ok && offset == info.Offset {
			info.Offset += o.Size
		}
		if o.LastModified.After(info.ModTime) {
			info.ModTime = o.LastModified
		}
		ends[dir] = info
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("list ingests: %w", err)
	}
	for dir, info := range ends {
		found, err := s.readLease(ctx, prefix+dir+"/"+leaseName)
		if errdefs.IsNotFound(err) {
			continue // just committed
		}
		if err != nil {
			return nil, fmt.Errorf("list ingests: %w", err)
		}
		info.Ref, info.Held = string(found.body.Ref), found.held
		infos = append(infos, info)
	}
	return infos, nil
}

// Abort implements content.Manager.
func (s *Store) Abort(ctx context.Context, ref string) error {
	l, err := s.acquire(ctx, ref, false)
	if err == nil {
		err = l.drop(ctx)
	}
	if err != nil {
		return fmt.Errorf("abort ingest %q: %w", ref, err)
	}
	return nil
}
