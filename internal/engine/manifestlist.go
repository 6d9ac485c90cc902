package engine

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"strake/internal/image"
	"strake/internal/reference"
	"strake/internal/remote"
)

// ListedManifest is one manifest of a manifest list in the making, as docker's
// client keeps and prints it.
type ListedManifest struct {
	Ref              string
	Descriptor       ocispec.Descriptor
	Raw              []byte          `json:",omitempty"`
	SchemaV2Manifest json.RawMessage `json:",omitempty"`
	OCIManifest      json.RawMessage `json:",omitempty"`
}

// Payload is the manifest, not always with the white space that its digest is of.
func (m ListedManifest) Payload() json.RawMessage {
	if len(m.OCIManifest) > 0 {
		return m.OCIManifest
	}
	return m.SchemaV2Manifest
}

// exact is the manifest with the bytes that its digest is of. Files of old
// clients lack Raw; their white space is made again.
func (m ListedManifest) exact() ([]byte, error) {
	b := m.Raw
	if len(b) == 0 {
		indent := "   "
		if len(m.OCIManifest) > 0 {
			indent = "  "
		}
		var buf bytes.Buffer
		if err := json.Indent(&buf, m.Payload(), "", indent); err != nil {
			return nil, fmt.Errorf("manifest %s: %w", m.Ref, err)
		}
		b = buf.Bytes()
	}
	if err := image.CheckDigest(m.Descriptor.Digest); err != nil {
		return nil, fmt.Errorf("manifest %s: %w", m.Ref, err)
	}
	if got := m.Descriptor.Digest.Algorithm().FromBytes(b); got != m.Descriptor.Digest {
		return nil, fmt.Errorf("internal digest mismatch for %s: expected %s, got %s", m.Ref, m.Descriptor.Digest, got)
	}
	return b, nil
}

// manifestLists keeps the lists where docker's client keeps them, in its form:
// a directory per list, a file per manifest. Both may work on one list.
type manifestLists struct{ dir string }

func listsOf(env *Env) (manifestLists, error) {
	file, err := env.Credentials.File()
	return manifestLists{filepath.Join(filepath.Dir(file), "manifests")}, err
}

func (l manifestLists) path(list reference.Named) string {
	return filepath.Join(l.dir, fileName(list))
}

func fileName(ref reference.Named) string {
	return strings.NewReplacer(":", "-", "/", "_").Replace(ref.String())
}

// all reads the manifests of a list, or fails with errdefs.ErrNotFound.
func (l manifestLists) all(list reference.Named) ([]ListedManifest, error) {
	entries, err := os.ReadDir(l.path(list))
	if errors.Is(err, fs.ErrNotExist) || err == nil && len(entries) == 0 {
		return nil, messageError{"No such manifest: " + list.String(), errdefs.ErrNotFound}
	}
	if err != nil {
		return nil, err
	}
	manifests := make([]ListedManifest, len(entries))
	for i, e := range entries {
		if manifests[i], err = readListed(filepath.Join(l.path(list), e.Name())); err != nil {
			return nil, err
		}
	}
	return manifests, nil
}

// get reads one manifest of a list, or fails with errdefs.ErrNotFound.
func (l manifestLists) get(list, ref reference.Named) (ListedManifest, error) {
	m, err := readListed(filepath.Join(l.path(list), fileName(ref)))
	if errors.Is(err, fs.ErrNotExist) {
		return m, messageError{"No such manifest: " + ref.String(), errdefs.ErrNotFound}
	}
	return m, err
}

func readListed(path string) (m ListedManifest, err error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return m, err
	}
	if err := json.Unmarshal(b, &m); err != nil {
		return m, fmt.Errorf("read %s: %w", path, err)
	}
	return m, nil
}

// save puts a manifest into a list, atomically.
func (l manifestLists) save(list, ref reference.Named, m ListedManifest) (err error) {
	if err := os.MkdirAll(l.path(list), 0o755); err != nil { //nolint:gosec // as docker makes it
		return err
	}
	b, err := json.Marshal(m)
	if err != nil {
		return err
	}
	f, err := os.CreateTemp(l.dir, ".manifest-*") // not in the list's directory: docker takes all files there
	if err != nil {
		return err
	}
	_, err = f.Write(b)
	err = errors.Join(err, f.Chmod(0o644), f.Sync(), f.Close())
	if err == nil {
		err = os.Rename(f.Name(), filepath.Join(l.path(list), fileName(ref)))
	}
	if err != nil {
		return errors.Join(err, os.Remove(f.Name()))
	}
	return nil
}

func (l manifestLists) remove(list reference.Named) error { return os.RemoveAll(l.path(list)) }

// listReference parses a name as docker's manifest commands do: latest is meant
// where there is neither tag nor digest.
func listReference(ref string) (reference.Named, error) {
	named, err := reference.Parse(ref)
	if err != nil {
		return reference.Named{}, messageError{err.Error(), errdefs.ErrInvalidArgument}
	}
	return named.OrLatest(), nil
}

// fetchListed reads the manifest that named is at its registry; of an index it
// returns all manifests, and list is true.
func fetchListed(ctx context.Context, env *Env, named reference.Named) (manifests []ListedManifest, list bool, err error) {
	repo, err := env.Remote.Repository(named)
	if err != nil {
		return nil, false, err
	}
	root, err := repo.Resolve(ctx, named.TagOrDigest())
	if errdefs.IsNotFound(err) || errdefs.IsUnauthorized(err) {
		return nil, false, messageError{"no such manifest: " + named.String(), errdefs.ErrNotFound}
	}
	if err != nil {
		return nil, false, err
	}
	if !image.IsIndex(root.MediaType) {
		m, err := describeListed(ctx, repo, named, root)
		return []ListedManifest{m}, false, err
	}
	index, _, err := image.ReadIndex(ctx, repo, root)
	if err != nil {
		return nil, true, err
	}
	for _, d := range index.Manifests {
		ref, err := named.WithDigest(d.Digest)
		if err != nil {
			return nil, true, err
		}
		m, err := describeListed(ctx, repo, ref, d)
		if err != nil {
			return nil, true, err
		}
		if d.Platform != nil {
			m.Descriptor.Platform = d.Platform
		}
		manifests = append(manifests, m)
	}
	return manifests, true, nil
}

// describeListed reads a manifest and the platform that its config says.
func describeListed(ctx context.Context, repo *remote.Repository, named reference.Named, desc ocispec.Descriptor) (ListedManifest, error) {
	manifest, raw, err := image.ReadManifest(ctx, repo, desc)
	if err != nil {
		return ListedManifest{}, err
	}
	config, err := image.ReadAll(ctx, repo, manifest.Config, image.MaxConfigSize)
	if err != nil {
		return ListedManifest{}, err
	}
	m := ListedManifest{Ref: named.String(), Descriptor: image.Bytes(desc.MediaType, raw), Raw: raw}
	m.Descriptor.Platform = &ocispec.Platform{}
	if err := json.Unmarshal(config, m.Descriptor.Platform); err != nil {
		return ListedManifest{}, fmt.Errorf("config of %s: %w: %w", named, err, errdefs.ErrInvalidArgument)
	}
	if desc.MediaType == ocispec.MediaTypeImageManifest {
		m.OCIManifest = raw
	} else {
		m.SchemaV2Manifest = raw
	}
	return m, nil
}

// listEntry is a manifest in the list that docker's client pushes, its fields in
// the order in which it writes them.
type listEntry struct {
	MediaType string           `json:"mediaType,omitempty"`
	Size      int64            `json:"size,omitempty"`
	Digest    digest.Digest    `json:"digest,omitempty"`
	Platform  ocispec.Platform `json:"platform"`
}

// assemble makes the list that list is to name, and its media type.
func assemble(list reference.Named, manifests []ListedManifest) ([]byte, string, error) {
	made := struct {
		SchemaVersion int         `json:"schemaVersion"`
		MediaType     string      `json:"mediaType,omitempty"`
		Manifests     []listEntry `json:"manifests"`
	}{2, image.MediaTypeDockerManifestList, []listEntry{}}
	if len(manifests) > 0 && manifests[0].Descriptor.MediaType == ocispec.MediaTypeImageManifest {
		made.MediaType = ocispec.MediaTypeImageIndex
	}
	for _, m := range manifests {
		named, err := reference.Parse(m.Ref)
		if err != nil {
			return nil, "", fmt.Errorf("manifest %q: %w: %w", m.Ref, err, errdefs.ErrInvalidArgument)
		}
		if from, to := named.Domain(), list.Domain(); from != to {
			return nil, "", messageError{fmt.Sprintf(
				"cannot use source images from a different registry than the target image: %s != %s", from, to), errdefs.ErrInvalidArgument}
		}
		entry := listEntry{MediaType: m.Descriptor.MediaType, Size: m.Descriptor.Size, Digest: m.Descriptor.Digest}
		if m.Descriptor.Platform != nil {
			entry.Platform = *m.Descriptor.Platform
		}
		made.Manifests = append(made.Manifests, entry)
	}
	b, err := json.MarshalIndent(made, "", "   ")
	return b, made.MediaType, err
}
