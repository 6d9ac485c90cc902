package proxy

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"strconv"
	"time"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"strake/internal/auth"
	"strake/internal/fault"
	"strake/internal/hub"
	"strake/internal/image"
	"strake/internal/jobs"
	"strake/internal/policy"
	"strake/internal/reference"
	"strake/internal/registry"
	"strake/internal/remote"
	"strake/internal/sqldb"
)

// Mirror is a repository into which tags of another registry are copied from time
// to time. Tags that the other registry has no more stay.
type Mirror struct {
	ID         int64     `json:"id"`
	Repository string    `json:"repository"` // here
	Source     string    `json:"source"`     // as "quay.io/team/app"
	Pattern    string    `json:"pattern"`    // of tags, as policy has it
	Every      int       `json:"every"`      // seconds, 60 or more
	Username   string    `json:"username,omitempty"`
	Password   string    `json:"password,omitempty"` // never given out
	Insecure   bool      `json:"insecure,omitempty"`
	Ended      time.Time `json:"ended,omitzero"`  // the last run
	Copied     int       `json:"copied"`          // tags, in the last run
	Error      string    `json:"error,omitempty"` // of the last run
}

// Mirrors keeps the mirrors of a Hub. It is safe for concurrent use.
type Mirrors struct {
	hub  *hub.Hub
	db   *sqldb.DB
	opts Options
}

// NewMirrors returns the mirrors of a Hub; of opts they need no spool.
func NewMirrors(h *hub.Hub, opts Options) *Mirrors {
	if opts.Log == nil {
		opts.Log = slog.New(slog.DiscardHandler)
	}
	return &Mirrors{hub: h, db: hub.DB(h), opts: opts}
}

// mirrorJob is the kind of the jobs; the key is a mirror's ID.
const mirrorJob = "mirror"

// Bounds of mirrors.
const (
	leastEvery = 60 // seconds
	maxTags    = 10_000
	mirrorFor  = 2 * time.Hour // for one run

	maxReferrers   = 200 // of one manifest; of a tag's image, this to the power of the next
	referrersDepth = 2   // an image's SBOM, and its signature
)

// Add begins to mirror, at once. It is for administrators.
func (c *Mirrors) Add(ctx context.Context, m Mirror) (Mirror, error) {
	if err := registry.CheckName(m.Repository); err != nil {
		return m, fault.In("repository", err)
	}
	named, err := reference.Parse(m.Source)
	if err != nil || named.Tag() != "" || named.Digest() != "" {
		return m, fault.In("source", fmt.Errorf("source %.200q: not a repository with its registry: %w", m.Source, errdefs.ErrInvalidArgument))
	}
	if _, err := policy.Matcher(m.Pattern); err != nil {
		return m, err
	}
	if m.Every < leastEvery {
		return m, fault.In("every", fmt.Errorf("a mirror runs every %d seconds at most: %w", leastEvery, errdefs.ErrInvalidArgument))
	}
	if (m.Username == "") != (m.Password == "") {
		return m, errAlone
	}
	m.Source = named.Domain() + "/" + named.Path()
	sealed, err := c.opts.Key.Seal(m.Password, "mirror "+m.Source)
	if err != nil {
		return m, err
	}
	err = c.db.Update(ctx, func(tx *sql.Tx) error {
		if err := needAdmin(ctx, tx); err != nil {
			return err
		}
		err := tx.QueryRowContext(ctx, `
			INSERT INTO mirrors (repository, source, pattern, every, username, password, insecure) VALUES ($1, $2, $3, $4, $5, $6, $7) RETURNING id`,
			m.Repository, m.Source, m.Pattern, m.Every, m.Username, sealed, flag(m.Insecure)).Scan(&m.ID)
		if sqldb.IsUnique(err) {
			return fault.In("repository", fmt.Errorf("%s mirrors %s of %s already: %w", m.Repository, m.Pattern, m.Source, errdefs.ErrAlreadyExists))
		}
		if err != nil {
			return fmt.Errorf("add mirror: %w", err)
		}
		m.Password = ""
		if err := auth.Audit(ctx, tx, "mirror.add", m.Repository, m); err != nil {
			return err
		}
		return jobs.Add(ctx, tx, jobs.Job{Kind: mirrorJob, Key: strconv.FormatInt(m.ID, 10)})
	})
	return m, err
}

// Remove ends a mirror. What was copied stays.
func (c *Mirrors) Remove(ctx context.Context, id int64) error {
	return c.db.Update(ctx, func(tx *sql.Tx) error {
		if err := needAdmin(ctx, tx); err != nil {
			return err
		}
		var repo string
		err := tx.QueryRowContext(ctx, `DELETE FROM mirrors WHERE id = $1 RETURNING repository`, id).Scan(&repo)
		if errors.Is(err, sql.ErrNoRows) {
			return fmt.Errorf("mirror %d: %w", id, errdefs.ErrNotFound)
		}
		if err != nil {
			return err
		}
		if err := jobs.Remove(ctx, tx, mirrorJob, strconv.FormatInt(id, 10)); err != nil {
			return err
		}
		return auth.Audit(ctx, tx, "mirror.remove", repo, map[string]int64{"mirror": id})
	})
}

// Run has a mirror run now.
func (c *Mirrors) Run(ctx context.Context, id int64) error {
	return c.db.Update(ctx, func(tx *sql.Tx) error {
		if err := needAdmin(ctx, tx); err != nil {
			return err
		}
		if _, err := mirror(ctx, tx, id); err != nil {
			return err
		}
		return jobs.Add(ctx, tx, jobs.Job{Kind: mirrorJob, Key: strconv.FormatInt(id, 10)})
	})
}

const mirrorColumns = `SELECT id, repository, source, pattern, every, username, password, insecure, ended, copied, error FROM mirrors `

func scanMirror(row interface{ Scan(dest ...any) error }) (m Mirror, err error) {
	var insecure int
	var ended int64
	err = row.Scan(&m.ID, &m.Repository, &m.Source, &m.Pattern, &m.Every, &m.Username, &m.Password, &insecure, &ended, &m.Copied, &m.Error)
	m.Insecure = insecure == 1
	if ended != 0 {
		m.Ended = time.Unix(ended, 0)
	}
	return m, err
}

func mirror(ctx context.Context, tx *sql.Tx, id int64) (Mirror, error) {
	m, err := scanMirror(tx.QueryRowContext(ctx, mirrorColumns+`WHERE id = $1`, id))
	if errors.Is(err, sql.ErrNoRows) {
		return m, fmt.Errorf("mirror %d: %w", id, errdefs.ErrNotFound)
	}
	return m, err
}

// List lists the mirrors, for administrators, without passwords.
func (c *Mirrors) List(ctx context.Context) (list []Mirror, err error) {
	err = c.db.View(ctx, func(tx *sql.Tx) error {
		list = []Mirror{}
		if err := needAdmin(ctx, tx); err != nil {
			return err
		}
		return sqldb.Each(ctx, tx, mirrorColumns+`ORDER BY repository, id`, nil, func(rows *sql.Rows) error {
			m, err := scanMirror(rows)
			m.Password = ""
			list = append(list, m)
			return err
		})
	})
	return list, err
}

// Handlers are the jobs of mirrors.
func (c *Mirrors) Handlers() map[string]jobs.Handler {
	return map[string]jobs.Handler{mirrorJob: {Do: c.mirror, Timeout: mirrorFor, Concurrency: 2}}
}

// mirror is one run, after which the next one is added.
func (c *Mirrors) mirror(ctx context.Context, job jobs.Job) error {
	ctx = auth.With(ctx, auth.Identity{System: true})
	id, err := strconv.ParseInt(job.Key, 10, 64)
	if err != nil {
		return fmt.Errorf("mirror %q: %w: %w", job.Key, err, jobs.ErrGiveUp)
	}
	var m Mirror
	err = c.db.View(ctx, func(tx *sql.Tx) error { m, err = mirror(ctx, tx, id); return err })
	if errdefs.IsNotFound(err) {
		return nil
	}
	if err != nil {
		return err
	}
	copied, err := c.copyTags(ctx, m)
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	text := ""
	if err != nil {
		text = err.Error()
		c.opts.Log.Warn("mirror", "repository", m.Repository, "source", m.Source, "err", err)
	}
	return c.db.Update(ctx, func(tx *sql.Tx) error {
		res, err := tx.ExecContext(ctx, `UPDATE mirrors SET ended = $2, copied = $3, error = $4 WHERE id = $1`, id, time.Now().Unix(), copied, text)
		if err != nil {
			return err
		}
		if n, err := res.RowsAffected(); err != nil || n == 0 {
			return err
		}
		return jobs.Add(ctx, tx, jobs.Job{Kind: mirrorJob, Key: job.Key, NotBefore: time.Now().Add(time.Duration(m.Every) * time.Second)})
	})
}

// copyTags copies the tags that are new or name something else there. A tag that
// fails does not keep the others from being copied.
func (c *Mirrors) copyTags(ctx context.Context, m Mirror) (copied int, err error) {
	match, err := policy.Matcher(m.Pattern)
	if err != nil {
		return 0, err
	}
	password, err := c.opts.Key.Open(m.Password, "mirror "+m.Source)
	if err != nil {
		return 0, err
	}
	named, err := reference.Parse(m.Source)
	if err != nil {
		return 0, err
	}
	client := newRemote(remote.CanonicalHost(named.Domain()), m.Username, password, m.Insecure, c.opts.Log)
	defer client.Close()
	source, err := client.Repository(named)
	if err != nil {
		return 0, err
	}
	var tags []string
	for tag, err := range source.Registry().Tags(ctx, source.Name(), "") {
		if err != nil {
			return 0, fmt.Errorf("list tags of %s: %w", m.Source, err)
		}
		if match(tag) && len(tags) < maxTags {
			tags = append(tags, tag)
		}
	}
	var failed []error
	for _, tag := range tags {
		is, err := copyTag(ctx, source, target{c.hub, m.Repository}, tag)
		if is {
			copied++
		}
		if err != nil {
			failed = append(failed, fmt.Errorf("%s: %w", tag, err))
			if len(failed) > 5 || ctx.Err() != nil {
				break
			}
		}
	}
	return copied, errors.Join(failed...)
}

// copyTag copies what a tag names, unless it is here, and what refers to that:
// signatures and the like come later than the image. It reports whether the tag was
// new or moved.
func copyTag(ctx context.Context, source *remote.Repository, to target, tag string) (copied bool, err error) {
	there, err := source.Resolve(ctx, tag)
	if err != nil {
		return false, err
	}
	here, err := to.hub.StatManifest(ctx, to.repo, tag)
	if err != nil || here.Digest != there.Digest {
		if _, err := image.Copy(ctx, source, tag, to, tag, image.CopyOptions{}); err != nil {
			return false, err
		}
		copied = true
	}
	if err := copyReferrers(ctx, source, to, there.Digest, referrersDepth); err != nil {
		return copied, fmt.Errorf("what refers to it: %w", err)
	}
	return copied, nil
}

// copyReferrers copies the manifests that refer to subject, and those that refer to
// them, so deep.
func copyReferrers(ctx context.Context, source *remote.Repository, to target, subject digest.Digest, depth int) error {
	n := 0
	for d, err := range source.Registry().Referrers(ctx, source.Name(), subject, "", "") {
		if errdefs.IsNotFound(err) {
			return nil
		}
		if err != nil {
			return err
		}
		if n++; n > maxReferrers {
			return fmt.Errorf("more than %d manifests refer to %s: %w", maxReferrers, subject, errdefs.ErrResourceExhausted)
		}
		here, err := to.Exists(ctx, d)
		if err == nil && !here {
			_, err = image.Copy(ctx, source, d.Digest.String(), to, d.Digest.String(), image.CopyOptions{})
		}
		if err == nil && depth > 1 {
			err = copyReferrers(ctx, source, to, d.Digest, depth-1)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// target is a repository of the Hub as image.Copy takes it.
type target struct {
	hub  *hub.Hub
	repo string
}

var _ image.Target = target{}

func isGraph(desc ocispec.Descriptor) bool {
	return image.IsManifest(desc.MediaType) || image.IsIndex(desc.MediaType)
}

// Exists implements image.Target.
func (t target) Exists(ctx context.Context, desc ocispec.Descriptor) (bool, error) {
	var err error
	if isGraph(desc) {
		_, err = t.hub.StatManifest(ctx, t.repo, desc.Digest.String())
	} else {
		_, err = t.hub.StatBlob(ctx, t.repo, desc.Digest)
	}
	if errdefs.IsNotFound(err) {
		return false, nil
	}
	return err == nil, err
}

// Push implements image.Target.
func (t target) Push(ctx context.Context, desc ocispec.Descriptor, open image.Opener) (err error) {
	r, err := open(ctx, 0)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, r.Close()) }()
	if !isGraph(desc) {
		return t.hub.PushBlob(ctx, t.repo, desc, r)
	}
	b, err := io.ReadAll(io.LimitReader(r, image.MaxManifestSize+1))
	if err != nil {
		return err
	}
	_, err = t.hub.PutManifest(ctx, t.repo, nil, registry.Manifest{MediaType: desc.MediaType, Bytes: b, Digest: desc.Digest})
	return err
}

// Tag implements image.Target.
func (t target) Tag(ctx context.Context, desc ocispec.Descriptor, ref string) error {
	if registry.IsDigest(ref) {
		return nil
	}
	m, err := t.hub.GetManifest(ctx, t.repo, desc.Digest.String())
	if err != nil {
		return err
	}
	m.Digest = desc.Digest
	_, err = t.hub.PutManifest(ctx, t.repo, []string{ref}, m)
	return err
}
