package registry

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"strconv"
	"strings"
	"sync"

	"github.com/opencontainers/go-digest"
)

// MaxManifestSize is how many bytes of a manifest are taken in.
const MaxManifestSize = 4 << 20

// maxPage is how many names one answer lists at most.
const maxPage = 10_000

// Options say how a registry is served. The zero value serves all of it.
type Options struct {
	ReadOnly bool         // refuse what changes anything, with UNSUPPORTED
	Log      *slog.Logger // told of errors that clients do not see; nil drops them
}

// NewHandler serves reg as the OCI distribution specification 1.1 says, below
// /v2/: end-1 to end-13 and docker's _catalog. At /v1/search it answers docker's
// search.
func NewHandler(reg Registry, opts Options) http.Handler {
	if opts.Log == nil {
		opts.Log = slog.New(slog.DiscardHandler)
	}
	return &handler{reg: reg, opts: opts}
}

type handler struct {
	reg  Registry
	opts Options
}

// call is one request, taken apart.
type call struct {
	*handler
	w    http.ResponseWriter
	r    *http.Request
	repo string
	arg  string // the tag, digest or upload ID
}

// verbs maps the methods that a kind of path takes to what answers them.
type verbs map[string]func(*call) error

// routes are the kinds of paths that parsePath tells apart.
var routes = map[string]verbs{
	"base":      {"GET": (*call).base, "HEAD": (*call).base},
	"catalog":   {"GET": (*call).catalog},
	"tags":      {"GET": (*call).tags},
	"blob":      {"GET": (*call).getBlob, "HEAD": (*call).statBlob, "DELETE": (*call).deleteBlob},
	"uploads":   {"POST": (*call).startUpload},
	"upload":    {"GET": (*call).uploadStatus, "PATCH": (*call).patchUpload, "PUT": (*call).finishUpload, "DELETE": (*call).cancelUpload},
	"manifest":  {"GET": (*call).getManifest, "HEAD": (*call).statManifest, "PUT": (*call).putManifest, "DELETE": (*call).deleteManifest},
	"referrers": {"GET": (*call).referrers},
	"ping":      {"GET": ping},
	"search":    {"GET": search},
}

func (h *handler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Docker-Distribution-Api-Version", "registry/2.0")
	c := &call{handler: h, w: w, r: r}
	err := c.serve()
	if err == nil {
		return
	}
	if errors.Is(err, errBodySent) { // the status is gone: tell by breaking off
		h.opts.Log.Warn("answer broken off", "method", r.Method, "path", r.URL.Path, "err", err)
		panic(http.ErrAbortHandler)
	}
	writeError(w, r, err, h.opts.Log)
}

// errBodySent marks errors that come after the header is written.
var errBodySent = errors.New("sending the body")

func (c *call) serve() error {
	kind, repo, arg := parsePath(c.r.URL.Path)
	verbs, ok := routes[kind]
	if !ok {
		return &Error{Code: NameUnknown, Message: "no such path"}
	}
	answer, ok := verbs[c.r.Method]
	if !ok || c.opts.ReadOnly && c.r.Method != http.MethodGet && c.r.Method != http.MethodHead {
		return &Error{Code: Unsupported, Message: "the operation is unsupported"}
	}
	if repo != "" {
		if err := CheckName(repo); err != nil {
			return err
		}
	}
	c.repo, c.arg = repo, arg
	switch kind {
	case "blob", "referrers":
		if err := CheckDigest(digest.Digest(arg)); err != nil {
			return err
		}
	case "manifest":
		if err := CheckReference(arg); err != nil {
			return err
		}
	}
	return answer(c)
}

// parsePath takes a request's path apart. Repository names may contain any of
// the words that come after them, so it is read from its end.
func parsePath(path string) (kind, repo, arg string) {
	rest, ok := strings.CutPrefix(path, "/v2/")
	switch {
	case path == "/v1/_ping":
		return "ping", "", ""
	case path == "/v1/search":
		return "search", "", ""
	case path == "/v2" || ok && rest == "":
		return "base", "", ""
	case !ok:
		return "", "", ""
	case rest == "_catalog":
		return "catalog", "", ""
	}
	if name, ok := strings.CutSuffix(rest, "/tags/list"); ok {
		return "tags", name, ""
	}
	if name, ok := strings.CutSuffix(strings.TrimSuffix(rest, "/"), "/blobs/uploads"); ok {
		return "uploads", name, ""
	}
	dir, arg, ok := cutLast(rest)
	if !ok || arg == "" {
		return "", "", ""
	}
	for suffix, kind := range map[string]string{
		"/blobs/uploads": "upload", "/blobs": "blob", "/manifests": "manifest", "/referrers": "referrers",
	} {
		if name, ok := strings.CutSuffix(dir, suffix); ok {
			return kind, name, arg
		}
	}
	return "", "", ""
}

func cutLast(s string) (before, after string, found bool) {
	i := strings.LastIndexByte(s, '/')
	if i < 0 {
		return "", s, false
	}
	return s[:i], s[i+1:], true
}

// writeError answers with err's code and status.
func writeError(w http.ResponseWriter, r *http.Request, err error, log *slog.Logger) {
	e := ErrorOf(err)
	status := e.Status()
	if status >= http.StatusInternalServerError {
		log.Error("request failed", "method", r.Method, "path", r.URL.Path, "err", err)
	}
	type item struct {
		Code    Code            `json:"code"`
		Message string          `json:"message"`
		Detail  json.RawMessage `json:"detail"`
	}
	detail := e.Detail
	if detail == nil { // of an error without one docker tells its user nothing but the code
		detail, _ = json.Marshal(map[string]string{"path": r.URL.Path}) // a string is never an error
	}
	body, err := json.Marshal(map[string][]item{"errors": {{e.Code, e.Error(), detail}}})
	if err != nil {
		log.Error("encode error answer", "err", err)
	}
	h := w.Header()
	h.Set("Content-Type", "application/json")
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Content-Length", strconv.Itoa(len(body)))
	w.WriteHeader(status)
	if r.Method != http.MethodHead {
		_, _ = w.Write(body) // the client is gone: nobody to tell
	}
}

// json answers with v.
func (c *call) json(contentType string, v any) error {
	b, err := json.Marshal(v)
	if err != nil {
		return fmt.Errorf("encode answer: %w", err)
	}
	c.w.Header().Set("Content-Type", contentType)
	return c.body(b)
}

// body answers 200 with b, whose type is set.
func (c *call) body(b []byte) error {
	c.w.Header().Set("Content-Length", strconv.Itoa(len(b)))
	c.w.WriteHeader(http.StatusOK)
	if c.r.Method == http.MethodHead {
		return nil
	}
	if _, err := c.w.Write(b); err != nil {
		return fmt.Errorf("%w: %w", errBodySent, err)
	}
	return nil
}

func (c *call) base() error {
	return c.json("application/json", struct{}{})
}

// buffers are what bodies are copied through.
const bufferSize = 256 << 10

var buffers sync.Pool // of *[]byte

// copyBody copies a request's body in big steps.
func copyBody(dst io.Writer, src io.Reader) (int64, error) {
	buf, ok := buffers.Get().(*[]byte)
	if !ok {
		b := make([]byte, bufferSize)
		buf = &b
	}
	defer buffers.Put(buf)
	return io.CopyBuffer(struct{ io.Writer }{dst}, struct{ io.Reader }{src}, *buf)
}
