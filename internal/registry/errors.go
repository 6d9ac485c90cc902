package registry

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"time"

	"github.com/containerd/errdefs"
)

// Code is an error code of the distribution specification.
type Code string

// The codes.
const (
	BlobUnknown         Code = "BLOB_UNKNOWN"
	BlobUploadInvalid   Code = "BLOB_UPLOAD_INVALID"
	BlobUploadUnknown   Code = "BLOB_UPLOAD_UNKNOWN"
	DigestInvalid       Code = "DIGEST_INVALID"
	ManifestBlobUnknown Code = "MANIFEST_BLOB_UNKNOWN"
	ManifestInvalid     Code = "MANIFEST_INVALID"
	ManifestUnknown     Code = "MANIFEST_UNKNOWN"
	NameInvalid         Code = "NAME_INVALID"
	NameUnknown         Code = "NAME_UNKNOWN"
	SizeInvalid         Code = "SIZE_INVALID"
	TagInvalid          Code = "TAG_INVALID"
	Unauthorized        Code = "UNAUTHORIZED"
	Denied              Code = "DENIED"
	Unsupported         Code = "UNSUPPORTED"
	TooManyRequests     Code = "TOOMANYREQUESTS"
	RangeInvalid        Code = "RANGE_INVALID"
	Unavailable         Code = "UNAVAILABLE"
	PageInvalid         Code = "PAGINATION_NUMBER_INVALID"
	Unknown             Code = "UNKNOWN"
)

// codes is the one table: of each code the status it is sent with and the kind
// of error it is here.
var codes = map[Code]struct {
	status int
	kind   error
}{
	BlobUnknown:         {http.StatusNotFound, errdefs.ErrNotFound},
	BlobUploadInvalid:   {http.StatusBadRequest, errdefs.ErrInvalidArgument},
	BlobUploadUnknown:   {http.StatusNotFound, errdefs.ErrNotFound},
	DigestInvalid:       {http.StatusBadRequest, errdefs.ErrInvalidArgument},
	ManifestBlobUnknown: {http.StatusBadRequest, errdefs.ErrFailedPrecondition},
	ManifestInvalid:     {http.StatusBadRequest, errdefs.ErrInvalidArgument},
	ManifestUnknown:     {http.StatusNotFound, errdefs.ErrNotFound},
	NameInvalid:         {http.StatusBadRequest, errdefs.ErrInvalidArgument},
	NameUnknown:         {http.StatusNotFound, errdefs.ErrNotFound},
	SizeInvalid:         {http.StatusRequestEntityTooLarge, errdefs.ErrResourceExhausted},
	TagInvalid:          {http.StatusBadRequest, errdefs.ErrInvalidArgument},
	Unauthorized:        {http.StatusUnauthorized, errdefs.ErrUnauthenticated},
	Denied:              {http.StatusForbidden, errdefs.ErrPermissionDenied},
	Unsupported:         {http.StatusMethodNotAllowed, errdefs.ErrNotImplemented},
	TooManyRequests:     {http.StatusTooManyRequests, errdefs.ErrResourceExhausted},
	RangeInvalid:        {http.StatusRequestedRangeNotSatisfiable, errdefs.ErrOutOfRange},
	Unavailable:         {http.StatusServiceUnavailable, errdefs.ErrUnavailable},
	PageInvalid:         {http.StatusBadRequest, errdefs.ErrInvalidArgument},
	Unknown:             {http.StatusInternalServerError, errdefs.ErrUnknown},
}

// kinds gives errors that bring no code one.
var kinds = []struct {
	kind error
	code Code
}{
	{errdefs.ErrUnauthenticated, Unauthorized},
	{errdefs.ErrPermissionDenied, Denied},
	{errdefs.ErrOutOfRange, RangeInvalid},
	{errdefs.ErrResourceExhausted, SizeInvalid},
	{errdefs.ErrNotImplemented, Unsupported},
	{errdefs.ErrUnavailable, Unavailable},
	{errdefs.ErrNotFound, NameUnknown},
	{errdefs.ErrInvalidArgument, NameInvalid},
}

// Error is an error of the API. It is of the errdefs kind that its code means,
// and wraps Err when there is one.
type Error struct {
	Code    Code
	Message string
	Detail  json.RawMessage // passed on as it came
	Err     error

	// RetryAfter is when to try again, of TOOMANYREQUESTS and UNAVAILABLE: sent in
	// whole seconds, one at least.
	RetryAfter time.Duration
}

// Errorf makes an Error; %w in format sets what it wraps.
func Errorf(code Code, format string, args ...any) *Error {
	err := fmt.Errorf(format, args...)
	return &Error{Code: code, Message: err.Error(), Err: errors.Unwrap(err)}
}

func (e *Error) Error() string {
	switch {
	case e.Message != "":
		return e.Message
	case e.Err != nil:
		return e.Err.Error()
	}
	return string(e.Code)
}

// Unwrap returns the kind of the code, and what the error wraps.
func (e *Error) Unwrap() []error {
	errs := []error{errdefs.ErrUnknown}
	if c, ok := codes[e.Code]; ok {
		errs[0] = c.kind
	}
	if e.Err != nil {
		errs = append(errs, e.Err)
	}
	return errs
}

// HasCode reports whether err is an Error with one of the codes.
func HasCode(err error, codes ...Code) bool {
	e, ok := errors.AsType[*Error](err)
	return ok && slices.Contains(codes, e.Code)
}

// Status is the HTTP status that the code is sent with.
func (e *Error) Status() int {
	if c, ok := codes[e.Code]; ok {
		return c.status
	}
	return http.StatusInternalServerError
}

// ErrorOf returns the Error in err, or one made after err's kind. Of an error
// of no known kind the text is left out: it is the server's own affair.
func ErrorOf(err error) *Error {
	if e, ok := errors.AsType[*Error](err); ok {
		return e
	}
	for _, k := range kinds {
		if errors.Is(err, k.kind) {
			return &Error{Code: k.code, Message: err.Error(), Err: err}
		}
	}
	return &Error{Code: Unknown, Message: "internal error", Err: err}
}
