package engine

import (
	"errors"
	"fmt"

	"github.com/containerd/errdefs"

	"strake/internal/image"
	"strake/internal/reference"
	"strake/internal/registry"
	"strake/internal/remote"
)

// A registry's answers in docker's words, by what was asked of it.

// pullError gives a registry's answer docker's text.
func pullError(named reference.Named, err error) error {
	switch {
	case errdefs.IsUnauthorized(err), errdefs.IsPermissionDenied(err):
		return messageError{fmt.Sprintf("pull access denied for %s, repository does not exist or may require 'docker login': denied: %s",
			named.Familiar().Name(), answer(err, "requested access to the resource is denied")), errdefs.ErrNotFound}
	case registry.HasCode(err, registry.NameUnknown):
		return messageError{fmt.Sprintf("repository %s not found: name unknown: %s",
			named.Familiar().Name(), answer(err, "repository name not known to registry")), errdefs.ErrNotFound}
	case registry.HasCode(err, registry.ManifestUnknown):
		return messageError{fmt.Sprintf("manifest for %s not found: manifest unknown: %s",
			named.Familiar().String(), answer(err, "manifest unknown")), errdefs.ErrNotFound}
	}
	return refused(copyError(err))
}

// refused gives a registry's refusal for too many requests docker's text, and a
// line that says what the limit is.
func refused(err error) error {
	if !registry.HasCode(err, registry.TooManyRequests) {
		return err
	}
	text := "toomanyrequests: " + answer(err, "too many requests to registry")
	if limit, ok := errors.AsType[*remote.RateLimit](err); ok && limit.String() != "" {
		text += "\n" + limit.String()
	}
	return messageError{text, errdefs.ErrResourceExhausted}
}

// copyError takes from a copy's error what docker would not say.
func copyError(err error) error {
	if failed, ok := errors.AsType[*image.CopyError](err); ok && (failed.Op == "resolve" || failed.Op == "take in") {
		return failed.Err
	}
	return err
}

// answer is the message that the registry sent; to a HEAD it sends none.
func answer(err error, fallback string) string {
	if e, ok := errors.AsType[*registry.Error](err); ok && e.Message != "" {
		return e.Message
	}
	return fallback
}

// pushError gives a registry's answer docker's text.
func pushError(named reference.Named, err error) error {
	switch {
	case errdefs.IsUnauthorized(err):
		return messageError{"unauthorized: " + answer(err, "authentication required"), errdefs.ErrUnauthenticated}
	case errdefs.IsPermissionDenied(err):
		return messageError{"denied: " + answer(err, "requested access to the resource is denied"), errdefs.ErrPermissionDenied}
	}
	if registry.HasCode(err, registry.TooManyRequests) {
		return refused(err)
	}
	return fmt.Errorf("push %s: %w", named.Familiar().String(), copyError(err))
}

// deleteError says plainly what a registry answers to a deletion.
func deleteError(named reference.Named, err error) error {
	switch {
	case registry.HasCode(err, registry.Unsupported):
		return messageError{fmt.Sprintf("registry %s does not allow deletion", named.Domain()), errdefs.ErrNotImplemented}
	case errdefs.IsNotFound(err):
		return pullError(named, err)
	}
	return pushError(named, err)
}

// loginError gives a refusal of a credential docker's text.
func loginError(err error) error {
	if errdefs.IsUnauthorized(err) {
		return messageError{"unauthorized: " + answer(err, "incorrect username or password"), errdefs.ErrUnauthenticated}
	}
	return err
}
