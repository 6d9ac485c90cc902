// Package hubapi is the Hub's REST API, below /api/v1.
//
// It is one table of routes. A route says what its caller must be, what it takes
// and what it answers; from the table the requests are served, the permission is
// asked before anything else is done, and the OpenAPI document is made. Names of
// repositories hold slashes: in a path they are written %2F.
package hubapi

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math"
	"mime"
	"net/http"
	"strconv"
	"strings"

	"github.com/containerd/errdefs"

	"strake/internal/auth"
	"strake/internal/catalog"
	"strake/internal/fault"
	"strake/internal/gate"
	"strake/internal/hub"
	"strake/internal/policy"
	"strake/internal/proxy"
	"strake/internal/registry"
	"strake/internal/review"
	"strake/internal/sqldb"
	"strake/internal/webhook"
)

// prefix is the path below which the API is.
const prefix = "/api/v1"

// maxBody is how many bytes a request may bring.
const maxBody = 256 << 10

// API is what the routes work on.
type API struct {
	DB       *sqldb.DB
	Hub      *hub.Hub
	Catalog  *catalog.Catalog
	Policy   *policy.Policy
	Reviews  *review.Board
	Webhooks *webhook.Book
	Proxy    *proxy.Cache
	Mirrors  *proxy.Mirrors
	Gate     *gate.Gate   // tells who asks; nil: a Hub without accounts, whoever asks may do everything
	Log      *slog.Logger // told of errors that clients do not see
}

// Need is what the caller must be. For who may not even see the object, it does
// not exist.
type Need string

// The needs. {repository}, {organization} and {account} are those of the route's
// pattern.
const (
	Anyone    Need = "anyone"
	Login     Need = "logged in"                             // also with a token that allows less
	User      Need = "logged in, with all rights"            // not with a token that allows less
	Related   Need = "the account, or in the organization"   // {account} or {organization}
	Owner     Need = "the account, or owns the organization" // {account} or {organization}
	Reader    Need = "read {repository}"
	Writer    Need = "write {repository}"
	RepoAdmin Need = "admin {repository}"
	Reviewer  Need = "reviewer"
	SiteAdmin Need = "administrator"
)

// Param is a parameter of a query.
type Param struct{ Name, Text string }

// Route is one thing that the API does.
type Route struct {
	Method, Pattern string // the pattern without the prefix
	Need            Need
	Summary         string
	Query           []Param
	Body            any // a value of the type that the request's body has; nil: none
	Answer          any // of the type that the answer has; nil: none, 204
	Status          int // of success; 0: 200, or 204 without an answer
	Do              func(a API, c *Call) (any, error)
}

// name is what the route is called: GET /audit.
func (r Route) name() string { return r.Method + " " + r.Pattern }

// Call is a request.
type Call struct{ *http.Request }

// Page is a part of a list.
type Page[T any] struct {
	Items []T    `json:"items"`
	Next  string `json:"next,omitempty"` // the parameter after for the next part; none: this was the last
}

// all is a list in one piece.
func all[T any](items []T, err error) (Page[T], error) {
	if items == nil {
		items = []T{}
	}
	return Page[T]{Items: items}, err
}

// Bounds on what one answer lists.
const (
	defaultLimit = 100
	maxLimit     = 1000
)

// paging are the parameters of lists in parts.
var paging = []Param{{"limit", "How many at most; 100 unless given, 1000 at most"}, {"after", "What the part before said as next"}}

// Limit is how many items are asked for.
func (c *Call) Limit() (int, error) {
	s := c.URL.Query().Get("limit")
	if s == "" {
		return defaultLimit, nil
	}
	n, err := strconv.Atoi(s)
	if err != nil || n < 1 {
		return 0, fmt.Errorf("limit %.20q: %w", s, errdefs.ErrInvalidArgument)
	}
	return min(n, maxLimit), nil
}

// After is where a list goes on; zero: at its beginning.
func (c *Call) After() (int64, error) {
	s := c.URL.Query().Get("after")
	if s == "" {
		return 0, nil
	}
	n, err := strconv.ParseInt(s, 10, 64)
	if err != nil || n < 0 || n > math.MaxInt32*1000 {
		return 0, fmt.Errorf("after %.20q: %w", s, errdefs.ErrInvalidArgument)
	}
	return n, nil
}

// Decode reads the body into v: one JSON value with no fields that are not known.
func (c *Call) Decode(v any) error {
	kind, _, err := mime.ParseMediaType(c.Header.Get("Content-Type"))
	if err != nil || kind != "application/json" {
		return &statusError{http.StatusUnsupportedMediaType, "the body is to be application/json"}
	}
	d := json.NewDecoder(c.Body)
	d.DisallowUnknownFields()
	if err := d.Decode(v); err != nil {
		return bodyError(err)
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return fmt.Errorf("more than one JSON value: %w", errdefs.ErrInvalidArgument)
	}
	return nil
}

func bodyError(err error) error {
	if _, ok := errors.AsType[*http.MaxBytesError](err); ok {
		return &statusError{http.StatusRequestEntityTooLarge, fmt.Sprintf("the body has more than %d bytes", maxBody)}
	}
	return fmt.Errorf("malformed body: %w", errors.Join(errdefs.ErrInvalidArgument, err))
}

// statusError is an error with a status of its own.
type statusError struct {
	status int
	text   string
}

func (e *statusError) Error() string { return e.text }

// NewHandler serves the API.
func NewHandler(a API) http.Handler {
	if a.Log == nil {
		a.Log = slog.New(slog.DiscardHandler)
	}
	mux := http.NewServeMux()
	for _, r := range Routes() {
		mux.Handle(r.Method+" "+prefix+r.Pattern, a.serve(r))
	}
	mux.HandleFunc(prefix+"/", func(w http.ResponseWriter, r *http.Request) {
		a.fail(w, r, &statusError{http.StatusNotFound, "no such path"})
	})
	// Browsers send cookies along; a request that another site made is refused.
	cross := http.NewCrossOriginProtection()
	cross.SetDenyHandler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		a.fail(w, r, &statusError{http.StatusForbidden, "the request comes from another site"})
	}))
	return cross.Handler(mux)
}

func (a API) serve(route Route) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		r.Body = http.MaxBytesReader(w, r.Body, maxBody)
		id := auth.Identity{System: true, Address: r.RemoteAddr}
		if a.Gate != nil {
			var err error
			if id, err = a.Gate.Identify(r); err != nil { //nolint:contextcheck // it is the request's
				a.fail(w, r, err)
				return
			}
		}
		c := &Call{Request: r.WithContext(auth.With(r.Context(), id))}
		if err := a.DB.View(c.Context(), func(tx *sql.Tx) error { return route.allow(c.Context(), tx, c) }); err != nil { //nolint:contextcheck // it is the request's
			a.fail(w, r, err)
			return
		}
		answer, err := route.Do(a, c)
		if err != nil {
			a.fail(w, r, err)
			return
		}
		status := route.Status
		switch {
		case status == 0 && route.Answer == nil:
			status = http.StatusNoContent
		case status == 0:
			status = http.StatusOK
		}
		a.write(w, r, status, answer)
	})
}

var errLogin = fmt.Errorf("authentication required: %w", errdefs.ErrUnauthenticated)

var errDenied = fmt.Errorf("requested access to the resource is denied: %w", errdefs.ErrPermissionDenied)

// allow fails unless the caller is what the route needs.
func (r Route) allow(ctx context.Context, tx *sql.Tx, c *Call) error {
	id := auth.From(ctx)
	if r.Need != Anyone && r.Need != Reader && id.Anonymous() {
		return errLogin
	}
	ok := true
	switch r.Need {
	case Anyone, Login:
	case User:
		ok = id.Unlimited()
	case Related:
		return auth.NeedMember(ctx, tx, c.account())
	case Owner:
		return auth.NeedOwner(ctx, tx, c.account())
	case Reader:
		return auth.Need(ctx, tx, c.PathValue("repository"), auth.Read)
	case Writer:
		return auth.Need(ctx, tx, c.PathValue("repository"), auth.Write)
	case RepoAdmin:
		return auth.Need(ctx, tx, c.PathValue("repository"), auth.Admin)
	case Reviewer:
		ok = id.IsReviewer()
	case SiteAdmin:
		ok = id.IsAdmin()
	default:
		ok = false
	}
	if !ok {
		return errDenied
	}
	return nil
}

// account is the account or organization of the path.
func (c *Call) account() string {
	if org := c.PathValue("organization"); org != "" {
		return org
	}
	return c.PathValue("account")
}

// Error is how the API tells what is wrong.
type Error struct {
	Code    string `json:"code"` // such as not_found
	Message string `json:"message"`
	Field   string `json:"field,omitempty"` // of the body that is wrong, where it is one
}

// kinds maps kinds of errors to statuses and codes.
var kinds = []struct {
	kind   error
	status int
}{
	{errdefs.ErrUnauthenticated, http.StatusUnauthorized},
	{errdefs.ErrPermissionDenied, http.StatusForbidden},
	{errdefs.ErrNotFound, http.StatusNotFound},
	{errdefs.ErrAlreadyExists, http.StatusConflict},
	{errdefs.ErrConflict, http.StatusConflict},
	{errdefs.ErrFailedPrecondition, http.StatusConflict},
	{errdefs.ErrInvalidArgument, http.StatusBadRequest},
	{errdefs.ErrOutOfRange, http.StatusBadRequest},
	{errdefs.ErrUnavailable, http.StatusServiceUnavailable},
	{errdefs.ErrResourceExhausted, http.StatusTooManyRequests},
}

// fail answers with an error. What is the server's own fault is told to the log
// alone.
func (a API) fail(w http.ResponseWriter, r *http.Request, err error) {
	status, text := http.StatusInternalServerError, "internal error"
	if e, ok := errors.AsType[*statusError](err); ok {
		status, text = e.status, e.text
	} else if many, ok := errors.AsType[*auth.TooManyError](err); ok {
		status, text = http.StatusTooManyRequests, many.Error()
		w.Header().Set("Retry-After", strconv.Itoa(int(math.Ceil(many.Wait.Seconds()))))
	} else if e, ok := errors.AsType[*registry.Error](err); ok && e.Status() < http.StatusInternalServerError {
		status, text = e.Status(), e.Error()
	} else {
		for _, k := range kinds {
			if errors.Is(err, k.kind) {
				status, text = k.status, reason(err, k.kind)
				break
			}
		}
	}
	if status >= http.StatusInternalServerError {
		a.Log.Error("request failed", "method", r.Method, "path", r.URL.Path, "err", err)
	}
	if status == http.StatusUnauthorized {
		w.Header().Set("WWW-Authenticate", `Basic realm="strake-hub"`)
	}
	code := strings.ReplaceAll(strings.ToLower(http.StatusText(status)), " ", "_")
	answer := Error{Code: code, Message: text}
	if wrong := fault.Of(err); wrong != nil {
		answer.Field = wrong.Field
	}
	a.write(w, r, status, answer)
}

// reason is an error without the words of its kind.
func reason(err, kind error) string {
	text := strings.ReplaceAll(err.Error(), "\n", ": ")
	return strings.TrimSuffix(strings.Replace(text, ": "+kind.Error()+": ", ": ", 1), ": "+kind.Error())
}

func (a API) write(w http.ResponseWriter, r *http.Request, status int, v any) {
	h := w.Header()
	h.Set("Cache-Control", "no-store")
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Content-Security-Policy", "default-src 'none'; frame-ancestors 'none'")
	h.Set("Referrer-Policy", "no-referrer")
	if status == http.StatusNoContent {
		w.WriteHeader(status)
		return
	}
	b, err := json.Marshal(v)
	if err != nil {
		a.Log.Error("encode answer", "path", r.URL.Path, "err", err)
		status, b = http.StatusInternalServerError, []byte(`{"code":"internal_server_error","message":"internal error"}`)
	}
	h.Set("Content-Type", "application/json")
	h.Set("Content-Length", strconv.Itoa(len(b)+1))
	w.WriteHeader(status)
	if r.Method != http.MethodHead {
		_, _ = w.Write(append(b, '\n')) // the client is gone: nobody to tell
	}
}
