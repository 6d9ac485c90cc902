package hub

import (
	"context"
	"crypto/rand"
	"database/sql"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"strake/internal/auth"
	"strake/internal/content"
	"strake/internal/registry"
	"strake/internal/sqldb"
)

// Between the requests of an upload its writer is parked for a while, where it is
// a file: taken up anew it would have to hash all it holds again.
const (
	parkFor   = 30 * time.Second
	maxParked = 256
)

// How long a request waits for a writer that another one holds: one whose client
// is gone, and in a bucket one whose replica is.
const (
	waitFile   = 5 * time.Second
	waitBucket = 20 * time.Second
)

// uploadLife is how long an upload that nobody finishes is kept.
const uploadLife = 7 * 24 * time.Hour

// maxUploads is how many of them one account may have.
const maxUploads = 1000

// parking holds writers between two requests.
type parking struct {
	on bool // otherwise it takes none

	mu      sync.Mutex
	writers map[string]*parked // by upload ID
	closed  bool
}

// parked is a writer that waits for the next request.
type parked struct {
	w     content.Writer
	timer *time.Timer
}

// take returns the writer of an upload that is parked, or nil.
func (l *parking) take(id string) content.Writer {
	l.mu.Lock()
	p, ok := l.writers[id]
	delete(l.writers, id)
	l.mu.Unlock()
	if !ok || !p.timer.Stop() {
		return nil
	}
	return p.w
}

// park keeps a writer for the next request, or closes it.
func (l *parking) park(id string, w content.Writer) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.on || l.closed || len(l.writers) >= maxParked {
		return w.Close()
	}
	l.writers[id] = &parked{w: w, timer: time.AfterFunc(parkFor, func() {
		l.mu.Lock()
		if p, ok := l.writers[id]; ok && p.w == w {
			delete(l.writers, id)
		}
		l.mu.Unlock()
		_ = w.Close() // nothing is lost: whoever resumes opens and reads it again
	})}
	return nil
}

// close closes what is parked, for good.
func (l *parking) close() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.closed = true
	var errs []error
	for id, p := range l.writers {
		if p.timer.Stop() {
			errs = append(errs, p.w.Close())
		}
		delete(l.writers, id)
	}
	return errors.Join(errs...)
}

func newID() string {
	var b [16]byte
	_, _ = rand.Read(b[:]) // never fails
	return hex.EncodeToString(b[:])
}

// uploadRef is the ingest of an upload.
func uploadRef(id string) string { return uploadPrefix + id }

const uploadPrefix = "upload/"

// uploadID is the upload whose ingest ref is.
func uploadID(ref string) string { return strings.TrimPrefix(ref, uploadPrefix) }

func isMismatch(err error) bool { return errors.Is(err, errdefs.ErrFailedPrecondition) }

// upload is a registry.Upload.
type upload struct {
	hub  *Hub
	repo string
	id   string
	w    content.Writer // nil: closed
	held int64          // w's offset when it was closed
}

// StartUpload implements registry.Writer.
func (h *Hub) StartUpload(ctx context.Context, repo string) (registry.Upload, error) {
	if err := registry.CheckName(repo); err != nil {
		return nil, err
	}
	account := auth.From(ctx).Account
	err := h.db.View(ctx, func(tx *sql.Tx) error {
		if err := h.mayTakeIn(ctx, tx, repo, ocispec.Descriptor{}); err != nil {
			return err
		}
		return fewUploads(ctx, tx, account)
	})
	if err != nil {
		return nil, err
	}
	id := newID()
	w, err := h.content.Writer(ctx, uploadRef(id), content.WriterOptions{})
	if err != nil {
		return nil, fmt.Errorf("begin upload: %w", err)
	}
	// An upload that just began is no loss when the power fails.
	err = h.db.Note(ctx, func(tx *sql.Tx) error {
		_, err := tx.ExecContext(ctx, `INSERT INTO uploads (id, repository, created, account) VALUES ($1, $2, $3, $4)`, id, repo, time.Now().Unix(), account)
		return err
	})
	if err != nil {
		return nil, errors.Join(fmt.Errorf("begin upload: %w", err), w.Close())
	}
	return &upload{hub: h, repo: repo, id: id, w: w}, nil
}

// fewUploads fails where an account has as many unfinished uploads as it may. The
// server itself may have any number.
func fewUploads(ctx context.Context, tx *sql.Tx, account int64) error {
	if account == 0 {
		return nil
	}
	var n int
	if err := tx.QueryRowContext(ctx, `SELECT count(*) FROM uploads WHERE account = $1`, account).Scan(&n); err != nil || n < maxUploads {
		return err
	}
	return &registry.Error{
		Code: registry.TooManyRequests, RetryAfter: time.Minute,
		Message: fmt.Sprintf("this account has %d unfinished uploads, and no more are begun: finish or cancel some; they end a week after they began", n),
	}
}

// ResumeUpload implements registry.Writer.
func (h *Hub) ResumeUpload(ctx context.Context, repo, id string) (registry.Upload, error) {
	if err := registry.CheckName(repo); err != nil {
		return nil, err
	}
	err := h.db.View(ctx, func(tx *sql.Tx) error {
		if _, err := allow(ctx, tx, repo, auth.Write); err != nil {
			return err
		}
		var one int
		return tx.QueryRowContext(ctx, `SELECT 1 FROM uploads WHERE id = $1 AND repository = $2`, id, repo).Scan(&one)
	})
	if errors.Is(err, sql.ErrNoRows) {
		return nil, registry.Errorf(registry.BlobUploadUnknown, "blob upload unknown to registry")
	}
	if err != nil {
		return nil, err
	}
	w, err := h.takeWriter(ctx, id)
	if err != nil {
		return nil, fmt.Errorf("resume upload: %w", err)
	}
	return &upload{hub: h, repo: repo, id: id, w: w}, nil
}

// takeWriter takes up the writer of an upload. A request whose client is gone
// may hold it for a moment still.
func (h *Hub) takeWriter(ctx context.Context, id string) (content.Writer, error) {
	wait := waitFile
	if h.files == nil {
		wait = waitBucket
	}
	for deadline := time.Now().Add(wait); ; {
		if w := h.parking.take(id); w != nil {
			return w, nil
		}
		w, err := h.content.Writer(ctx, uploadRef(id), content.WriterOptions{})
		if !errdefs.IsUnavailable(err) || time.Now().After(deadline) {
			return w, err
		}
		select {
		case <-time.After(50 * time.Millisecond):
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
}

func (u *upload) ID() string { return u.id }

func (u *upload) Offset() int64 {
	if u.w == nil {
		return u.held
	}
	return u.w.Offset()
}

func (u *upload) Write(p []byte) (int, error) {
	if u.w == nil {
		return 0, fmt.Errorf("write to upload %s: closed: %w", u.id, errdefs.ErrFailedPrecondition)
	}
	return u.w.Write(p)
}

// Expect implements registry.Expecter.
func (u *upload) Expect(ctx context.Context, desc ocispec.Descriptor) error {
	return u.hub.db.View(ctx, func(tx *sql.Tx) error { return u.hub.mayTakeIn(ctx, tx, u.repo, desc) })
}

func (u *upload) Commit(ctx context.Context, dgst digest.Digest) (ocispec.Descriptor, error) {
	desc := ocispec.Descriptor{MediaType: octetStream, Digest: dgst, Size: u.Offset()}
	if err := registry.CheckDigest(dgst); err != nil {
		return desc, err
	}
	if u.w == nil {
		return desc, fmt.Errorf("commit upload %s: closed: %w", u.id, errdefs.ErrFailedPrecondition)
	}
	err := u.hub.commit(ctx, u.w, u.repo, dgst, u.id)
	return desc, errors.Join(err, u.end())
}

// end closes the writer instead of parking it.
func (u *upload) end() error {
	w := u.w
	u.held, u.w = w.Offset(), nil
	return w.Close()
}

func (u *upload) Cancel(ctx context.Context) error {
	err := u.hub.db.Update(ctx, func(tx *sql.Tx) error {
		_, err := tx.ExecContext(ctx, `DELETE FROM uploads WHERE id = $1`, u.id)
		return err
	})
	if err != nil || u.w == nil {
		return err
	}
	if err := u.end(); err != nil {
		return err
	}
	return u.hub.content.Abort(ctx, uploadRef(u.id))
}

func (u *upload) Close() error {
	if u.w == nil {
		return nil
	}
	w := u.w
	u.held, u.w = w.Offset(), nil
	return u.hub.parking.park(u.id, w)
}

// expireUploads drops uploads that were begun long ago, and counts them.
func (h *Hub) expireUploads(ctx context.Context) (n int64, err error) {
	var ids []string
	err = h.db.Update(ctx, func(tx *sql.Tx) error {
		ids = nil
		rows, err := tx.QueryContext(ctx, `DELETE FROM uploads WHERE created < $1 RETURNING id`, time.Now().Add(-uploadLife).Unix()) //nolint:sqlclosecheck // ScanAll closes them
		if err != nil {
			return err
		}
		return sqldb.ScanAll(rows, func() error {
			var id string
			err := rows.Scan(&id)
			ids = append(ids, id)
			return err
		})
	})
	if err != nil {
		return 0, fmt.Errorf("expire uploads: %w", err)
	}
	for _, id := range ids {
		if err := h.content.Abort(ctx, uploadRef(id)); err != nil && !errdefs.IsNotFound(err) {
			return n, fmt.Errorf("expire upload: %w", err)
		}
		n++
	}
	return n, nil
}
