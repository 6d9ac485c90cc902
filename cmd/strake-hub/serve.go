package main

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/signal"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"strake/internal/auth"
	"strake/internal/catalog"
	"strake/internal/gate"
	"strake/internal/hub"
	"strake/internal/hubapi"
	"strake/internal/oidc"
	"strake/internal/registry"
	"strake/internal/scandb"
	"strake/internal/sqldb"
	"strake/internal/web"
)

// drainTime is how long requests may go on after a signal.
const drainTime = 30 * time.Second

// options are the flags of serve.
type options struct {
	place
	addr, metricsAddr string
	url, config       string
	cert, key         string
	keyFile           string
	webhookNetworks   string
	trustedProxies    string
	logFormat         string
	logLevel          slog.Level
	drainDelay        time.Duration
	readOnly          bool
	noDelete          bool
	noRedirect        bool
	gcInterval        time.Duration
	gcGrace           time.Duration
	sparse            bool
	feed              string // of vulnerability data
}

func prepareServe(f *flag.FlagSet) action {
	var o options
	o.define(f)
	f.StringVar(&o.addr, "addr", "127.0.0.1:5000", "`address` to listen on; port 0 takes a free one. Without accounts it is a loopback address")
	f.StringVar(&o.metricsAddr, "metrics-addr", "", "`address` that serves /metrics; empty: administrators alone get it, at the first")
	f.StringVar(&o.config, "config", "", "`file` of the configuration: OIDC, limits (default hub.toml in the data directory, where it is)")
	f.StringVar(&o.url, "url", "", "`URL` by which clients reach the Hub, where a proxy is before it (default as requests say)")
	f.StringVar(&o.cert, "tls-cert", "", "`file` of the certificate, in PEM; read again when it changes, and at SIGHUP (default what init said)")
	f.StringVar(&o.key, "tls-key", "", "`file` of the certificate's key")
	f.StringVar(&o.keyFile, "key-file", "", "`file` of the key that seals secrets in the database; replicas share it (default secret.key in --data, made if need be)")
	f.StringVar(&o.webhookNetworks, "webhook-networks", "", "internal `networks` in CIDR form, commas between them, that webhooks may lead to")
	f.StringVar(&o.trustedProxies, "trusted-proxy", "", "`networks` in CIDR form, commas between them, of proxies whose X-Forwarded-For says who asks")
	f.StringVar(&o.logFormat, "log-format", "text", "`format` of the log: text or json")
	f.TextVar(&o.logLevel, "log-level", slog.LevelInfo, "least `level` to log: debug, info, warn or error; requests are told at info")
	f.DurationVar(&o.drainDelay, "drain-delay", 0, "`duration` that /readyz fails before connections end, for load balancers to notice")
	f.StringVar(&o.feed, "vulnerabilities", "", "dump, directory or `URL` of vulnerability data that is read once a day; osv is OSV's server (default none)")
	f.BoolVar(&o.noDelete, "no-delete", false, "Refuse to delete tags, manifests and blobs")
	f.BoolVar(&o.sparse, "sparse", false, "Accept manifests whose blobs and manifests are not here")
	f.BoolVar(&o.readOnly, "read-only", false, "Refuse pushes and deletions")
	f.BoolVar(&o.noRedirect, "no-redirect", false, "Send blobs of --storage through the Hub; clients get the bucket's URLs otherwise")
	f.DurationVar(&o.gcInterval, "gc-interval", time.Hour, "`duration` between garbage collections of all replicas together; 0: none, see 'strake-hub gc'")
	f.DurationVar(&o.gcGrace, "gc-grace", hub.DefaultGrace, "`duration` that a blob which no manifest names stays")
	return func(ctx context.Context, s streams, _ []string) error {
		if err := o.check(); err != nil {
			return err
		}
		if o.gcGrace <= 0 || o.gcInterval < 0 {
			return usageError{errors.New("--gc-grace is more than 0, --gc-interval not less")}
		}
		log, err := newLog(s, o.logFormat, o.logLevel)
		if err != nil {
			return err
		}
		return serve(ctx, o, s, log)
	}
}

// newLog returns the log in one of its formats.
func newLog(s streams, format string, level slog.Level) (*slog.Logger, error) {
	opts := &slog.HandlerOptions{Level: level}
	switch format {
	case "text":
		return slog.New(slog.NewTextHandler(s.err, opts)), nil
	case "json":
		return slog.New(slog.NewJSONHandler(s.err, opts)), nil
	}
	return nil, usageError{fmt.Errorf("--log-format %q: text or json", format)}
}

// serve serves until ctx ends and the requests under way have finished.
func serve(ctx context.Context, o options, s streams, log *slog.Logger) (err error) {
	trusted, err := networks("--trusted-proxy", o.trustedProxies)
	if err != nil {
		return err
	}
	where := o.hub()
	where.NoRedirect, where.Sparse = o.noRedirect, o.sparse
	where.Hooks = hub.Hooks{scanHook}
	h, err := hub.Open(ctx, where)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, h.Close()) }()
	people, err := initialised(ctx, hub.DB(h))
	if err != nil {
		return err
	}
	ctx, ended := untilInitialised(ctx, people, hub.DB(h))
	defer func() { err = errors.Join(err, ended()) }()
	var cert *certificate
	if people {
		if cert, err = o.certificate(ctx, h, log); err != nil {
			return err
		}
	} else if !loopback(o.addr) {
		return fmt.Errorf("listen on %s: this Hub has no accounts, so anybody could write to it: 'strake-hub init --data %s' makes the first, "+
			"or listen on a loopback address", o.addr, o.data)
	}
	listener, err := (&net.ListenConfig{}).Listen(ctx, "tcp", o.addr)
	if err != nil {
		return fmt.Errorf("listen: %w", err)
	}
	defer func() { _ = listener.Close() }() // the server closes it, where that began
	scheme := "http"
	if people {
		scheme, listener = "https", tls.NewListener(listener, withProtocols(cert.config()))
		if cert.own != nil && o.url == "" {
			if err := comparePort(ctx, hub.DB(h), listener.Addr(), log); err != nil {
				return err
			}
		}
	}
	if o.feed != "" {
		if err := scandb.Schedule(ctx, hub.DB(h), scandb.Feed{From: feedOf(o.feed), Every: refreshEvery}); err != nil {
			return err
		}
	}
	site, err := newSite(o, h, people, log)
	if err != nil {
		return err
	}
	if site.parts, err = site.newParts(ctx); err != nil {
		return err
	}
	handler, err := site.routes()
	if err != nil {
		return err
	}
	stopMetrics, err := site.serveMetrics(ctx, o.metricsAddr)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, stopMetrics()) }()
	stop := site.start(ctx)
	defer stop()
	if o.gcInterval > 0 && !o.readOnly { // not before all hooks are attached
		stop := o.collect(ctx, h, log)
		defer stop()
	}
	fmt.Fprintf(s.out, "strake-hub: serving %s://%s\n", scheme, listener.Addr())
	return site.server.run(ctx, newServer(proxies(trusted).forwarded(site.server.watch(handler)), usualPace, log), listener, o.drainDelay)
}

// errInitialised ends a Hub that asks for no logins when there is somebody to ask.
var errInitialised = errors.New("this Hub has accounts now, and was serving without: start it again, and it asks for logins")

// untilInitialised ends the context of a Hub without accounts when init makes the
// first, so that it never serves on without logins. ended tells whether that was
// so, and frees what looks for it.
func untilInitialised(ctx context.Context, people bool, db *sqldb.DB) (_ context.Context, ended func() error) {
	if people {
		return ctx, func() error { return nil }
	}
	ctx, cancel := context.WithCancelCause(ctx)
	var looking sync.WaitGroup
	looking.Go(func() {
		for ctx.Err() == nil {
			if made, err := initialised(ctx, db); err == nil && made {
				cancel(errInitialised)
			}
			select {
			case <-ctx.Done():
			case <-time.After(lookEvery):
			}
		}
	})
	return ctx, func() error {
		cancel(nil)
		looking.Wait()
		if err := context.Cause(ctx); errors.Is(err, errInitialised) {
			return err
		}
		return nil
	}
}

// lookEvery is how often a Hub without accounts looks whether it has some.
const lookEvery = 2 * time.Second

// site is the parts of a Hub that serves.
type site struct {
	options
	*parts
	hub     *hub.Hub
	catalog *catalog.Catalog
	gate    *gate.Gate  // nil: without accounts
	sso     *oidc.Login // nil: none is configured
	ssoName string
	server  *server
	log     *slog.Logger
}

func newSite(o options, h *hub.Hub, people bool, log *slog.Logger) (*site, error) {
	s := &site{options: o, hub: h, catalog: catalog.New(hub.DB(h), h, log), server: &server{log: log, metrics: newMetrics()}, log: log}
	c, err := readConfig(o.config, o.data)
	if err != nil {
		return nil, err
	}
	limits, err := c.limits()
	if err != nil || !people {
		return s, err
	}
	s.gate = gate.New(hub.DB(h), gate.Options{URL: o.url, Limits: limits, Log: log})
	if s.sso, err = s.login(c); s.sso != nil {
		s.ssoName = cmp.Or(c.OIDC.Name, "Log in by "+c.OIDC.Issuer)
	}
	return s, err
}

// start starts what works beside the requests; stop ends it and waits for it.
func (s *site) start(ctx context.Context) (stop func()) {
	ctx, cancel := context.WithCancel(ctx)
	var wg sync.WaitGroup
	for _, run := range []func(context.Context){s.catalog.Run, s.queue.Run} {
		wg.Go(func() { run(ctx) })
	}
	return func() {
		cancel()
		wg.Wait()
	}
}

// withProtocols offers HTTP/2.
func withProtocols(c *tls.Config) *tls.Config {
	c.NextProtos = []string{"h2", "http/1.1"}
	return c
}

// newServer returns a server with bounds that a hostile client meets. Those of
// bodies are the handlers' own.
func newServer(h http.Handler, p pace, log *slog.Logger) *http.Server {
	return &http.Server{
		Handler:           h,
		ReadHeaderTimeout: p.header,
		IdleTimeout:       2 * time.Minute,
		MaxHeaderBytes:    64 << 10,
		ErrorLog:          slog.NewLogLogger(log.Handler(), slog.LevelWarn),
	}
}

// routes is all that the Hub serves.
func (s *site) routes() (http.Handler, error) {
	db := hub.DB(s.hub)
	api := registry.NewHandler(s.proxy, registry.Options{
		ReadOnly: s.readOnly, NoDelete: s.noDelete, Log: s.log, Search: s.catalog.DockerSearch, MayPull: s.policy.MayPull, Pushed: s.reviews.Pushed,
	})
	if s.gate == nil {
		api = auth.Open(api)
	} else {
		api = s.gate.Registry(api)
	}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /livez", s.server.live)
	mux.HandleFunc("GET /readyz", s.server.ready(db))
	mux.Handle("/v1/", api)
	mux.Handle("/api/", hubapi.NewHandler(hubapi.API{
		DB: db, Hub: s.hub, Catalog: s.catalog, Policy: s.policy, Reviews: s.reviews, Webhooks: s.webhooks, Proxy: s.proxy, Mirrors: s.mirrors, Gate: s.gate, Log: s.log,
	}))
	if s.sso != nil {
		mux.Handle(oidc.LoginPath, s.sso)
		mux.Handle(oidc.CallbackPath, s.sso)
	}
	if s.metricsAddr == "" {
		mux.Handle("GET /metrics", s.administrators(s.server.metrics.handler()))
	}
	if s.gate != nil {
		mux.Handle("/token", s.gate.Token())
		mux.HandleFunc("GET /ca.crt", s.authority)
	}
	pages, err := web.NewHandler(web.Options{
		DB: db, Catalog: s.catalog, Hub: s.hub, Reviews: s.reviews, Policy: s.policy, Webhooks: s.webhooks, Proxy: s.proxy, Mirrors: s.mirrors, URL: s.url, SSO: s.ssoName, Open: s.gate == nil,
		Missing: api, Log: s.log,
	})
	mux.Handle("/", pages)
	return plainPaths(usualPace.bounded(mux), api), err
}

// administrators lets those alone through. For others there is nothing.
func (s *site) administrators(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if s.gate != nil {
			if id, err := s.gate.Identify(r); err != nil || !id.IsAdmin() { //nolint:contextcheck // it is the request's
				http.NotFound(w, r)
				return
			}
		}
		next.ServeHTTP(w, r)
	})
}

// plainPaths serves the distribution API past the mux, which would clean the
// paths that the specification says something about.
func plainPaths(mux, api http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if p := r.URL.Path; p == "/v2" || len(p) > 3 && p[:4] == "/v2/" {
			api.ServeHTTP(w, r)
			return
		}
		mux.ServeHTTP(w, r)
	})
}

// authority serves the certificate of the Hub's own authority, which is no
// secret: who fetches it looks at its digest.
func (o options) authority(w http.ResponseWriter, r *http.Request) {
	b, err := os.ReadFile(o.file(caCert))
	if err != nil {
		http.NotFound(w, r)
		return
	}
	w.Header().Set("Content-Type", "application/x-pem-file")
	_, _ = w.Write(b)
}

// certificate returns the server's certificate: the one that the flags name,
// else the one that init was given, else our own.
func (o options) certificate(ctx context.Context, h *hub.Hub, log *slog.Logger) (*certificate, error) {
	if (o.cert == "") != (o.key == "") {
		return nil, usageError{errors.New("--tls-cert and --tls-key come together")}
	}
	if o.cert == "" && o.data == "" {
		return nil, usageError{errors.New("--tls-cert is required: there is no --data for a certificate of its own")}
	}
	c := &certificate{cert: o.cert, key: o.key, log: log}
	if c.cert == "" {
		var err1, err2 error
		c.cert, err1 = auth.Setting(ctx, hub.DB(h), "tls-cert")
		c.key, err2 = auth.Setting(ctx, hub.DB(h), "tls-key")
		if err := errors.Join(err1, err2); err != nil {
			return nil, err
		}
	}
	if c.cert == "" {
		c.cert, c.key, c.own = o.file(serverCert), o.file(serverCert), &o.place
	}
	if err := c.load(time.Now()); err != nil {
		return nil, err
	}
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, syscall.SIGHUP)
	go func() {
		defer signal.Stop(signals)
		c.watch(ctx, signals)
	}()
	return c, nil
}

// loopback reports whether an address to listen on is one that only this
// machine reaches.
func loopback(addr string) bool {
	host, _, err := net.SplitHostPort(addr)
	if err != nil {
		return true // Listen says what is wrong with it
	}
	ip := net.ParseIP(host)
	return host == "localhost" || ip != nil && ip.IsLoopback()
}

// absolute makes a path of a file good for every directory.
func absolute(path string) (string, error) {
	if path == "" {
		return "", nil
	}
	return filepath.Abs(path)
}
