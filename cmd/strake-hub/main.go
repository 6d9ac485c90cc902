// Command strake-hub serves image repositories over the OCI distribution API.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"strake/internal/auth"
	"strake/internal/hub"
	"strake/internal/registry"
)

const usage = `Usage:  strake-hub serve [OPTIONS]

Serve image repositories over the OCI distribution API

Options:
      --addr string   Address to listen on; port 0 takes a free one (default "127.0.0.1:5000")
      --data string   Directory that holds the registry (required)
      --read-only     Refuse pushes and deletions
      --help          Print usage

Exit codes: 0 after SIGTERM or SIGINT, 1 on failure, 2 on wrong usage.
`

// drainTime is how long requests may go on after a signal.
const drainTime = 30 * time.Second

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	code := run(ctx, os.Args[1:], os.Stdout, os.Stderr)
	stop()
	os.Exit(code)
}

// options are the flags of serve.
type options struct {
	addr, data string
	readOnly   bool
}

// run is the command until ctx ends; it returns the exit code.
func run(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	opts, err := parse(args)
	if errors.Is(err, flag.ErrHelp) {
		fmt.Fprint(stdout, usage)
		return 0
	}
	if err != nil {
		fmt.Fprintf(stderr, "strake-hub: %v\n\nRun 'strake-hub serve --help' for more information\n", err)
		return 2
	}
	if err := serve(ctx, opts, stdout, slog.New(slog.NewTextHandler(stderr, nil))); err != nil {
		fmt.Fprintf(stderr, "strake-hub: %v\n", err)
		return 1
	}
	return 0
}

func parse(args []string) (options, error) {
	if len(args) == 0 {
		return options{}, flag.ErrHelp
	}
	switch args[0] {
	case "serve":
	case "help", "--help", "-h":
		return options{}, flag.ErrHelp
	default:
		return options{}, fmt.Errorf("unknown command: %s", args[0])
	}
	opts := options{addr: "127.0.0.1:5000"}
	flags := flag.NewFlagSet("serve", flag.ContinueOnError)
	flags.SetOutput(io.Discard)
	flags.StringVar(&opts.addr, "addr", opts.addr, "")
	flags.StringVar(&opts.data, "data", "", "")
	flags.BoolVar(&opts.readOnly, "read-only", false, "")
	switch err := flags.Parse(args[1:]); {
	case errors.Is(err, flag.ErrHelp):
		return options{}, err
	case err != nil:
		return options{}, errors.New(strings.ReplaceAll(err.Error(), ": -", ": --"))
	case flags.NArg() > 0:
		return options{}, fmt.Errorf("\"serve\" accepts no arguments, got %q", flags.Arg(0))
	case opts.data == "":
		return options{}, errors.New("--data is required")
	}
	return opts, nil
}

// serve serves until ctx ends and the requests under way have finished.
func serve(ctx context.Context, opts options, stdout io.Writer, log *slog.Logger) (err error) {
	h, err := hub.Open(ctx, hub.Options{Dir: opts.data})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, h.Close()) }()
	listener, err := (&net.ListenConfig{}).Listen(ctx, "tcp", opts.addr)
	if err != nil {
		return fmt.Errorf("listen: %w", err)
	}
	server := &http.Server{
		Handler:           logged(auth.Open(registry.NewHandler(h, registry.Options{ReadOnly: opts.readOnly, Log: log})), log),
		ReadHeaderTimeout: 30 * time.Second,
		IdleTimeout:       2 * time.Minute,
		MaxHeaderBytes:    64 << 10,
		ErrorLog:          slog.NewLogLogger(log.Handler(), slog.LevelWarn),
	}
	fmt.Fprintf(stdout, "strake-hub: serving http://%s\n", listener.Addr())
	done := make(chan error, 1)
	go func() { done <- server.Serve(listener) }()
	select {
	case err := <-done:
		return fmt.Errorf("serve: %w", err)
	case <-ctx.Done():
	}
	log.Info("shutting down")
	drain, cancel := context.WithTimeout(context.WithoutCancel(ctx), drainTime)
	defer cancel()
	if err := server.Shutdown(drain); err != nil {
		return errors.Join(fmt.Errorf("shut down: %w", err), server.Close())
	}
	return nil
}

// logged writes a line for each request. Query strings are left out: they may
// hold secrets.
func logged(next http.Handler, log *slog.Logger) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		start := time.Now()
		s := &statusWriter{ResponseWriter: w, status: http.StatusOK}
		defer func() {
			log.Info("request", "method", r.Method, "path", r.URL.Path, "status", s.status,
				"remote", r.RemoteAddr, "agent", r.UserAgent(), "took", time.Since(start).Round(time.Microsecond))
		}()
		next.ServeHTTP(s, r)
	})
}

// statusWriter keeps the status, and the way to sendfile open.
type statusWriter struct {
	http.ResponseWriter
	status int
}

func (w *statusWriter) WriteHeader(status int) {
	w.status = status
	w.ResponseWriter.WriteHeader(status)
}

// ReadFrom implements io.ReaderFrom.
func (w *statusWriter) ReadFrom(r io.Reader) (int64, error) { return io.Copy(w.ResponseWriter, r) }

// Unwrap is for http.ResponseController.
func (w *statusWriter) Unwrap() http.ResponseWriter { return w.ResponseWriter }
