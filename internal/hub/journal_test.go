package hub_test

import (
	"bytes"
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"strake/internal/auth"
	"strake/internal/hub"
	"strake/internal/image"
	"strake/internal/registry"
)

func system(t *testing.T) context.Context {
	return auth.With(t.Context(), auth.Identity{System: true, Name: "root"})
}

// pushBlob pushes text as a blob.
func pushBlob(ctx context.Context, t *testing.T, h *hub.Hub, repo, mediaType, text string) ocispec.Descriptor {
	t.Helper()
	desc := image.Bytes(mediaType, []byte(text))
	if err := h.PushBlob(ctx, repo, desc, strings.NewReader(text)); err != nil {
		t.Fatal(err)
	}
	return desc
}

// pushImage pushes an image that text is the layer of.
func pushImage(ctx context.Context, t *testing.T, h *hub.Hub, repo, tag, text string) ocispec.Descriptor {
	t.Helper()
	m := ocispec.Manifest{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest,
		Config: pushBlob(ctx, t, h, repo, ocispec.MediaTypeImageConfig, `{"architecture":"amd64","os":"linux"}`),
		Layers: []ocispec.Descriptor{pushBlob(ctx, t, h, repo, ocispec.MediaTypeImageLayer, text)},
	}
	return put(ctx, t, h, repo, tag, m.MediaType, m)
}

func put(ctx context.Context, t *testing.T, h *hub.Hub, repo, tag, mediaType string, m any) ocispec.Descriptor {
	t.Helper()
	b, err := json.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	var tags []string
	if tag != "" {
		tags = []string{tag}
	}
	desc, err := h.PutManifest(ctx, repo, tags, registry.Manifest{MediaType: mediaType, Bytes: b})
	if err != nil {
		t.Fatal(err)
	}
	return desc
}

// names returns what tag names, "" if it is not there.
func names(ctx context.Context, t *testing.T, h *hub.Hub, tag string) digest.Digest {
	t.Helper()
	desc, err := h.StatManifest(ctx, "ann/app", tag)
	if err != nil && !registry.HasCode(err, registry.ManifestUnknown) {
		t.Fatal(err)
	}
	if err != nil {
		return ""
	}
	return desc.Digest
}

// What was deleted or overwritten comes back, with all that it was made of.
func TestUndelete(t *testing.T) {
	h, ctx := open(t, t.TempDir()), system(t)
	j := hub.NewJournal(h)
	one, two := pushImage(ctx, t, h, "ann/app", "v1", "one"), pushImage(ctx, t, h, "ann/app", "v1", "two")
	if desc, err := j.RestoreTag(ctx, "ann/app", "v1", ""); err != nil || desc.Digest != one.Digest || names(ctx, t, h, "v1") != one.Digest {
		t.Errorf("restored the overwritten tag to %v, %v", desc, err)
	}
	if err := h.DeleteTag(ctx, "ann/app", "v1"); err != nil {
		t.Fatal(err)
	}
	if names(ctx, t, h, one.Digest.String()) == "" || names(ctx, t, h, "v1") != "" {
		t.Error("untag took the manifest, or left the tag")
	}
	if _, err := j.RestoreTag(ctx, "ann/app", "v1", two.Digest); err != nil || names(ctx, t, h, "v1") != two.Digest {
		t.Errorf("restore a tag to what it named before: %v", err)
	}
	index := put(ctx, t, h, "ann/app", "multi", ocispec.MediaTypeImageIndex, ocispec.Index{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageIndex, Manifests: []ocispec.Descriptor{one, two},
	})
	for _, d := range []digest.Digest{index.Digest, one.Digest, two.Digest} {
		if err := h.DeleteManifest(ctx, "ann/app", d); err != nil {
			t.Fatal(err)
		}
		if err := h.DeleteManifest(ctx, "ann/app", d); !registry.HasCode(err, registry.ManifestUnknown) {
			t.Errorf("deleted twice: %v", err)
		}
	}
	if trash, err := j.Trash(ctx, "ann/app"); err != nil || len(trash) != 3 || names(ctx, t, h, one.Digest.String()) != "" {
		t.Errorf("trash %+v, %v", trash, err)
	}
	if tags, err := j.RestoreManifest(ctx, "ann/app", index.Digest); err != nil || !slices.Equal(tags, []string{"multi"}) {
		t.Errorf("restored index: tags %v, %v", tags, err)
	}
	if names(ctx, t, h, "multi") != index.Digest || names(ctx, t, h, one.Digest.String()) == "" || names(ctx, t, h, two.Digest.String()) == "" {
		t.Error("the index came back without what it holds")
	}
	if _, err := j.RestoreTag(ctx, "ann/app", "none", ""); !registry.HasCode(err, registry.ManifestUnknown) {
		t.Errorf("restored what never was: %v", err)
	}
	var history []string
	events, err := j.History(ctx, "ann/app", "v1", 0)
	short := map[digest.Digest]string{"": "-", one.Digest: "one", two.Digest: "two"}
	for _, e := range slices.Backward(events) {
		history = append(history, fmt.Sprintf("%s %s %s>%s", e.Actor, e.Action, short[e.Previous], short[e.Digest]))
	}
	want := "root set ->one|root set one>two|root restore two>one|root delete one>-|root restore ->two|root delete two>-"
	if got := strings.Join(history, "|"); err != nil || got != want {
		t.Errorf("history %v, %v, want %v", got, err, want)
	}
}

// A manifest whose blobs are gone is not put back by halves, and who may not
// delete restores nothing that was deleted.
func TestUndeleteRefused(t *testing.T) {
	h, ctx := open(t, t.TempDir()), system(t)
	j := hub.NewJournal(h)
	one := pushImage(ctx, t, h, "ann/app", "v1", "one")
	if err := h.DeleteManifest(ctx, "ann/app", one.Digest); err != nil {
		t.Fatal(err)
	}
	other := auth.With(t.Context(), auth.Identity{Account: 9})
	_, herr := j.History(other, "ann/app", "", 0)
	_, terr := j.Trash(other, "ann/app")
	_, rerr := j.RestoreManifest(other, "ann/app", one.Digest)
	_, serr := j.RestoreTag(other, "ann/app", "v1", "")
	for i, err := range []error{herr, terr, rerr, serr} {
		if !registry.HasCode(err, registry.Denied) {
			t.Errorf("call %d by somebody else: %v", i, err)
		}
	}
	if err := h.DeleteBlob(ctx, "ann/app", digest.FromString("one")); err != nil {
		t.Fatal(err)
	}
	if _, err := j.RestoreManifest(ctx, "ann/app", one.Digest); !registry.HasCode(err, registry.ManifestBlobUnknown) {
		t.Errorf("restored without its layer: %v", err)
	}
	pushImage(ctx, t, h, "ann/app", "v2", "one")
	if trash, err := j.Trash(ctx, "ann/app"); err != nil || len(trash) != 0 {
		t.Errorf("what was pushed again is in the trash: %v, %v", trash, err)
	}
}

// The error of a hook undoes the change.
func TestHooks(t *testing.T) {
	var refuse hub.Kind
	var seen []hub.Kind
	hook := func(_ context.Context, _ *sql.Tx, c hub.Change) error {
		seen = append(seen, c.Kind)
		if c.Kind == refuse {
			return registry.Errorf(registry.Denied, "no %s", c.Kind)
		}
		return nil
	}
	h, err := hub.Open(t.Context(), hub.Options{Dir: t.TempDir(), Hooks: hub.Hooks{hook}})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = h.Close() }()
	ctx := system(t)
	desc := pushImage(ctx, t, h, "ann/app", "v1", "one")
	want := []hub.Kind{hub.Incoming, hub.BlobLinked, hub.Incoming, hub.BlobLinked, hub.ManifestPut, hub.TagSet}
	if !slices.Equal(seen, want) {
		t.Errorf("hooks saw %v, want %v", seen, want)
	}
	for kind, call := range map[hub.Kind]func() error{
		hub.TagDeleted:      func() error { return h.DeleteManifest(ctx, "ann/app", desc.Digest) },
		hub.ManifestDeleted: func() error { return h.DeleteManifest(ctx, "ann/app", desc.Digest) },
		hub.BlobDeleted:     func() error { return h.DeleteBlob(ctx, "ann/app", digest.FromString("one")) },
		hub.Incoming:        func() error { _, err := h.StartUpload(ctx, "ann/app"); return err },
		hub.BlobLinked: func() error {
			return h.PushBlob(ctx, "ann/app", image.Bytes("", []byte("x")), bytes.NewReader([]byte("x")))
		},
	} {
		refuse = kind
		if err := call(); !registry.HasCode(err, registry.Denied) {
			t.Errorf("%s was not refused: %v", kind, err)
		}
	}
	_, blobErr := h.StatBlob(ctx, "ann/app", digest.FromString("one"))
	_, newErr := h.StatBlob(ctx, "ann/app", digest.FromString("x"))
	if names(ctx, t, h, "v1") != desc.Digest || blobErr != nil || newErr == nil {
		t.Errorf("something that was refused was done: %v, %v", blobErr, errors.Is(newErr, nil))
	}
}
