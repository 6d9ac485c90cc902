package web

import (
	"bytes"
	"compress/gzip"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"net/http"
	"net/url"
	"strings"

	"github.com/a-h/templ"
	"github.com/containerd/errdefs"

	"strake/internal/auth"
	"strake/internal/fault"
	"strake/internal/registry"
)

// maxForm bounds the body of a form; a README is the largest part of one.
const maxForm = 1 << 20

// call is one request for a page.
type call struct {
	*site
	w http.ResponseWriter
	r *http.Request

	id      auth.Identity
	problem string // why the form was not accepted
	form    form   // that form
	status  int    // of the page that says so
	secret  bool   // the page holds one: nobody keeps it
}

// ctx is the context of the request, with who asks.
func (c *call) ctx() context.Context { return c.r.Context() }

// view is what every page shows around its content.
type view struct {
	Title   string
	Query   string // in the field of the search
	User    auth.Identity
	Host    string // as clients write it
	Here    string // path and query of the page
	Notice  string
	Problem string
	Field   string // of the form that the problem is about; empty: of none in particular
	CSS, JS string
	Open    bool
	Reviews bool // there are some, and the user decides them
}

// handler makes a page's function a handler.
func (s *site) handler(serve func(*call) error) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		c := &call{site: s, w: w, r: r, status: http.StatusOK}
		var err error
		if c.id, err = s.identify(r); err == nil { //nolint:contextcheck // it is the request's
			r.Body = http.MaxBytesReader(w, r.Body, maxForm)
			c.r = r.WithContext(auth.With(r.Context(), c.id))
			err = c.r.ParseForm()
			if err != nil {
				err = errors.Join(errdefs.ErrInvalidArgument, err)
			}
		}
		if err == nil {
			err = serve(c)
		}
		if err != nil {
			c.fail(err) //nolint:contextcheck // the call has the request's
		}
	})
}

// secure sets the headers that every answer has.
func secure(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h := w.Header()
		h.Set("Content-Security-Policy", "default-src 'none'; style-src 'self'; script-src 'self'; img-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'")
		h.Set("X-Frame-Options", "DENY")
		h.Set("X-Content-Type-Options", "nosniff")
		h.Set("Referrer-Policy", "same-origin")
		h.Set("Cross-Origin-Opener-Policy", "same-origin")
		h.Set("Cross-Origin-Resource-Policy", "same-origin")
		h.Set("Permissions-Policy", "camera=(), geolocation=(), microphone=()")
		next.ServeHTTP(w, r)
	})
}

// kindOf is the status for an error; 0 for none.
func kindOf(err error) int {
	var of *registry.Error
	var tooLarge *http.MaxBytesError
	switch {
	case err == nil:
		return 0
	case errors.As(err, &tooLarge):
		return http.StatusRequestEntityTooLarge
	case errors.As(err, &of):
		return registry.ErrorOf(err).Status()
	case errdefs.IsUnauthorized(err):
		return http.StatusUnauthorized
	case errdefs.IsPermissionDenied(err):
		return http.StatusForbidden
	case errdefs.IsNotFound(err):
		return http.StatusNotFound
	case errdefs.IsInvalidArgument(err), errdefs.IsOutOfRange(err):
		return http.StatusBadRequest
	case errdefs.IsAlreadyExists(err), errdefs.IsConflict(err), errdefs.IsFailedPrecondition(err):
		return http.StatusConflict
	case errdefs.IsResourceExhausted(err):
		return http.StatusTooManyRequests
	case errdefs.IsUnavailable(err):
		return http.StatusServiceUnavailable
	}
	return http.StatusInternalServerError
}

// reason is what a person is told of an error: its text without its kind, and of
// several errors the one of a field alone. That something is not found is said.
func reason(err error) string {
	if wrong := fault.Of(err); wrong != nil {
		err = wrong
	}
	text := err.Error()
	for _, kind := range []error{
		errdefs.ErrInvalidArgument, errdefs.ErrAlreadyExists, errdefs.ErrFailedPrecondition,
		errdefs.ErrPermissionDenied, errdefs.ErrUnauthenticated, errdefs.ErrResourceExhausted, errdefs.ErrConflict,
	} {
		text = strings.TrimSuffix(text, ": "+kind.Error())
	}
	if text != "" {
		text = strings.ToUpper(text[:1]) + text[1:]
	}
	return text
}

// fail answers with the page of an error.
func (c *call) fail(err error) {
	status := kindOf(err)
	switch {
	case status == http.StatusUnauthorized && c.id.Anonymous():
		if c.r.Method == http.MethodGet || c.r.Method == http.MethodHead {
			http.Redirect(c.w, c.r, "/login?next="+url.QueryEscape(c.r.URL.RequestURI()), http.StatusSeeOther)
			return
		}
	case status >= http.StatusInternalServerError:
		if c.r.Context().Err() != nil {
			return // nobody waits for it
		}
		c.Log.Error("page failed", "method", c.r.Method, "path", c.r.URL.Path, "err", err)
	}
	c.status = status
	p := problems[status]
	if p.Title == "" {
		p = problems[http.StatusInternalServerError]
	}
	if status != http.StatusNotFound && status < http.StatusInternalServerError {
		p.Reason = reason(err)
	}
	if err := c.render(p.Title, errorPage(p, c.id.Anonymous(), c.r.URL.RequestURI())); err != nil {
		c.Log.Error("page failed", "path", c.r.URL.Path, "err", err)
		http.Error(c.w, "internal error", http.StatusInternalServerError)
	}
}

// problem is what the page of an error says.
type problem struct{ Title, Reason, Advice string }

var problems = map[int]problem{
	http.StatusNotFound:              {"Nothing here", "", "The page does not exist, or you may not see it. Check the spelling of the address, or search for what you are after."},
	http.StatusForbidden:             {"Not allowed", "", "Your account may see this, but not change it. Ask an owner of the repository or the organization for the role that it takes."},
	http.StatusUnauthorized:          {"Log in first", "", "Your session may have ended. Log in, and try again."},
	http.StatusBadRequest:            {"That does not fit", "", "Go back, and correct what you entered."},
	http.StatusConflict:              {"Not possible as things are", "", "Go back, and look at how things are now."},
	http.StatusRequestEntityTooLarge: {"Too large", "", "A form may have one megabyte at most."},
	http.StatusTooManyRequests:       {"Too many attempts", "", "Wait for a while before you try again."},
	http.StatusServiceUnavailable:    {"Busy", "", "The Hub has more to do than it can at the moment. Try again in a few seconds."},
	http.StatusInternalServerError:   {"Something failed here", "", "This is not your fault. The administrators find the reason in the log. Try again in a minute."},
}

// ids are the fields of a form, by what errors call them where that is another
// name; that of the empty name takes errors that name none.
type ids map[string]string

// refused shows a form's page again, with the reason why it was not accepted, at
// the field that the error names; errors that are nobody's input go to the page of
// errors.
func (c *call) refused(err error, fields ids, page func(*call) error) error {
	switch status := kindOf(err); status {
	case http.StatusBadRequest, http.StatusConflict, http.StatusTooManyRequests, http.StatusNotFound:
		name := ""
		if wrong := fault.Of(err); wrong != nil {
			name = wrong.Field
		}
		id, known := fields[name]
		if !known {
			id = name
		}
		return c.wrong(status, id, reason(err), page)
	}
	return err
}

// wrong shows a form's page again, with what is wrong with a field, or with the
// whole form where there is no field.
func (c *call) wrong(status int, field, text string, page func(*call) error) error {
	c.problem, c.status = text, status
	c.form = form{values: c.r.PostForm, field: field, reason: text}
	return page(c)
}

// done answers a form with a redirection to a page that says what was done.
func (c *call) done(path, notice string) error {
	if notice != "" {
		sep := "?"
		if strings.Contains(path, "?") {
			sep = "&"
		}
		path += sep + "done=" + notice
	}
	http.Redirect(c.w, c.r, path, http.StatusSeeOther)
	return nil
}

// notices are what a page says after a form.
var notices = map[string]string{
	"saved":    "Saved.",
	"password": "Your password is changed. Other browsers and clients have to log in anew.",
	"removed":  "Removed.",
	"added":    "Added.",
	"deleted":  "Deleted.",
	"out":      "You are logged out.",
	"sent":     "Sent. It takes a moment until the answer is shown below.",
	"restored": "Restored.",
	"enabled":  "Enabled.",
	"disabled": "Disabled.",
	"applied":  "Done. What went is in Deleted for a while, and can be restored there.",
	"ended":    "Logged out there.",
	"started":  "Started. It takes a moment until the result is shown below.",
}

func (c *call) view(title string) view {
	return view{
		Title: title, User: c.id, Host: c.host(), Here: c.r.URL.RequestURI(), Notice: notices[c.r.URL.Query().Get("done")], Problem: c.problem, Field: c.form.field,
		CSS: c.assets["style.css"].path, JS: c.assets["hub.js"].path, Open: c.Open, Reviews: c.Reviews != nil && c.id.IsReviewer(), Query: c.r.URL.Query().Get("q"),
	}
}

// host is the registry's name as clients write it.
func (c *call) host() string {
	if u, err := url.Parse(c.URL); err == nil && u.Host != "" {
		return u.Host
	}
	return c.r.Host
}

// render writes a page. It is small, so it is made whole first: an error in the
// middle is an error page, and what the browser has already is not sent again.
func (c *call) render(title string, content templ.Component) error {
	var b bytes.Buffer
	ctx := templ.WithChildren(c.ctx(), content)
	if err := layout(c.view(title)).Render(ctx, &b); err != nil {
		return err
	}
	h := c.w.Header()
	h.Set("Content-Type", "text/html; charset=utf-8")
	h.Set("Vary", "Cookie, Accept-Encoding")
	if c.secret {
		h.Set("Cache-Control", "no-store")
		return c.send(b.Bytes(), false)
	}
	h.Set("Cache-Control", "private, no-cache")
	if c.status == http.StatusOK {
		sum := sha256.Sum256(b.Bytes())
		tag := `W/"` + hex.EncodeToString(sum[:12]) + `"`
		h.Set("ETag", tag)
		if c.r.Header.Get("If-None-Match") == tag {
			c.w.WriteHeader(http.StatusNotModified)
			return nil
		}
	}
	return c.send(b.Bytes(), strings.Contains(c.r.Header.Get("Accept-Encoding"), "gzip"))
}

// send writes a body; that the client is gone is nobody's concern.
func (c *call) send(b []byte, zip bool) error {
	if !zip {
		c.w.WriteHeader(c.status)
		_, _ = c.w.Write(b)
		return nil
	}
	c.w.Header().Set("Content-Encoding", "gzip")
	c.w.WriteHeader(c.status)
	z := gzip.NewWriter(c.w)
	_, _ = z.Write(b)
	_ = z.Close()
	return nil
}

// showMissing answers what no page has: a program is told in its own language.
func showMissing(c *call) error {
	if c.Missing == nil || strings.Contains(c.r.Header.Get("Accept"), "text/html") {
		return errdefs.ErrNotFound
	}
	c.Missing.ServeHTTP(c.w, c.r)
	return nil
}
