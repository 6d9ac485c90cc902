package engine

import (
	"context"
	"fmt"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"

	"strake/internal/reference"
)

// TagOptions say which image gets which name.
type TagOptions struct {
	Source string // any reference
	Target string // a name, with or without tag
}

// Tag gives an image one more name, which an image that had it loses. It is
// atomic, and doing it twice is the same as once.
func Tag(ctx context.Context, env *Env, opts TagOptions) error {
	target, err := ParseTarget(opts.Target)
	if err != nil {
		return err
	}
	if target.Familiar().Name() == digest.Canonical.String() {
		return messageError{"refusing to create an ambiguous tag using digest algorithm as name", errdefs.ErrInvalidArgument}
	}
	if err := env.Store.SetName(ctx, target, opts.Source); err != nil {
		return imageError(opts.Source, err)
	}
	return nil
}

// CheckSource fails unless what a tag is to be made of is a reference.
func CheckSource(source string) error {
	if _, err := digest.Parse(source); err == nil || reference.IsIdentifier(source) {
		return nil
	}
	if _, err := reference.Parse(source); err != nil {
		return notParsed(source, err)
	}
	return nil
}

// CheckName fails unless name is the name of an image.
func CheckName(name string) error {
	if _, err := reference.Parse(name); err != nil {
		return messageError{err.Error(), errdefs.ErrInvalidArgument}
	}
	return nil
}

func notParsed(name string, err error) error {
	return messageError{fmt.Sprintf("Error parsing reference: %q is not a valid repository/tag: %s", name, err), errdefs.ErrInvalidArgument}
}

// ParseTarget parses a name that an image is to have, and adds the tag latest
// where it has none.
func ParseTarget(name string) (reference.Named, error) {
	named, err := reference.Parse(name)
	if err != nil {
		return reference.Named{}, notParsed(name, err)
	}
	if named.Digest() != "" {
		return reference.Named{}, messageError{"refusing to create a tag with a digest reference", errdefs.ErrInvalidArgument}
	}
	return named.OrLatest(), nil
}
