// Package fault says which part of what somebody entered is wrong.
//
// A field has the name that the REST API gives it, such as full_name. Pages show
// the error beside it, and the API names it.
package fault

import "errors"

// Error is an error about one field. It reads and unwraps as the error itself.
type Error struct {
	Field string
	Err   error
}

func (e *Error) Error() string { return e.Err.Error() }

// Unwrap gives errors.Is and errors.As the error itself.
func (e *Error) Unwrap() error { return e.Err }

// In says that err is about a field. An error that names its field already keeps
// it, as does no error.
func In(field string, err error) error {
	if err == nil || Of(err) != nil {
		return err
	}
	return &Error{field, err}
}

// Of is the first error in err that names a field, or nil.
func Of(err error) *Error {
	e, _ := errors.AsType[*Error](err)
	return e
}
