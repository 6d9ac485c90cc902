package registry

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"
)

// MaxManifestSize is how many bytes of a manifest are taken in.
const MaxManifestSize = 4 << 20

// maxPage is how many names one answer lists at most.
const maxPage = 10_000

// Options say how a registry is served. The zero value serves all of it.
type Options struct {
	ReadOnly bool         // refuse what changes anything, with UNSUPPORTED
	NoDelete bool         // refuse to delete tags, manifests and blobs, with UNSUPPORTED
	Log      *slog.Logger // told of errors that clients do not see; nil drops them

	// MinChunk is how many bytes each chunk of an upload but the last should
	// have, as clients are told; 0: any.
	MinChunk int64
	// Stall is how long a client may take to send or to take the next bytes of a
	// body before the connection is given up; 0: a minute.
	Stall time.Duration
	// Namespace returns the registry that stands here for another one, the host
	// of which clients give as ns=; nil, or a nil Registry: none does. What is
	// asked for such a namespace is served by reg itself, as without ns=.
	Namespace func(host string) Registry
	// Search finds repositories that the caller may read, the best first, limit at
	// most; nil looks at all their names.
	Search func(ctx context.Context, text string, limit int) ([]SearchResult, error)
	// MayPull is asked before a manifest is sent; its error is the answer. HEAD is no
	// pull: who pushes asks by it what is there. nil lets all through.
	MayPull func(ctx context.Context, repo string, dgst digest.Digest) error
	// Pushed is asked when tags were made to name a manifest, for what who pushed is
	// to be told of it, "" mostly. nil says nothing.
	Pushed func(ctx context.Context, repo string, dgst digest.Digest) (warning string, err error)
}

// stallTime is the default of Options.Stall.
const stallTime = time.Minute

// NewHandler serves reg as the OCI distribution specification says, below /v2/:
// end-1 to end-14 of its version 1.1 and of what is to follow it (several tags,
// other digests, namespaces), the discovery of extensions, and docker's _catalog.
// At /v1/search it answers docker's search.
func NewHandler(reg Registry, opts Options) http.Handler {
	if opts.Log == nil {
		opts.Log = slog.New(slog.DiscardHandler)
	}
	if opts.Stall == 0 {
		opts.Stall = stallTime
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
	reg  Registry // that answers it
	w    http.ResponseWriter
	r    *http.Request
	kind string // of its path, as routes has it
	repo string
	arg  string // the tag, digest or upload ID
}

// verbs maps the methods that a kind of path takes to what answers them.
type verbs map[string]func(*call) error

// routes are the kinds of paths that parsePath tells apart.
var routes = map[string]verbs{
	"base":      {"GET": base, "HEAD": base},
	"catalog":   {"GET": catalog, "HEAD": catalog},
	"discover":  {"GET": discover, "HEAD": discover},
	"tags":      {"GET": tags, "HEAD": tags},
	"blob":      {"GET": getBlob, "HEAD": statBlob, "DELETE": deleteBlob},
	"uploads":   {"POST": startUpload},
	"upload":    {"GET": uploadStatus, "HEAD": uploadStatus, "PATCH": patchUpload, "PUT": finishUpload, "DELETE": cancelUpload},
	"manifest":  {"GET": getManifest, "HEAD": statManifest, "PUT": putManifest, "DELETE": deleteManifest},
	"referrers": {"GET": referrers, "HEAD": referrers},
	"ping":      {"GET": ping, "HEAD": ping},
	"search":    {"GET": search, "HEAD": search},
}

func (h *handler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	w.Header()["Docker-Distribution-Api-Version"] = apiVersion
	c := &call{handler: h, reg: h.reg, w: w, r: r}
	_ = http.NewResponseController(w).SetWriteDeadline(time.Now().Add(h.opts.Stall)) // a recorder of a test has none
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

var apiVersion = []string{"registry/2.0"}

// errBodySent marks errors that come after the header is written.
var errBodySent = errors.New("sending the body")

func (c *call) serve() error {
	c.kind, c.repo, c.arg = parsePath(c.r.URL.Path)
	verbs, ok := routes[c.kind]
	if !ok {
		return &Error{Code: NameUnknown, Message: "no such path"}
	}
	answer, ok := verbs[c.r.Method]
	if !ok || !c.allowed(c.r.Method) {
		c.w.Header().Set("Allow", c.methods(verbs))
		return &Error{Code: Unsupported, Message: "the operation is unsupported"}
	}
	if c.repo != "" {
		if err := CheckName(c.repo); err != nil {
			return err
		}
	}
	switch c.kind {
	case "blob", "referrers":
		if err := CheckDigest(digest.Digest(c.arg)); err != nil {
			return err
		}
	case "manifest":
		if err := CheckReference(c.arg); err != nil {
			return err
		}
	}
	c.useNamespace()
	return answer(c)
}

// allowed reports whether the options allow method on the kind of path.
func (c *call) allowed(method string) bool {
	switch {
	case method == http.MethodGet || method == http.MethodHead:
		return true
	case c.opts.ReadOnly:
		return false
	}
	return method != http.MethodDelete || c.kind == "upload" || !c.opts.NoDelete
}

// methods lists those of verbs that are allowed.
func (c *call) methods(verbs verbs) string {
	var all []string
	for method := range verbs {
		if c.allowed(method) {
			all = append(all, method)
		}
	}
	slices.Sort(all)
	return strings.Join(all, ", ")
}

// useNamespace has the registry of the namespace that the client asks for, if
// there is one, answer what reads, and tells the client so.
func (c *call) useNamespace() {
	if c.r.URL.RawQuery == "" || c.r.Method != http.MethodGet && c.r.Method != http.MethodHead {
		return
	}
	ns := c.r.URL.Query().Get("ns")
	if ns == "" {
		return
	}
	if ns != c.r.Host {
		if c.opts.Namespace == nil {
			return
		}
		reg := c.opts.Namespace(ns)
		if reg == nil {
			return
		}
		c.reg = reg
	}
	c.w.Header().Set("Oci-Namespace", ns)
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
	case rest == "_oci/ext/discover":
		return "discover", "", ""
	}
	if name, ok := strings.CutSuffix(rest, "/_oci/ext/discover"); ok {
		return "discover", name, ""
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
	for _, k := range kindSuffixes {
		if name, ok := strings.CutSuffix(dir, k.suffix); ok {
			return k.kind, name, arg
		}
	}
	return "", "", ""
}

// kindSuffixes tell kinds of paths apart by what is before their last part.
var kindSuffixes = []struct{ suffix, kind string }{
	{"/manifests", "manifest"}, {"/blobs", "blob"}, {"/blobs/uploads", "upload"}, {"/referrers", "referrers"},
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
	if status == http.StatusTooManyRequests || status == http.StatusServiceUnavailable {
		seconds := max(int64(math.Ceil(e.RetryAfter.Seconds())), 1)
		w.Header().Set("Retry-After", strconv.FormatInt(seconds, 10))
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
	c.w.Header().Set("X-Content-Type-Options", "nosniff")
	return c.write(b)
}

// write answers 200 with b, whose type is set.
func (c *call) write(b []byte) error {
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

func base(c *call) error {
	return c.json("application/json", struct{}{})
}
