package remote

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"syscall"

	"github.com/containerd/errdefs"

	"strake/internal/registry"
)

// What went wrong is judged here alone: an answer becomes a registry.Error, whose
// code has a kind of errdefs, and from the error follows what is done about it.

// answerError makes an error of an answer with an unwanted status, and closes it.
func answerError(resp *http.Response) error {
	b, _ := io.ReadAll(io.LimitReader(resp.Body, maxErrorBody)) // a broken body says as much as none
	_ = resp.Body.Close()
	var body struct {
		Errors []struct {
			Code    registry.Code   `json:"code"`
			Message string          `json:"message"`
			Detail  json.RawMessage `json:"detail"`
		} `json:"errors"`
	}
	at := fmt.Sprintf("%s %s", resp.Request.Method, place(resp.Request.URL))
	if json.Unmarshal(b, &body) == nil && len(body.Errors) > 0 && body.Errors[0].Code != "" {
		e := body.Errors[0]
		if (&registry.Error{Code: e.Code}).Status() == http.StatusInternalServerError {
			e.Code = statusCode(resp) // a code of the server's own: the status says more
		}
		return &registry.Error{Code: e.Code, Message: printable(e.Message), Detail: e.Detail, Err: limitOf(resp, fmt.Errorf("%s: %s", at, printable(resp.Status)))}
	}
	return &registry.Error{Code: statusCode(resp), Err: limitOf(resp, fmt.Errorf("%s: unexpected status: %s", at, printable(resp.Status)))}
}

// statusCode is the code for an answer that brings none.
func statusCode(resp *http.Response) registry.Code {
	manifest := strings.Contains(resp.Request.URL.Path, "/manifests/")
	switch resp.StatusCode {
	case http.StatusUnauthorized:
		return registry.Unauthorized
	case http.StatusForbidden:
		return registry.Denied
	case http.StatusNotFound:
		switch {
		case manifest:
			return registry.ManifestUnknown
		case strings.Contains(resp.Request.URL.Path, "/blobs/uploads/"):
			return registry.BlobUploadUnknown
		case strings.Contains(resp.Request.URL.Path, "/blobs/"):
			return registry.BlobUnknown
		}
		return registry.NameUnknown
	case http.StatusRequestedRangeNotSatisfiable:
		return registry.RangeInvalid
	case http.StatusTooManyRequests:
		return registry.TooManyRequests
	case http.StatusMethodNotAllowed:
		return registry.Unsupported
	case http.StatusInternalServerError, http.StatusBadGateway, http.StatusServiceUnavailable, http.StatusGatewayTimeout,
		http.StatusRequestTimeout:
		return registry.Unavailable
	}
	return registry.Unknown
}

// passing reports whether a request that failed may succeed later: one that the
// registry was not able to answer, or whose connection broke, may; one that it
// refused, or to which no connection came to be, does not.
func passing(err error) bool {
	if _, ok := errors.AsType[permanentError](err); ok {
		return false
	}
	if _, ok := errors.AsType[*registry.Error](err); ok {
		return registry.HasCode(err, registry.Unavailable, registry.TooManyRequests)
	}
	if _, ok := errors.AsType[*tls.CertificateVerificationError](err); ok {
		return false
	}
	if _, ok := errors.AsType[tls.RecordHeaderError](err); ok {
		return false
	}
	if e, ok := errors.AsType[*net.DNSError](err); ok && e.IsNotFound {
		return false
	}
	for _, kind := range []error{
		context.Canceled, context.DeadlineExceeded, syscall.ECONNREFUSED, errdefs.ErrPermissionDenied,
		errdefs.ErrUnauthenticated, errdefs.ErrInvalidArgument, errdefs.ErrNotFound,
	} {
		if errors.Is(err, kind) {
			return false
		}
	}
	return true
}

// permanentError is a failure that trying again does not mend.
type permanentError struct{ error }

func (e permanentError) Unwrap() error { return e.error }

func permanent(err error) error { return permanentError{err} }

// lost reports whether an upload failed because of what the registry holds of
// it: other bytes, another number of them, or nothing.
func lost(err error) bool {
	return registry.HasCode(err, registry.DigestInvalid, registry.RangeInvalid, registry.BlobUploadUnknown, registry.BlobUploadInvalid)
}

// interrupted reports whether an upload that failed may go on later.
func interrupted(err error) bool {
	for _, kind := range []error{context.Canceled, context.DeadlineExceeded, syscall.ECONNREFUSED} {
		if errors.Is(err, kind) {
			return true
		}
	}
	return err != nil && passing(err)
}
