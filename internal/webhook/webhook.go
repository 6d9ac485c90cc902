// Package webhook tells others, by HTTP, of what happens in the Hub.
//
// A webhook has a scope, as a rule of package policy has, a URL, a secret and the
// events that it is told of. A delivery is one event for one webhook: it is written
// in the transaction of what it tells of, so it is neither lost nor of what never
// was, and sent by a job, again and again with longer pauses until the other side
// answers with 2xx. It may arrive more than once, and not in order: its ID and the
// time of the event tell.
package webhook

import (
	"context"
	"crypto/rand"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"

	"strake/internal/auth"
	"strake/internal/fault"
	"strake/internal/hub"
	"strake/internal/jobs"
	"strake/internal/policy"
	"strake/internal/seal"
	"strake/internal/sqldb"
)

// Events are the names of what webhooks are told of.
func Events() []string { return []string{"push", "tag", "delete", "review", "scan"} }

// eventOf is the event that a change is, "" for none.
func eventOf(k hub.Kind) string {
	switch k {
	case hub.ManifestPut, hub.ManifestRestored:
		return "push"
	case hub.TagSet:
		return "tag"
	case hub.TagDeleted, hub.ManifestDeleted:
		return "delete"
	case hub.TagPublished, hub.ReviewReturned:
		return "review"
	case hub.Scanned:
		return "scan"
	}
	return ""
}

// Webhook is somebody to be told.
type Webhook struct {
	ID      int64     `json:"id"`
	Scope   string    `json:"scope"`
	URL     string    `json:"url"`
	Secret  string    `json:"secret,omitempty"` // given out by Add alone
	Events  []string  `json:"events"`
	Enabled bool      `json:"enabled"`
	Failing time.Time `json:"failing,omitzero"` // since when every delivery failed
	Created time.Time `json:"created"`
	Actor   string    `json:"actor"`
}

// Payload is what is sent, as JSON.
type Payload struct {
	ID         string        `json:"id"` // of the delivery; another attempt has the same
	Event      string        `json:"event"`
	Action     hub.Kind      `json:"action"`
	At         time.Time     `json:"at"`
	Actor      string        `json:"actor,omitempty"`
	Repository string        `json:"repository,omitempty"`
	Tag        string        `json:"tag,omitempty"`
	Digest     digest.Digest `json:"digest,omitempty"`
	MediaType  string        `json:"mediaType,omitempty"`
	Size       int64         `json:"size,omitempty"`
	Previous   digest.Digest `json:"previous,omitempty"` // what the tag named
	Held       bool          `json:"held,omitempty"`     // waits for a review
}

// Delivery is one event for one webhook.
type Delivery struct {
	ID       string          `json:"id"`
	Event    string          `json:"event"`
	Payload  json.RawMessage `json:"payload"`
	Created  time.Time       `json:"created"`
	Attempts int             `json:"attempts"`
	State    string          `json:"state"`  // pending, delivered, failed
	Status   int             `json:"status"` // of the last answer; 0: there was none
	Answer   string          `json:"answer"` // its beginning, or why there was none
	Finished time.Time       `json:"finished,omitzero"`
}

// maxWebhooks is how many webhooks a scope may have.
const maxWebhooks = 10

// deliverJob is the kind of the jobs; the key is a delivery's ID.
const deliverJob = "webhook"

// Book keeps the webhooks. It is safe for concurrent use.
type Book struct {
	db  *sqldb.DB
	key *seal.Key
}

// New returns the webhooks of a Hub, whose secrets key seals.
func New(db *sqldb.DB, key *seal.Key) *Book { return &Book{db: db, key: key} }

// Hook is the hub.Hook that writes the deliveries.
func (b *Book) Hook(ctx context.Context, tx *sql.Tx, c hub.Change) error {
	event := eventOf(c.Kind)
	if event == "" {
		return nil
	}
	in, found := policy.Scopes(c.Repository), []int64{}
	err := sqldb.Each(ctx, tx, `SELECT id FROM webhooks WHERE scope IN ($1, $2, $3) AND enabled = 1 AND events LIKE $4 ORDER BY id`,
		[]any{in[0], in[1], in[2], "% " + event + " %"}, func(rows *sql.Rows) error {
			var id int64
			err := rows.Scan(&id)
			found = append(found, id)
			return err
		})
	if err != nil {
		return err
	}
	for _, id := range found {
		p := Payload{
			Event: event, Action: c.Kind, At: time.Now(), Actor: auth.From(ctx).Name, Repository: c.Repository, Tag: c.Tag,
			Digest: c.Desc.Digest, MediaType: c.Desc.MediaType, Size: c.Desc.Size, Previous: c.Old, Held: c.Held,
		}
		if err := enqueue(ctx, tx, id, p); err != nil {
			return err
		}
	}
	return nil
}

// enqueue writes a delivery and its job.
func enqueue(ctx context.Context, tx *sql.Tx, webhook int64, p Payload) error {
	p.ID = rand.Text()
	payload, err := json.Marshal(p)
	if err != nil {
		return err
	}
	_, err = tx.ExecContext(ctx, `INSERT INTO deliveries (id, webhook, event, payload, created) VALUES ($1, $2, $3, $4, $5)`,
		p.ID, webhook, p.Event, string(payload), p.At.Unix())
	if err != nil {
		return fmt.Errorf("write delivery: %w", err)
	}
	return jobs.Add(ctx, tx, jobs.Job{Kind: deliverJob, Key: p.ID})
}

var errSecret = fault.In("secret", fmt.Errorf("a webhook's secret has 16 to 200 bytes: %w", errdefs.ErrInvalidArgument))

// check fails unless w may be added.
func (w Webhook) check() error {
	u, err := url.Parse(w.URL)
	switch {
	case err != nil || u.Scheme != "https" && u.Scheme != "http" || u.Hostname() == "" || len(w.URL) > 2048:
		return fault.In("url", fmt.Errorf("that is not a URL of http or https: %w", errdefs.ErrInvalidArgument))
	case u.User != nil:
		return fault.In("url", fmt.Errorf("the URL holds a password; the signature tells who sends: %w", errdefs.ErrInvalidArgument))
	case len(w.Events) == 0:
		return fault.In("events", fmt.Errorf("the webhook is told of no events: %w", errdefs.ErrInvalidArgument))
	case len(w.Secret) > 200 || w.Secret != "" && len(w.Secret) < 16:
		return errSecret
	}
	for _, e := range w.Events {
		if !slices.Contains(Events(), e) {
			return fault.In("events", fmt.Errorf("event %q is none of %s: %w", e, strings.Join(Events(), ", "), errdefs.ErrInvalidArgument))
		}
	}
	return nil
}

// Add adds a webhook for who administers its scope. Without a secret it gets one;
// what is returned holds it, and nothing else ever does.
func (b *Book) Add(ctx context.Context, w Webhook) (Webhook, error) {
	if err := w.check(); err != nil {
		return w, err
	}
	if w.Secret == "" {
		w.Secret = rand.Text() + rand.Text()
	}
	sealed, err := b.key.Seal(w.Secret, "webhook of "+w.Scope)
	if err != nil {
		return w, err
	}
	w.Events = ordered(w.Events)
	err = b.db.Update(ctx, func(tx *sql.Tx) error {
		if err := policy.NeedScope(ctx, tx, w.Scope, auth.Admin); err != nil {
			return err
		}
		var n int
		if err := tx.QueryRowContext(ctx, `SELECT count(*) FROM webhooks WHERE scope = $1`, w.Scope).Scan(&n); err != nil {
			return err
		}
		if n >= maxWebhooks {
			return fmt.Errorf("%s has %d webhooks, which is the most: %w", w.Scope, n, errdefs.ErrResourceExhausted)
		}
		w.Enabled, w.Created, w.Actor = true, time.Now(), auth.From(ctx).Name
		err := tx.QueryRowContext(ctx, `INSERT INTO webhooks (scope, url, secret, events, created, actor) VALUES ($1, $2, $3, $4, $5, $6) RETURNING id`,
			w.Scope, w.URL, sealed, " "+strings.Join(w.Events, " ")+" ", w.Created.Unix(), w.Actor).Scan(&w.ID)
		if err != nil {
			return err
		}
		return auth.Audit(ctx, tx, "webhook.add", w.Scope, map[string]any{"webhook": w.ID, "url": w.URL, "events": w.Events})
	})
	return w, err
}

// List lists the webhooks of a scope, for who administers it, without secrets.
func (b *Book) List(ctx context.Context, scope string) (list []Webhook, err error) {
	err = b.db.View(ctx, func(tx *sql.Tx) error {
		list = []Webhook{}
		if err := policy.NeedScope(ctx, tx, scope, auth.Admin); err != nil {
			return err
		}
		return sqldb.Each(ctx, tx, `SELECT id, scope, url, events, enabled, failing, created, actor FROM webhooks WHERE scope = $1 ORDER BY id`,
			[]any{scope}, func(rows *sql.Rows) error {
				var w Webhook
				var events string
				var enabled int
				var failing, created int64
				err := rows.Scan(&w.ID, &w.Scope, &w.URL, &events, &enabled, &failing, &created, &w.Actor)
				w.Events, w.Enabled, w.Failing, w.Created = strings.Fields(events), enabled == 1, unix(failing), unix(created)
				list = append(list, w)
				return err
			})
	})
	return list, err
}

// unix is the time of a row; 0 is the zero time.
func unix(at int64) time.Time {
	if at == 0 {
		return time.Time{}
	}
	return time.Unix(at, 0)
}

// Change is what is to change of a webhook; nil stays as it is.
type Change struct {
	URL     *string  `json:"url,omitempty"`
	Secret  *string  `json:"secret,omitempty"`
	Events  []string `json:"events,omitempty"`
	Enabled *bool    `json:"enabled,omitempty"` // what happened while it was not is never told
}

// Change changes a webhook, for who administers its scope. What waits to be
// delivered goes where it leads then.
func (b *Book) Change(ctx context.Context, scope string, id int64, c Change) error {
	return b.db.Update(ctx, func(tx *sql.Tx) error {
		if err := b.find(ctx, tx, scope, id); err != nil {
			return err
		}
		var w Webhook
		var events, sealed string
		var enabled int
		err := tx.QueryRowContext(ctx, `SELECT url, secret, events, enabled FROM webhooks WHERE id = $1`, id).Scan(&w.URL, &sealed, &events, &enabled)
		if err != nil {
			return err
		}
		w.Events = strings.Fields(events)
		if c.URL != nil {
			w.URL = *c.URL
		}
		if c.Events != nil {
			w.Events = ordered(c.Events)
		}
		if c.Secret != nil {
			if w.Secret = *c.Secret; w.Secret == "" {
				return errSecret
			}
			if sealed, err = b.key.Seal(w.Secret, "webhook of "+scope); err != nil {
				return err
			}
		}
		if c.Enabled != nil {
			enabled = 0
			if *c.Enabled {
				enabled = 1
			}
		}
		if err := w.check(); err != nil {
			return err
		}
		_, err = tx.ExecContext(ctx, `UPDATE webhooks SET url = $2, secret = $3, events = $4, failing = CASE enabled WHEN $5 THEN failing ELSE 0 END, enabled = $5 WHERE id = $1`,
			id, w.URL, sealed, " "+strings.Join(w.Events, " ")+" ", enabled)
		if err != nil {
			return err
		}
		return auth.Audit(ctx, tx, "webhook.change", scope, map[string]any{"webhook": id, "url": w.URL, "events": w.Events, "enabled": enabled == 1, "secret": c.Secret != nil})
	})
}

// ordered are events, each once.
func ordered(events []string) []string {
	events = slices.Sorted(slices.Values(events))
	return slices.Compact(events)
}

// Remove removes a webhook with its deliveries.
func (b *Book) Remove(ctx context.Context, scope string, id int64) error {
	return b.db.Update(ctx, func(tx *sql.Tx) error {
		if err := b.find(ctx, tx, scope, id); err != nil {
			return err
		}
		if _, err := tx.ExecContext(ctx, `DELETE FROM webhooks WHERE id = $1`, id); err != nil {
			return err
		}
		return auth.Audit(ctx, tx, "webhook.remove", scope, map[string]any{"webhook": id})
	})
}

func missing(scope string, id int64) error {
	return fmt.Errorf("webhook %d of %s: %w", id, scope, errdefs.ErrNotFound)
}

// deliveryPage is how many deliveries one call lists at most.
const deliveryPage = 100

// Deliveries lists the deliveries of a webhook, the newest first.
func (b *Book) Deliveries(ctx context.Context, scope string, id int64) (list []Delivery, err error) {
	err = b.db.View(ctx, func(tx *sql.Tx) error {
		list = []Delivery{}
		if err := b.find(ctx, tx, scope, id); err != nil {
			return err
		}
		return sqldb.Each(ctx, tx, `
			SELECT id, event, payload, created, attempts, state, status, answer, finished FROM deliveries
			WHERE webhook = $1 ORDER BY created DESC, id LIMIT $2`, []any{id, deliveryPage}, func(rows *sql.Rows) error {
			var d Delivery
			var payload string
			var created, finished int64
			err := rows.Scan(&d.ID, &d.Event, &payload, &created, &d.Attempts, &d.State, &d.Status, &d.Answer, &finished)
			d.Payload, d.Created, d.Finished = json.RawMessage(payload), unix(created), unix(finished)
			list = append(list, d)
			return err
		})
	})
	return list, err
}

// find fails unless the webhook is of the scope, which the caller administers.
func (b *Book) find(ctx context.Context, tx *sql.Tx, scope string, id int64) error {
	if err := policy.NeedScope(ctx, tx, scope, auth.Admin); err != nil {
		return err
	}
	var n int
	err := tx.QueryRowContext(ctx, `SELECT count(*) FROM webhooks WHERE scope = $1 AND id = $2`, scope, id).Scan(&n)
	if err == nil && n == 0 {
		err = missing(scope, id)
	}
	return err
}

// Redeliver sends a delivery once more, whatever became of it.
func (b *Book) Redeliver(ctx context.Context, scope string, id int64, delivery string) error {
	return b.db.Update(ctx, func(tx *sql.Tx) error {
		if err := b.find(ctx, tx, scope, id); err != nil {
			return err
		}
		res, err := tx.ExecContext(ctx, `UPDATE deliveries SET state = 'pending' WHERE webhook = $1 AND id = $2`, id, delivery)
		if err != nil {
			return err
		}
		if n, err := res.RowsAffected(); err != nil || n == 0 {
			return errors.Join(err, fmt.Errorf("delivery %.40q of webhook %d: %w", delivery, id, errdefs.ErrNotFound))
		}
		if err := auth.Audit(ctx, tx, "webhook.redeliver", scope, map[string]any{"webhook": id, "delivery": delivery}); err != nil {
			return err
		}
		return jobs.Add(ctx, tx, jobs.Job{Kind: deliverJob, Key: delivery})
	})
}

// Ping sends a delivery of the event "ping", which shows whether the webhook works.
func (b *Book) Ping(ctx context.Context, scope string, id int64) error {
	return b.db.Update(ctx, func(tx *sql.Tx) error {
		if err := b.find(ctx, tx, scope, id); err != nil {
			return err
		}
		return enqueue(ctx, tx, id, Payload{Event: "ping", Action: "ping", At: time.Now(), Actor: auth.From(ctx).Name})
	})
}
