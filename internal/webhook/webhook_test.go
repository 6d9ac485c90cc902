package webhook_test

import (
	"bytes"
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"strake/internal/auth"
	"strake/internal/hub"
	"strake/internal/hubdb"
	"strake/internal/jobs"
	"strake/internal/seal"
	"strake/internal/sqldb"
	"strake/internal/webhook"
)

// site is a Hub's webhooks, of which ann has some.
type site struct {
	t        *testing.T
	book     *webhook.Book
	db       *sqldb.DB
	ann, bob context.Context //nolint:containedctx // of the test
}

func open(t *testing.T, sender webhook.Sender) *site {
	t.Helper()
	db, err := hubdb.Open(t.Context(), filepath.Join(t.TempDir(), "hub.db"))
	if err != nil {
		t.Fatal(err)
	}
	key, err := seal.Load(filepath.Join(t.TempDir(), "key"))
	if err != nil {
		t.Fatal(err)
	}
	s := &site{t: t, db: db, book: webhook.New(db, key)}
	s.ann, s.bob = auth.With(t.Context(), auth.Identity{Account: 1, Name: "ann"}), auth.With(t.Context(), auth.Identity{Account: 2, Name: "bob"})
	s.update(func(tx *sql.Tx) error {
		_, err := tx.ExecContext(t.Context(), `INSERT INTO accounts (id, name, created) VALUES (1, 'ann', 1), (2, 'bob', 1)`)
		return err
	})
	sender.Book = s.book
	queue := jobs.New(db, jobs.Options{Handlers: sender.Handlers(), Poll: 10 * time.Millisecond})
	ctx, cancel := context.WithCancel(t.Context())
	var ended sync.WaitGroup
	ended.Go(func() { queue.Run(ctx) })
	t.Cleanup(func() {
		cancel()
		ended.Wait()
		if err := db.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

func (s *site) update(run func(tx *sql.Tx) error) {
	s.t.Helper()
	if err := s.db.Update(s.t.Context(), run); err != nil {
		s.t.Fatal(err)
	}
}

// happen tells the webhooks of a change.
func (s *site) happen(c hub.Change) {
	s.t.Helper()
	s.update(func(tx *sql.Tx) error { return s.book.Hook(s.ann, tx, c) })
}

func (s *site) add(url string, events ...string) webhook.Webhook {
	s.t.Helper()
	w, err := s.book.Add(s.ann, webhook.Webhook{Scope: "ann/*", URL: url, Events: events})
	if err != nil {
		s.t.Fatal(err)
	}
	return w
}

// last waits until the last delivery of a webhook is as wanted.
func (s *site) last(w webhook.Webhook, what string, want func(d webhook.Delivery) bool) webhook.Delivery {
	s.t.Helper()
	for deadline := time.Now().Add(15 * time.Second); ; time.Sleep(5 * time.Millisecond) {
		list, err := s.book.Deliveries(s.ann, w.Scope, w.ID)
		if err != nil {
			s.t.Fatal(err)
		}
		if len(list) > 0 && want(list[0]) {
			return list[0]
		}
		if time.Now().After(deadline) {
			s.t.Fatalf("%s: %+v", what, list)
		}
	}
}

var loopback = []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}

// What happens is sent, signed, and sent again until it is taken.
func TestDelivery(t *testing.T) {
	type request struct {
		header http.Header
		body   []byte
	}
	got := make(chan request, 16)
	var mu sync.Mutex
	failures := 2
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		b, _ := io.ReadAll(r.Body)
		got <- request{r.Header.Clone(), b}
		mu.Lock()
		defer mu.Unlock()
		if failures--; failures >= 0 {
			http.Error(w, "not now", http.StatusServiceUnavailable)
			return
		}
		fmt.Fprint(w, strings.Repeat("thanks ", 1000))
	}))
	defer server.Close()
	s := open(t, webhook.Sender{Allowed: loopback, Backoff: time.Millisecond})
	w := s.add(server.URL, "push", "tag")
	s.happen(hub.Change{Kind: hub.TagDeleted, Repository: "ann/app", Tag: "v1"}) // not asked for
	s.happen(hub.Change{Kind: hub.TagSet, Repository: "bob/app", Tag: "v1"})     // not of the scope
	desc := ocispec.Descriptor{MediaType: "m", Digest: "sha256:1", Size: 7}
	s.happen(hub.Change{Kind: hub.TagSet, Repository: "ann/app", Tag: "v1", Desc: desc, Old: "sha256:0", Held: true})
	for range 3 {
		r := <-got
		at, err := strconv.ParseInt(r.header.Get("X-Strake-Timestamp"), 10, 64)
		if err != nil || time.Since(time.Unix(at, 0)).Abs() > time.Minute {
			t.Errorf("time %v, %v", at, err)
		}
		if want := "sha256=" + webhook.Sign(w.Secret, at, r.body); r.header.Get("X-Strake-Signature") != want {
			t.Errorf("signature %s, want %s", r.header.Get("X-Strake-Signature"), want)
		}
		var p webhook.Payload
		if err := json.Unmarshal(r.body, &p); err != nil || p.Repository != "ann/app" || p.Tag != "v1" || p.Digest != "sha256:1" || !p.Held || p.Actor != "ann" || p.ID != r.header.Get("X-Strake-Delivery") {
			t.Errorf("payload %s, %v", r.body, err)
		}
	}
	d := s.last(w, "delivered", func(d webhook.Delivery) bool { return d.State == "delivered" })
	if d.Attempts != 3 || d.Status != 200 || len(d.Answer) != 1024 {
		t.Errorf("%+v", d)
	}
	if err := s.book.Redeliver(s.ann, w.Scope, w.ID, d.ID); err != nil {
		t.Fatal(err)
	}
	if r := <-got; r.header.Get("X-Strake-Delivery") != d.ID {
		t.Error("redelivered something else")
	}
	if err := s.book.Ping(s.ann, w.Scope, w.ID); err != nil {
		t.Fatal(err)
	}
	if r := <-got; r.header.Get("X-Strake-Event") != "ping" {
		t.Error("no ping")
	}
	s.update(func(tx *sql.Tx) error {
		var secret string
		err := tx.QueryRowContext(t.Context(), `SELECT secret FROM webhooks`).Scan(&secret)
		if strings.Contains(secret, w.Secret) {
			t.Error("the secret is in the database as it is")
		}
		return err
	})
	list, err := s.book.List(s.ann, "ann/*")
	if err != nil || len(list) != 1 || list[0].Secret != "" {
		t.Errorf("listed %+v, %v", list, err)
	}
	if err := s.book.Remove(s.ann, "ann/*", w.ID); err != nil {
		t.Fatal(err)
	}
}

// No webhook leads into the Hub's own network: by address, by name, by redirect.
func TestForgery(t *testing.T) {
	reached := make(chan string, 16)
	inner := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { reached <- r.URL.Path }))
	defer inner.Close()
	s := open(t, webhook.Sender{Backoff: time.Millisecond})
	port := inner.Listener.Addr().(*net.TCPAddr).Port
	for _, host := range []string{"127.0.0.1", "localhost", "[::1]", "[::ffff:127.0.0.1]", "0.0.0.0", "169.254.169.254", "10.0.0.1", "2130706433", "0x7f.1"} {
		w := s.add(fmt.Sprintf("http://%s:%d/", host, port), "push")
		s.happen(hub.Change{Kind: hub.ManifestPut, Repository: "ann/app"})
		s.last(w, host, func(d webhook.Delivery) bool { return d.Attempts > 0 && d.State != "delivered" && d.Status == 0 })
		if err := s.book.Remove(s.ann, w.Scope, w.ID); err != nil {
			t.Fatal(err)
		}
	}
	for _, url := range []string{"", "ftp://x/", "file:///etc/passwd", "http://u:p@example.com/", "http:///x", "//x", "http://" + strings.Repeat("x", 3000)} {
		if _, err := s.book.Add(s.ann, webhook.Webhook{Scope: "ann/*", URL: url, Events: []string{"push"}}); !errdefs.IsInvalidArgument(err) {
			t.Errorf("%.30q: %v", url, err)
		}
	}
	if len(reached) > 0 {
		t.Errorf("%d requests came through", len(reached))
	}
}

func TestRedirect(t *testing.T) {
	reached := make(chan bool, 16)
	inner := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { reached <- true }))
	defer inner.Close()
	outer := httptest.NewServer(http.RedirectHandler(inner.URL, http.StatusTemporaryRedirect))
	defer outer.Close()
	s := open(t, webhook.Sender{Allowed: loopback, Backoff: time.Hour})
	w := s.add(outer.URL, "push")
	s.happen(hub.Change{Kind: hub.ManifestPut, Repository: "ann/app"})
	s.last(w, "redirect", func(d webhook.Delivery) bool { return d.Attempts == 1 && d.Status == 307 && d.State == "pending" })
	if len(reached) > 0 {
		t.Error("a redirect was followed")
	}
}

// What fails for long is disabled, and told of it in the audit log; enabled it is
// told again.
func TestDisabled(t *testing.T) {
	server := httptest.NewServer(http.NotFoundHandler())
	defer server.Close()
	s := open(t, webhook.Sender{Allowed: loopback, Backoff: 50 * time.Millisecond, GiveUp: time.Nanosecond})
	w := s.add(server.URL, "push")
	s.happen(hub.Change{Kind: hub.ManifestPut, Repository: "ann/app"})
	s.last(w, "given up", func(d webhook.Delivery) bool { return d.State == "failed" && d.Answer == "the webhook is disabled" })
	s.happen(hub.Change{Kind: hub.ManifestPut, Repository: "ann/app"})
	list, err := s.book.Deliveries(s.ann, w.Scope, w.ID)
	if err != nil || len(list) != 1 {
		t.Errorf("a disabled webhook is told: %v, %v", list, err)
	}
	log, err := auth.AuditLog(auth.With(t.Context(), auth.Identity{System: true}), s.db, auth.AuditFilter{Action: "webhook.disable", Limit: 9})
	if err != nil || len(log) != 1 || log[0].Actor != "" {
		t.Errorf("audit log %+v, %v", log, err)
	}
	yes := true
	if err := s.book.Change(s.ann, w.Scope, w.ID, webhook.Change{Enabled: &yes}); err != nil {
		t.Fatal(err)
	}
	if list, err := s.book.List(s.ann, w.Scope); err != nil || !list[0].Enabled || !list[0].Failing.IsZero() {
		t.Errorf("enabled: %+v, %v", list, err)
	}
}

// A webhook that was changed leads elsewhere, is told of other events, and its
// deliveries have another signature; what does not fit changes nothing.
func TestChange(t *testing.T) {
	s := open(t, webhook.Sender{Allowed: loopback})
	received := make(chan *http.Request, 1)
	server := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		b, err := io.ReadAll(r.Body)
		if err != nil {
			t.Error(err)
		}
		r.Body = io.NopCloser(bytes.NewReader(b))
		received <- r
	}))
	defer server.Close()
	w := s.add("https://example.com/", "push")
	url, secret, short, bad := server.URL, "a secret of its owner", "short", "ftp://example.com"
	for _, c := range []webhook.Change{{URL: &bad}, {Secret: &short}, {Secret: new(string)}, {Events: []string{}}, {Events: []string{"sleep"}}} {
		if err := s.book.Change(s.ann, w.Scope, w.ID, c); !errdefs.IsInvalidArgument(err) {
			t.Errorf("%+v: %v", c, err)
		}
	}
	if err := s.book.Change(s.ann, w.Scope, w.ID, webhook.Change{URL: &url, Secret: &secret, Events: []string{"tag", "delete", "tag"}}); err != nil {
		t.Fatal(err)
	}
	list, err := s.book.List(s.ann, w.Scope)
	if err != nil || len(list) != 1 || list[0].URL != url || fmt.Sprint(list[0].Events) != "[delete tag]" || !list[0].Enabled {
		t.Errorf("changed: %+v, %v", list, err)
	}
	s.happen(hub.Change{Kind: hub.ManifestPut, Repository: "ann/app"})
	s.happen(hub.Change{Kind: hub.TagDeleted, Repository: "ann/app", Tag: "v1"})
	r := <-received
	at, err := strconv.ParseInt(r.Header.Get("X-Strake-Timestamp"), 10, 64)
	body, err2 := io.ReadAll(r.Body)
	if err := errors.Join(err, err2); err != nil || r.Header.Get("X-Strake-Event") != "delete" || r.Header.Get("X-Strake-Signature") != "sha256="+webhook.Sign(secret, at, body) {
		t.Errorf("%v: %v, %s", err, r.Header, body)
	}
}

// A webhook is its scope's owner's.
func TestOwners(t *testing.T) {
	s := open(t, webhook.Sender{})
	w := s.add("https://example.com/", "push")
	for _, c := range []struct {
		ctx  context.Context
		want func(error) bool
	}{{s.bob, errdefs.IsPermissionDenied}, {t.Context(), errdefs.IsUnauthorized}} {
		_, aerr := s.book.Add(c.ctx, webhook.Webhook{Scope: "ann/*", URL: "https://example.com/", Events: []string{"push"}})
		_, lerr := s.book.List(c.ctx, "ann/*")
		_, derr := s.book.Deliveries(c.ctx, "ann/*", w.ID)
		for i, err := range []error{
			aerr, lerr, derr, s.book.Remove(c.ctx, "ann/*", w.ID), s.book.Change(c.ctx, "ann/*", w.ID, webhook.Change{}),
			s.book.Ping(c.ctx, "ann/*", w.ID), s.book.Redeliver(c.ctx, "ann/*", w.ID, "x"),
		} {
			if !c.want(err) {
				t.Errorf("call %d: %v", i, err)
			}
		}
	}
	// Another's webhook is not reached through a scope of one's own.
	if err := s.book.Remove(s.bob, "bob/*", w.ID); !errdefs.IsNotFound(err) {
		t.Errorf("removed through another scope: %v", err)
	}
	for range 9 {
		s.add("https://example.com/", "push")
	}
	if _, err := s.book.Add(s.ann, webhook.Webhook{Scope: "ann/*", URL: "https://example.com/", Events: []string{"push"}}); !errdefs.IsResourceExhausted(err) {
		t.Errorf("an eleventh webhook: %v", err)
	}
}
