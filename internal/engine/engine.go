// Package engine is what Strake can do: one exported function per verb, one
// file per function, each with its options and its result.
//
// An Env is what verbs work on. The error texts of verbs are those of docker's
// daemon, and their kinds those of containerd/errdefs, so that every skin over
// this package (the command line, the Engine API) tells them as docker does. A
// reference is what a user writes for an image: a name with or without tag or
// digest, an ID or a prefix of one. A familiar name is a canonical one without
// docker's defaults: debian:bookworm for docker.io/library/debian:bookworm.
package engine

import (
	"errors"
	"log/slog"
	"strings"

	"github.com/containerd/errdefs"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"strake/internal/image"
	"strake/internal/reference"
	"strake/internal/remote"
	"strake/internal/store"
)

// Env is what the verbs work on. It is safe for concurrent use.
type Env struct {
	Store       *store.Store
	Remote      *remote.Client
	Credentials *remote.Config // where Login keeps what Remote uses
	Settings    Settings       // of Strake's own configuration file
	Version     string         // Strake's
	Log         *slog.Logger   // told what a process that nobody waits for cannot tell anybody else; nil drops it
}

// Image is one image of the store.
type Image = store.Image

// Event is one step of a copy, as Progress callbacks are told it.
type Event = image.Event

// The states of an Event.
const (
	StateWaiting = image.StateWaiting
	StateExists  = image.StateExists
	StateMounted = image.StateMounted
	StateCopying = image.StateCopying
	StateDone    = image.StateDone
)

// familiar shortens a canonical name or repo digest. It is Named.Familiar
// without the cost of parsing.
func familiar(name string) string {
	if rest, ok := strings.CutPrefix(name, "docker.io/"); ok {
		return strings.TrimPrefix(rest, "library/")
	}
	return name
}

// FamiliarNames shortens canonical names.
func FamiliarNames(names []string) []string {
	list := make([]string, len(names))
	for i, name := range names {
		list[i] = familiar(name)
	}
	return list
}

// ParseName parses what a user writes for an image in a registry and adds the
// tag latest where it has neither tag nor digest.
func ParseName(ref string) (reference.Named, error) {
	named, err := reference.Parse(ref)
	if err != nil {
		return reference.Named{}, messageError{err.Error(), errdefs.ErrInvalidArgument}
	}
	return named.OrLatest(), nil
}

// imageError gives an error of the store that concerns ref docker's text.
func imageError(ref string, err error) error {
	switch {
	case errdefs.IsNotFound(err):
		name := ref
		if named, parseErr := reference.Parse(ref); parseErr == nil {
			name = named.OrLatest().Familiar().String()
		}
		return messageError{"No such image: " + name, errdefs.ErrNotFound}
	case errdefs.IsInvalidArgument(err) && strings.Contains(err.Error(), invalidReference):
		text := invalidReference
		if _, parseErr := reference.Parse(ref); parseErr != nil {
			text = parseErr.Error()
		}
		return messageError{text, errdefs.ErrInvalidArgument}
	}
	return err
}

const invalidReference = "invalid reference format"

// IsInvalidReference reports whether a verb failed because what it was given is
// no reference.
func IsInvalidReference(err error) bool {
	return errdefs.IsInvalidArgument(err) && strings.Contains(err.Error(), invalidReference)
}

// messageError is an error whose text is docker's, with its kind.
type messageError struct {
	text string
	kind error
}

func (e messageError) Error() string { return e.text }

func (e messageError) Unwrap() error { return e.kind }

// closing adds the error of a Close to err.
func closing(err *error, closer func() error) {
	if closeErr := closer(); closeErr != nil {
		*err = errors.Join(*err, closeErr)
	}
}

// IsLayer reports whether desc is a layer tar, in any compression.
func IsLayer(desc ocispec.Descriptor) bool {
	return strings.Contains(desc.MediaType, "image.layer.") || strings.Contains(desc.MediaType, "image.rootfs.")
}

// addOptions is how an image from elsewhere gets its name here.
func addOptions(named reference.Named, root ocispec.Descriptor) store.AddImageOptions {
	add := store.AddImageOptions{Action: "pull", Actor: named.Familiar().String(), Root: root, RepoDigest: named.Name() + "@" + root.Digest.String()}
	if named.Digest() == "" {
		add.Names = []string{named.String()}
	}
	return add
}
