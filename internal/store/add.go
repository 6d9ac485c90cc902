package store

import (
	"cmp"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// AddImageOptions say what becomes reachable.
type AddImageOptions struct {
	Root       ocispec.Descriptor   // manifest or index that the names point to
	Manifests  []ocispec.Descriptor // those of an index that are to be kept; none: all that are here
	Names      []string             // canonical, with a tag
	RepoDigest string               // repository@digest that holds Root; "" for none
	Source     string               // the host and repository that it was pulled from; "" for none

	// Action is how the image came (build, import, load, pull), for the journal
	// and the events, and Actor the name that was pulled; "" is the image's ID.
	Action, Actor string
}

// AddImage makes images, whose blobs have been pushed, reachable, in one
// transaction, and returns the one that stands for Root. Adding what is there
// adds its names, and to an index its manifests: those that it kept stay.
func (s *Store) AddImage(ctx context.Context, opts AddImageOptions) (Image, error) {
	add := &adder{s, opts}
	parts, err := add.parts(ctx)
	if err != nil {
		return Image{}, err
	}
	if img, ok, err := add.added(ctx, parts); err != nil || ok {
		if err == nil && (opts.Action == "pull" || opts.Action == "load") {
			err = opts.tell(ctx, s, img.ID)
		}
		return img, err
	}
	var img Image // as this transaction leaves it: the next may remove it
	err = s.db.Update(ctx, func(tx *sql.Tx) error {
		if ok, err := exists(ctx, tx, "blobs WHERE digest = $1", opts.Root.Digest.String()); err != nil || !ok {
			return errors.Join(err, fmt.Errorf("%s: %w", opts.Root.Digest, errdefs.ErrNotFound))
		}
		id, err := addParts(ctx, tx, opts.Root, parts)
		if err != nil {
			return err
		}
		if err := opts.setNames(ctx, tx, s.begin, id); err != nil {
			return err
		}
		if repository, dgst, ok := strings.Cut(opts.RepoDigest, "@"); ok {
			if err := recordRepoDigest(ctx, tx, repository, dgst, opts.Root, id, opts.Source); err != nil {
				return err
			}
		}
		img, _, err = lookUp(ctx, tx, id.String())
		return err
	})
	if err != nil {
		return Image{}, fmt.Errorf("add image %s: %w", opts.Root.Digest, err)
	}
	return img, nil
}

// setNames gives the image its names and writes the events. What the names
// named can be brought back.
func (o AddImageOptions) setNames(ctx context.Context, tx *sql.Tx, begin func(string, bool) *entry, id digest.Digest) (err error) {
	var event int64
	undo := begin(o.what(), true)
	for _, name := range o.Names {
		if err := setName(ctx, tx, undo, name, o.Root, id); err != nil {
			return err
		}
		if o.Action == "pull" || o.Action == "load" {
			continue // one event is all that docker has of them
		}
		if event, err = imageEvent(ctx, tx, "tag", id.String(), familiar(name), id); err != nil {
			return err
		}
	}
	if o.Action != "" && o.Action != "build" {
		if event, err = o.event(ctx, tx, id); err != nil {
			return err
		}
	}
	return undo.write(ctx, tx, event)
}

// what names the change in the journal.
func (o AddImageOptions) what() string {
	names := make([]string, len(o.Names))
	for i, name := range o.Names {
		names[i] = familiar(name)
	}
	return strings.TrimSpace(cmp.Or(o.Action, "tag") + " " + strings.Join(names, " "))
}

// event writes docker's event of the way in which the image came.
func (o AddImageOptions) event(ctx context.Context, tx *sql.Tx, id digest.Digest) (int64, error) {
	if o.Actor != "" {
		return imageEvent(ctx, tx, o.Action, o.Actor, repositoryOf(o.Actor), id)
	}
	return imageEvent(ctx, tx, o.Action, id.String(), id.String(), id)
}

func (o AddImageOptions) tell(ctx context.Context, s *Store, id digest.Digest) error {
	return s.db.Note(ctx, func(tx *sql.Tx) error {
		_, err := o.event(ctx, tx, id)
		return err
	})
}

// added reports whether the images and all their names are as they are to be.
func (a *adder) added(ctx context.Context, parts []part) (img Image, ok bool, err error) {
	list, err := a.Variants(ctx, a.opts.Root)
	if err != nil || len(list) == 0 {
		return Image{}, false, err
	}
	img = list[0]
	held, err := a.Held(ctx, a.opts.Root.Digest)
	if err != nil {
		return img, false, err
	}
	for _, p := range parts {
		listed := slices.ContainsFunc(list, func(v Image) bool { return v.ID == p.id && v.Manifest.Digest == p.desc.Digest })
		if p.id != "" && !listed || p.id == "" && !held[p.desc.Digest] {
			return img, false, nil
		}
	}
	if a.opts.RepoDigest != "" && !slices.Contains(img.RepoDigests, a.opts.RepoDigest) {
		return img, false, nil
	}
	for _, name := range a.opts.Names {
		root, err := a.Resolve(ctx, name)
		if err != nil || root.Digest != a.opts.Root.Digest || !slices.Contains(img.Names, name) {
			return img, false, nil //nolint:nilerr // the name is not there: it is to be made
		}
	}
	return img, true, nil
}

// HasImage reports whether the image id was made with the manifest and has the
// names, so that AddImage would do nothing. It writes and leases nothing.
func (s *Store) HasImage(ctx context.Context, id, manifest digest.Digest, names []string) (bool, error) {
	n := 0
	err := s.db.Get(ctx, "SELECT COUNT(*) FROM images WHERE id = $1 AND manifest = $2", []any{id.String(), manifest.String()}, &n)
	for i := 0; i < len(names) && err == nil && n == 1; i++ {
		err = s.db.Get(ctx, "SELECT COUNT(*) FROM names WHERE name = $1 AND root = $2 AND image_id = $3",
			[]any{names[i], manifest.String(), id.String()}, &n)
	}
	if err != nil {
		return false, fmt.Errorf("image %s: %w", id, err)
	}
	return n == 1, nil
}

// Tag implements image.Target: ref is a canonical name with its tag.
func (s *Store) Tag(ctx context.Context, desc ocispec.Descriptor, ref string) error {
	_, err := s.AddImage(ctx, AddImageOptions{Root: desc, Names: []string{ref}})
	return err
}

// RecordRepoDigest notes that repository holds the image as root, a manifest or
// index that the store holds too.
func (s *Store) RecordRepoDigest(ctx context.Context, id digest.Digest, repository string, root ocispec.Descriptor) error {
	return s.db.Update(ctx, func(tx *sql.Tx) error {
		return recordRepoDigest(ctx, tx, repository, root.Digest.String(), root, id, "")
	})
}

func recordRepoDigest(ctx context.Context, tx *sql.Tx, repository, dgst string, root ocispec.Descriptor, id digest.Digest, source string) error {
	// An image that was removed meanwhile gets none: nothing would lead to it.
	_, err := tx.ExecContext(ctx, `INSERT INTO repo_digests (repository, digest, root_type, root_size, source, image_id)
		SELECT $1, $2, $3, $4, $5, id FROM images WHERE id = $6
		ON CONFLICT (repository, digest) DO UPDATE SET image_id = excluded.image_id`,
		repository, dgst, root.MediaType, root.Size, source, id.String())
	return err
}
