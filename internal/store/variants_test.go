package store

import (
	"maps"
	"slices"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/containerd/platforms"
	"github.com/google/go-cmp/cmp"
	"github.com/opencontainers/go-digest"
	specs "github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"strake/internal/image"
)

// multi is a fixture of an index with one image per platform, and an attestation
// of the first.
type multi struct {
	*fixture
	images    map[string]*fixture // by platform
	manifests map[string]ocispec.Descriptor
}

func newMulti(t *testing.T, text string, list ...string) *multi {
	t.Helper()
	m := &multi{&fixture{blobs: map[digest.Digest][]byte{}}, map[string]*fixture{}, map[string]ocispec.Descriptor{}}
	index := ocispec.Index{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageIndex}
	for _, name := range list {
		p := platforms.MustParse(name)
		f := newFixtureFor(t, text+" for "+name, p)
		maps.Copy(m.blobs, f.blobs)
		desc := f.root
		desc.Platform = &p
		index.Manifests = append(index.Manifests, desc)
		m.images[name], m.manifests[name] = f, desc
	}
	m.root = m.putJSON(t, ocispec.MediaTypeImageIndex, index)
	return m
}

// add copies the images for platforms and names the index.
func (m *multi) add(t *testing.T, s *Store, name string, list ...string) Image {
	t.Helper()
	opts := AddImageOptions{Root: m.root, Names: []string{name}}
	for _, p := range list {
		opts.Manifests = append(opts.Manifests, m.manifests[p])
	}
	err := image.CopyGraph(t.Context(), m, s, m.root, image.CopyOptions{
		Select: func(ocispec.Index) ([]ocispec.Descriptor, error) { return opts.Manifests, nil },
	})
	if err != nil {
		t.Fatal(err)
	}
	img, err := s.AddImage(t.Context(), opts)
	if err != nil {
		t.Fatal(err)
	}
	return img
}

func (m *multi) id(p string) digest.Digest { return m.images[p].config.Digest }

// deleted is what Remove tells of a platform: the image and its one layer.
func (m *multi) deleted(p string) []digest.Digest {
	return []digest.Digest{m.id(p), m.images[p].diffID}
}

// reopen gives the lease up, as the end of a command does, and collects.
func reopen(t *testing.T, s *Store) *Store {
	t.Helper()
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	s = open(t, s.Root())
	if _, err := s.GC(t.Context()); err != nil {
		t.Fatal(err)
	}
	if res, err := s.Check(t.Context(), CheckOptions{}); err != nil || len(res.Findings) > 0 {
		t.Errorf("check: %+v, %v", res.Findings, err)
	}
	return s
}

// Check misses what an index keeps, and Repair brings it back.
func TestCheckIndex(t *testing.T) {
	s := open(t, t.TempDir())
	m := newMulti(t, "checked", "linux/amd64", "linux/arm64")
	m.add(t, s, "docker.io/library/c:1", "linux/amd64", "linux/arm64")
	for _, query := range []string{
		"DELETE FROM variants", "DELETE FROM images", "DELETE FROM images WHERE architecture = 'arm64'",
	} {
		exec(t, s, query)
		res, err := s.Check(t.Context(), CheckOptions{})
		if err != nil || len(res.Findings) == 0 {
			t.Errorf("%s: found %+v, %v", query, res.Findings, err)
		}
		if err := s.Repair(t.Context(), res.Findings, RepairOptions{}); err != nil {
			t.Fatal(err)
		}
		if ids := held(t, s, m.root); len(ids) != 2 {
			t.Errorf("%s: repaired to %v", query, ids)
		}
		s = reopen(t, s)
	}
}

// listed is what a list of images shows: IDs by names. An overview shows the same.
func listed(t *testing.T, s *Store) map[string]digest.Digest {
	t.Helper()
	list, err := s.Images(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	overview, err := s.Overview(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	want := []Image{}
	for _, img := range list {
		want = append(want, Image{ID: img.ID, Created: img.Created, Size: img.Size, Names: img.Names, RepoDigests: img.RepoDigests})
	}
	if diff := cmp.Diff(want, overview, cmp.AllowUnexported(Image{})); diff != "" {
		t.Errorf("the overview is another list (-want +got):\n%s", diff)
	}
	out := map[string]digest.Digest{}
	for _, img := range list {
		for _, name := range img.Names {
			out[name] = img.ID
		}
		if len(img.Names) == 0 {
			out["<none> "+img.ID.String()] = img.ID
		}
	}
	return out
}

func held(t *testing.T, s *Store, root ocispec.Descriptor) []digest.Digest {
	t.Helper()
	list, err := s.Variants(t.Context(), root)
	if err != nil {
		t.Fatal(err)
	}
	var ids []digest.Digest
	for _, img := range list {
		ids = append(ids, img.ID)
	}
	return ids
}

// A name gets one platform after the other, loses one, and loses all.
func TestPlatformsLife(t *testing.T) {
	host := platforms.Format(platforms.DefaultSpec())
	other := "linux/s390x"
	const name, second = "docker.io/library/multi:1", "docker.io/library/multi:2"
	s := open(t, t.TempDir())
	m := newMulti(t, "multi", other, "linux/ppc64le", host)

	if img := m.add(t, s, name, other); img.ID != m.id(other) {
		t.Errorf("the only platform does not stand for the index: %s", img.ID)
	}
	if img := m.add(t, s, name, host); img.ID != m.id(host) {
		t.Errorf("this machine's platform does not stand for the index: %s", img.ID)
	}
	s = reopen(t, s)
	if diff := cmp.Diff([]digest.Digest{m.id(host), m.id(other)}, held(t, s, m.root)); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff(map[string]digest.Digest{name: m.id(host)}, listed(t, s)); diff != "" {
		t.Error(diff)
	}
	img, err := s.Image(t.Context(), m.id(other).Encoded()[:12])
	if err != nil || !cmp.Equal(img.Names, []string{name}) {
		t.Errorf("by ID: %+v, %v", img, err)
	}
	for _, ref := range []string{name, m.id(host).String(), m.root.Digest.String()} {
		if root, err := s.Resolve(t.Context(), ref); err != nil || root.Digest != m.root.Digest {
			t.Errorf("Resolve(%q) = %s, %v", ref, root.Digest, err)
		}
	}
	if err := s.Tag(t.Context(), m.root, second); err != nil {
		t.Fatal(err)
	}

	// a platform goes from every name
	gone := []ocispec.Platform{platforms.MustParse(host)}
	res, err := s.Remove(t.Context(), RemoveOptions{Ref: name, Force: true, Platforms: gone})
	if err != nil || !cmp.Equal(res.Deleted, slices.Concat(m.deleted(host))) || len(res.Untagged) > 0 {
		t.Errorf("removed %+v, %v", res, err)
	}
	s = reopen(t, s)
	if diff := cmp.Diff(map[string]digest.Digest{name: m.id(other), second: m.id(other)}, listed(t, s)); diff != "" {
		t.Error(diff)
	}
	if ok, err := s.Exists(t.Context(), m.manifests[host]); err != nil || ok {
		t.Errorf("the removed platform is there still: %v", err)
	}
	if _, err := s.Remove(t.Context(), RemoveOptions{Ref: name, Force: true, Platforms: gone}); !errdefs.IsNotFound(err) {
		t.Errorf("error %v", err)
	}

	// the names go, and all with the last
	m.add(t, s, name, host)
	if res, err := s.Remove(t.Context(), RemoveOptions{Ref: name}); err != nil || len(res.Deleted) > 0 {
		t.Errorf("untagged %+v, %v", res, err)
	}
	res, err = s.Remove(t.Context(), RemoveOptions{Ref: second})
	if err != nil || !cmp.Equal(res.Deleted, slices.Concat(m.deleted(host), m.deleted(other))) {
		t.Errorf("removed %+v, %v", res, err)
	}
	s = reopen(t, s)
	if left := files(t, s, "blobs/sha256"); len(left) > 0 {
		t.Errorf("blobs left: %v", left)
	}
}

// Two indexes share a platform: it goes with the second of them.
func TestSharedPlatform(t *testing.T) {
	host := platforms.Format(platforms.DefaultSpec())
	s := open(t, t.TempDir())
	one := newMulti(t, "x", host, "linux/s390x")
	two := newMulti(t, "x", host, "linux/ppc64le")
	one.add(t, s, "docker.io/library/one:1", host, "linux/s390x")
	two.add(t, s, "docker.io/library/two:1", "linux/ppc64le") // has the host's too: it is here
	if diff := cmp.Diff([]digest.Digest{two.id(host), two.id("linux/ppc64le")}, held(t, s, two.root)); diff != "" {
		t.Error(diff)
	}
	res, err := s.Remove(t.Context(), RemoveOptions{Ref: "one:1"})
	if err != nil || !cmp.Equal(res.Deleted, slices.Concat(one.deleted("linux/s390x"))) {
		t.Errorf("removed %+v, %v", res, err)
	}
	s = reopen(t, s)
	if diff := cmp.Diff(map[string]digest.Digest{"docker.io/library/two:1": two.id(host)}, listed(t, s)); diff != "" {
		t.Error(diff)
	}
	// by ID, one that does not stand for the index goes alone
	res, err = s.Remove(t.Context(), RemoveOptions{Ref: two.id("linux/ppc64le").String()})
	if err != nil || !cmp.Equal(res.Deleted, slices.Concat(two.deleted("linux/ppc64le"))) || len(res.Untagged) > 0 {
		t.Errorf("removed %+v, %v", res, err)
	}
	// the last platform takes the name along
	res, err = s.Remove(t.Context(), RemoveOptions{Ref: "two:1", Force: true, Platforms: []ocispec.Platform{platforms.MustParse(host)}})
	if err != nil || !cmp.Equal(res.Deleted, slices.Concat(two.deleted(host))) || !cmp.Equal(res.Untagged, []string{"docker.io/library/two:1"}) {
		t.Errorf("removed %+v, %v", res, err)
	}
	s = reopen(t, s)
	if left := files(t, s, "blobs/sha256"); len(left) > 0 {
		t.Errorf("blobs left: %v", left)
	}
}

// A name that moves on leaves one dangling image per index, which goes whole.
func TestDanglingIndex(t *testing.T) {
	host := platforms.Format(platforms.DefaultSpec())
	s := open(t, t.TempDir())
	old, recent := newMulti(t, "old", host, "linux/s390x"), newMulti(t, "new", host)
	old.add(t, s, "docker.io/library/x:1", host, "linux/s390x")
	recent.add(t, s, "docker.io/library/x:1", host)
	s = reopen(t, s)
	want := map[string]digest.Digest{"docker.io/library/x:1": recent.id(host), "<none> " + old.id(host).String(): old.id(host)}
	if diff := cmp.Diff(want, listed(t, s)); diff != "" {
		t.Error(diff)
	}
	res, err := s.Remove(t.Context(), RemoveOptions{Ref: old.id(host).String()})
	if err != nil || !cmp.Equal(res.Deleted, slices.Concat(old.deleted(host), old.deleted("linux/s390x"))) {
		t.Errorf("removed %+v, %v", res, err)
	}
}

// Attestations are kept with the index and are no images.
func TestAttestations(t *testing.T) {
	s := open(t, t.TempDir())
	m := newMulti(t, "attested", "linux/amd64", "linux/arm64")
	statement := m.put("application/vnd.in-toto+json", []byte("{}"))
	config := m.putJSON(t, ocispec.MediaTypeImageConfig, ocispec.Image{
		Platform: ocispec.Platform{OS: "unknown", Architecture: "unknown"},
		RootFS:   ocispec.RootFS{Type: "layers", DiffIDs: []digest.Digest{statement.Digest}},
	})
	attestation := m.putJSON(t, ocispec.MediaTypeImageManifest, ocispec.Manifest{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest,
		Config: config, Layers: []ocispec.Descriptor{statement},
	})
	attestation.Platform = &ocispec.Platform{OS: "unknown", Architecture: "unknown"}
	attestation.Annotations = map[string]string{"vnd.docker.reference.type": "attestation-manifest"}
	m.root = m.putJSON(t, ocispec.MediaTypeImageIndex, ocispec.Index{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageIndex,
		Manifests: []ocispec.Descriptor{m.manifests["linux/amd64"], m.manifests["linux/arm64"], attestation},
	})
	if _, err := image.Copy(t.Context(), m, "", s, "docker.io/library/a:1", image.CopyOptions{}); err != nil {
		t.Fatal(err)
	}
	s = reopen(t, s)
	if ids := held(t, s, m.root); len(ids) != 2 {
		t.Errorf("images %v", ids)
	}
	if all, err := s.Held(t.Context(), m.root.Digest); err != nil || !all[attestation.Digest] || len(all) != 3 {
		t.Errorf("held %v, %v", all, err)
	}
	second := open(t, t.TempDir())
	if _, err := image.Copy(t.Context(), s, "a:1", second, "docker.io/library/a:1", image.CopyOptions{}); err != nil {
		t.Errorf("copy of the whole index: %v", err)
	}
}

// An image that keeps a name of its own is taken out of an index again and
// again, and each time it can be brought back.
func TestRemoveMemberUndo(t *testing.T) {
	s := openWith(t, Options{Root: t.TempDir(), UndoWindow: time.Hour})
	const index, own = "docker.io/library/a:idx", "docker.io/library/a:arm"
	arm := platforms.MustParse("linux/arm64")
	m := newMulti(t, "member", "linux/amd64", "linux/arm64")
	for range 3 {
		m.add(t, s, index, "linux/amd64", "linux/arm64")
		if _, err := s.AddImage(t.Context(), AddImageOptions{Root: m.manifests["linux/arm64"], Names: []string{own}}); err != nil {
			t.Fatal(err)
		}
		res, err := s.Remove(t.Context(), RemoveOptions{Ref: index, Force: true, Platforms: []ocispec.Platform{arm}})
		if err != nil || len(res.Deleted)+len(res.Untagged) > 0 {
			t.Fatalf("removed %+v, %v", res, err)
		}
		if ids := held(t, s, m.root); !slices.Equal(ids, []digest.Digest{m.id("linux/amd64")}) {
			t.Errorf("the index has %v", ids)
		}
	}
	events, err := s.Events(t.Context(), 0)
	if err != nil || len(events) == 0 || events[len(events)-1].Action != "untag" || events[len(events)-1].Actor != m.id("linux/arm64").String() {
		t.Errorf("events %+v, %v", events, err)
	}
	// The newest undoes it; of those before there is nothing left to bring back.
	for range 3 {
		if res, err := s.Undo(t.Context(), 0); err != nil || res.Entry.What != "rmi "+index {
			t.Fatalf("undone %+v, %v", res, err)
		}
		if ids := held(t, s, m.root); len(ids) != 2 {
			t.Errorf("the index has %v", ids)
		}
	}
	reopen(t, s)
}
