package webhook

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"database/sql"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strconv"
	"strings"
	"syscall"
	"time"

	"strake/internal/address"
	"strake/internal/auth"
	"strake/internal/jobs"
)

// Sender sends deliveries. It opens no connection to an address that is not of
// the public internet, but those allowed: the address itself is looked at when the
// connection is made, so no name that resolves to another one later leads there.
// It follows no redirect and uses no proxy.
type Sender struct {
	Book    *Book
	Allowed []netip.Prefix // of internal networks that webhooks may lead to
	Timeout time.Duration  // of one attempt; 0 is 10 seconds
	Backoff time.Duration  // after the first failure; 0 is 10 seconds
	GiveUp  time.Duration  // after so long without a success a webhook is disabled; 0 is 3 days
}

// attempts is how often a delivery is tried: over about a day.
const attempts = 14

const (
	maxAnswer    = 1 << 10             // bytes of an answer that are kept
	keepFor      = 30 * 24 * time.Hour // deliveries
	defaultLimit = 10 * time.Second
	defaultLong  = 3 * 24 * time.Hour
)

// Handlers are the jobs that send.
func (s *Sender) Handlers() map[string]jobs.Handler {
	timeout := s.Timeout
	if timeout == 0 {
		timeout = defaultLimit
	}
	backoff := s.Backoff
	if backoff == 0 {
		backoff = 10 * time.Second
	}
	client := &http.Client{
		Timeout:       timeout,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		Transport: &http.Transport{
			DialContext:           (&net.Dialer{Timeout: timeout, Control: s.control}).DialContext,
			MaxIdleConns:          16,
			IdleConnTimeout:       30 * time.Second,
			ResponseHeaderTimeout: timeout,
			TLSHandshakeTimeout:   timeout,
			ForceAttemptHTTP2:     true,
		},
	}
	return map[string]jobs.Handler{deliverJob: {
		Do:          func(ctx context.Context, job jobs.Job) error { return s.do(ctx, client, job) },
		Concurrency: 4, Attempts: attempts, Backoff: backoff, Timeout: timeout + 30*time.Second,
	}}
}

// errAddress is of a connection that was not made.
var errAddress = errors.New("the address is not of the public internet")

// control refuses a connection by its address.
func (s *Sender) control(_, addr string, _ syscall.RawConn) error {
	ap, err := netip.ParseAddrPort(addr)
	if err != nil {
		return err
	}
	ip := ap.Addr().Unmap()
	for _, p := range s.Allowed {
		if p.Contains(ip) {
			return nil
		}
	}
	if address.LinkLocal(ip) || address.Private(ip) {
		return errAddress
	}
	return nil
}

// task is a delivery to send.
type task struct {
	webhook                   int64
	scope, url, secret, state string
	event, payload            string
	enabled, failing          int64
}

func (s *Sender) do(ctx context.Context, client *http.Client, job jobs.Job) error {
	var t task
	err := s.Book.db.View(ctx, func(tx *sql.Tx) error {
		return tx.QueryRowContext(ctx, `
			SELECT w.id, w.scope, w.url, w.secret, w.enabled, w.failing, d.event, d.payload, d.state
			FROM deliveries d JOIN webhooks w ON w.id = d.webhook WHERE d.id = $1`, job.Key).
			Scan(&t.webhook, &t.scope, &t.url, &t.secret, &t.enabled, &t.failing, &t.event, &t.payload, &t.state)
	})
	if errors.Is(err, sql.ErrNoRows) { // removed meanwhile
		return nil
	}
	if err != nil {
		return err
	}
	if t.state != "pending" {
		return nil
	}
	if t.enabled == 0 && t.event != "ping" {
		return s.note(ctx, job, t, 0, "the webhook is disabled", "failed")
	}
	status, answer, err := s.send(ctx, client, job.Key, t)
	if ctx.Err() != nil {
		return ctx.Err() // the server ends; this was no attempt
	}
	if err == nil {
		return s.note(ctx, job, t, status, answer, "delivered")
	}
	state := "pending"
	if job.Attempts >= attempts || t.event == "ping" || errors.Is(err, errAddress) {
		state = "failed"
	}
	if answer == "" {
		answer = reason(err)
	}
	if nerr := s.note(ctx, job, t, status, answer, state); nerr != nil || state == "failed" {
		return nerr
	}
	return err
}

// reason is an error as the owner of a webhook may read it: nothing of what is
// behind a name in the Hub's own network.
func reason(err error) string {
	var netErr net.Error
	switch {
	case errors.Is(err, errAddress):
		return errAddress.Error()
	case errors.As(err, &netErr) && netErr.Timeout():
		return "no answer in time"
	case errors.Is(err, syscall.ECONNREFUSED):
		return "connection refused"
	}
	var dns *net.DNSError
	if errors.As(err, &dns) {
		return "the name does not resolve"
	}
	return "the connection failed"
}

// Sign returns the signature of a delivery: the HMAC-SHA256, in hexadecimal
// digits, of the time (Unix seconds), a dot and the body.
func Sign(secret string, at int64, body []byte) string {
	mac := hmac.New(sha256.New, []byte(secret))
	_, _ = fmt.Fprintf(mac, "%d.", at) // a hash never fails
	_, _ = mac.Write(body)
	return hex.EncodeToString(mac.Sum(nil))
}

// send makes one attempt.
func (s *Sender) send(ctx context.Context, client *http.Client, id string, t task) (status int, answer string, err error) {
	secret, err := s.Book.key.Open(t.secret, "webhook of "+t.scope)
	if err != nil {
		return 0, "", err
	}
	body := []byte(t.payload)
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, t.url, bytes.NewReader(body))
	if err != nil {
		return 0, "", err
	}
	at := time.Now().Unix()
	for name, value := range map[string]string{
		"Content-Type": "application/json", "User-Agent": "strake-hub",
		"X-Strake-Event": t.event, "X-Strake-Delivery": id,
		"X-Strake-Timestamp": strconv.FormatInt(at, 10), "X-Strake-Signature": "sha256=" + Sign(secret, at, body),
	} {
		req.Header.Set(name, value)
	}
	resp, err := client.Do(req)
	if err != nil {
		return 0, "", fmt.Errorf("send: %w", err)
	}
	b, rerr := io.ReadAll(io.LimitReader(resp.Body, maxAnswer))
	cerr := resp.Body.Close()
	answer = strings.ToValidUTF8(strings.ReplaceAll(string(b), "\x00", ""), "?")
	if resp.StatusCode < 200 || resp.StatusCode > 299 {
		return resp.StatusCode, answer, fmt.Errorf("answered %d", resp.StatusCode)
	}
	_ = errors.Join(rerr, cerr) // it was taken; the rest of the answer does not matter
	return resp.StatusCode, answer, nil
}

// note writes down what became of an attempt, and disables a webhook that failed
// for long.
func (s *Sender) note(ctx context.Context, job jobs.Job, t task, status int, answer, state string) error {
	giveUp := s.GiveUp
	if giveUp == 0 {
		giveUp = defaultLong
	}
	return s.Book.db.Update(auth.With(ctx, auth.Identity{System: true}), func(tx *sql.Tx) error {
		now := time.Now()
		_, err := tx.ExecContext(ctx, `UPDATE deliveries SET attempts = attempts + 1, state = $2, status = $3, answer = $4, finished = $5 WHERE id = $1`,
			job.Key, state, status, answer, now.Unix())
		if err != nil {
			return fmt.Errorf("note delivery: %w", err)
		}
		if _, err := tx.ExecContext(ctx, `DELETE FROM deliveries WHERE webhook = $1 AND created < $2`, t.webhook, now.Add(-keepFor).Unix()); err != nil {
			return err
		}
		if state == "delivered" {
			_, err := tx.ExecContext(ctx, `UPDATE webhooks SET failing = 0 WHERE id = $1 AND failing <> 0`, t.webhook)
			return err
		}
		if t.enabled == 0 || t.event == "ping" {
			return nil
		}
		if t.failing == 0 || now.Sub(time.Unix(t.failing, 0)) < giveUp {
			_, err := tx.ExecContext(ctx, `UPDATE webhooks SET failing = $2 WHERE id = $1 AND failing = 0`, t.webhook, now.Unix())
			return err
		}
		if _, err := tx.ExecContext(ctx, `UPDATE webhooks SET enabled = 0 WHERE id = $1`, t.webhook); err != nil {
			return err
		}
		return auth.Audit(ctx, tx, "webhook.disable", t.scope, map[string]any{"webhook": t.webhook, "reason": "it failed for " + giveUp.String()})
	})
}
