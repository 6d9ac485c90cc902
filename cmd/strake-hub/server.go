package main

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"sync/atomic"
	"time"

	"strake/internal/sqldb"
)

// server is the server's own part: its log, its health, its end.
type server struct {
	log      *slog.Logger
	metrics  *metrics
	draining atomic.Bool
}

// run serves until ctx ends. Then /readyz fails; after delay no new connection
// is taken, and requests under way have drainTime to finish.
func (w *server) run(ctx context.Context, hs *http.Server, listener net.Listener, delay time.Duration) error {
	done := make(chan error, 1)
	go func() { done <- hs.Serve(listener) }()
	select {
	case err := <-done:
		return fmt.Errorf("serve: %w", err)
	case <-ctx.Done():
	}
	w.draining.Store(true)
	w.log.Info("shutting down", "delay", delay)
	time.Sleep(delay)
	drain, cancel := context.WithTimeout(context.WithoutCancel(ctx), drainTime)
	defer cancel()
	if err := hs.Shutdown(drain); err != nil {
		return errors.Join(fmt.Errorf("shut down: %w", err), hs.Close())
	}
	return nil
}

// live says that the process works at all.
func (w *server) live(rw http.ResponseWriter, _ *http.Request) { plain(rw, http.StatusOK, "ok") }

// ready says whether requests are welcome here: the database answers, and the
// server is not about to end.
func (w *server) ready(db *sqldb.DB) http.HandlerFunc {
	return func(rw http.ResponseWriter, r *http.Request) {
		ctx, cancel := context.WithTimeout(r.Context(), 5*time.Second)
		defer cancel()
		one := 0
		switch err := db.Get(ctx, `SELECT 1`, nil, &one); {
		case w.draining.Load():
			plain(rw, http.StatusServiceUnavailable, "shutting down")
		case err != nil:
			w.log.Error("not ready", "err", err)
			plain(rw, http.StatusServiceUnavailable, "the database does not answer")
		default:
			plain(rw, http.StatusOK, "ok")
		}
	}
}

func plain(w http.ResponseWriter, status int, text string) {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(status)
	_, _ = io.WriteString(w, text+"\n") // the client is gone: nobody to tell
}

// watch gives each request an ID and writes a line about it. Query strings and
// headers are left out: they may hold secrets.
func (w *server) watch(next http.Handler) http.Handler {
	return http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		start, id := time.Now(), requestID(r)
		rw.Header().Set("X-Request-Id", id)
		s := &statusWriter{ResponseWriter: rw, status: http.StatusOK}
		w.metrics.current.Inc()
		defer func() {
			w.metrics.current.Dec()
			w.metrics.observe(r, s.status, s.bytes, time.Since(start))
			w.log.Info("request", "id", id, "method", r.Method, "path", r.URL.Path, "status", s.status,
				"remote", r.RemoteAddr, "agent", r.UserAgent(), "took", time.Since(start).Round(time.Microsecond))
		}()
		next.ServeHTTP(s, r)
	})
}

// requestID is the ID that a proxy gave the request, where it is of a sane form,
// or a new one.
func requestID(r *http.Request) string {
	id := r.Header.Get("X-Request-Id")
	if len(id) < 8 || len(id) > 64 || strings.Trim(id, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_") != "" {
		id = strings.ToLower(rand.Text()[:16])
	}
	return id
}

// statusWriter keeps the status, and the way to sendfile open.
type statusWriter struct {
	http.ResponseWriter
	status int
	bytes  int64
}

func (w *statusWriter) Write(p []byte) (int, error) {
	n, err := w.ResponseWriter.Write(p)
	w.bytes += int64(n)
	return n, err
}

func (w *statusWriter) WriteHeader(status int) {
	w.status = status
	w.ResponseWriter.WriteHeader(status)
}

// ReadFrom implements io.ReaderFrom.
func (w *statusWriter) ReadFrom(r io.Reader) (int64, error) {
	n, err := io.Copy(w.ResponseWriter, r)
	w.bytes += n
	return n, err
}

// Unwrap is for http.ResponseController.
func (w *statusWriter) Unwrap() http.ResponseWriter { return w.ResponseWriter }
