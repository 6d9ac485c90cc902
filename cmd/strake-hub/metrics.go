package main

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// metrics are what Prometheus reads.
type metrics struct {
	registry *prometheus.Registry
	requests *prometheus.CounterVec
	took     *prometheus.HistogramVec
	current  prometheus.Gauge
	sent     prometheus.Counter
}

func newMetrics() *metrics {
	m := &metrics{
		registry: prometheus.NewRegistry(),
		requests: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "strake_hub_requests_total", Help: "Requests that were answered, by kind of path, method and status.",
		}, []string{"kind", "method", "code"}),
		took: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "strake_hub_request_seconds", Help: "How long requests took.", Buckets: []float64{.001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 60},
		}, []string{"kind"}),
		current: prometheus.NewGauge(prometheus.GaugeOpts{Name: "strake_hub_requests_in_flight", Help: "Requests that are being answered."}),
		sent:    prometheus.NewCounter(prometheus.CounterOpts{Name: "strake_hub_body_bytes_total", Help: "Bytes of answers' bodies."}),
	}
	m.registry.MustRegister(m.requests, m.took, m.current, m.sent, collectors.NewGoCollector(),
		collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}), collectors.NewBuildInfoCollector())
	return m
}

// observe counts a request. Names of repositories and people are no labels:
// there is no end of them.
func (m *metrics) observe(r *http.Request, status int, bytes int64, took time.Duration) {
	method := r.Method
	switch method {
	case "GET", "HEAD", "POST", "PUT", "PATCH", "DELETE":
	default:
		method = "other"
	}
	kind := kindOf(r.URL.Path)
	m.requests.WithLabelValues(kind, method, strconv.Itoa(status)).Inc()
	m.took.WithLabelValues(kind).Observe(took.Seconds())
	m.sent.Add(float64(bytes))
}

// kindOf is what a path is about.
func kindOf(path string) string {
	switch {
	case strings.HasPrefix(path, "/api/"):
		return "api"
	case path == "/token":
		return "token"
	case path == "/livez" || path == "/readyz" || path == "/metrics":
		return "health"
	case !strings.HasPrefix(path, "/v2"):
		return "page"
	case strings.Contains(path, "/blobs/uploads"):
		return "upload"
	case strings.Contains(path, "/blobs/"):
		return "blob"
	case strings.Contains(path, "/manifests/"):
		return "manifest"
	case strings.HasSuffix(path, "/tags/list"):
		return "tags"
	case strings.Contains(path, "/referrers/"):
		return "referrers"
	}
	return "registry"
}

func (m *metrics) handler() http.Handler {
	return promhttp.HandlerFor(m.registry, promhttp.HandlerOpts{})
}

// listenMetrics serves /metrics, /livez and nothing else at an address of its
// own, which is not for the world.
func (w *server) listenMetrics(ctx context.Context, addr string) (stop func() error, err error) {
	listener, err := (&net.ListenConfig{}).Listen(ctx, "tcp", addr)
	if err != nil {
		return nil, fmt.Errorf("listen for metrics: %w", err)
	}
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", w.metrics.handler())
	mux.HandleFunc("GET /livez", w.live)
	hs := newServer(mux, usualPace, w.log)
	w.log.Info("metrics", "addr", listener.Addr().String())
	go func() {
		if err := hs.Serve(listener); err != nil && ctx.Err() == nil {
			w.log.Error("serve metrics", "err", err)
		}
	}()
	return hs.Close, nil
}
