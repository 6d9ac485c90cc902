package hub_test

import (
	"bytes"
	"context"
	"database/sql"
	"fmt"
	"slices"
	"testing"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"strake/internal/auth"
	"strake/internal/hub"
	"strake/internal/registry"
)

// What the caller may not read does not exist; who did not log in is asked to.
func TestAccess(t *testing.T) {
	h := open(t, t.TempDir())
	system := auth.With(t.Context(), auth.Identity{System: true})
	other := auth.With(t.Context(), auth.Identity{Account: 7, Name: "other"})
	blob, m := []byte("{}"), registry.Manifest{MediaType: ocispec.MediaTypeImageManifest}
	desc := ocispec.Descriptor{MediaType: ocispec.MediaTypeImageConfig, Digest: digest.FromBytes(blob), Size: int64(len(blob))}
	m.Bytes = []byte(`{"schemaVersion":2,"mediaType":"` + m.MediaType + `","config":{"mediaType":"` + desc.MediaType + `","digest":"` + desc.Digest.String() + `","size":2},"layers":[]}`)
	if err := h.PushBlob(system, "ann/app", desc, bytes.NewReader(blob)); err != nil {
		t.Fatal(err)
	}
	if _, err := h.PutManifest(system, "ann/app", []string{"1"}, m); err != nil {
		t.Fatal(err)
	}
	for name, call := range map[string]func(ctx context.Context, repo string) error{
		"StatBlob": func(ctx context.Context, repo string) error { _, err := h.StatBlob(ctx, repo, desc.Digest); return err },
		"OpenBlob": func(ctx context.Context, repo string) error {
			_, err := h.OpenBlob(ctx, repo, desc.Digest, 0)
			return err
		},
		"StatManifest": func(ctx context.Context, repo string) error { _, err := h.StatManifest(ctx, repo, "1"); return err },
		"GetManifest":  func(ctx context.Context, repo string) error { _, err := h.GetManifest(ctx, repo, "1"); return err },
		"Tags": func(ctx context.Context, repo string) error {
			for _, err := range h.Tags(ctx, repo, "") {
				return err
			}
			return nil
		},
		"Referrers": func(ctx context.Context, repo string) error {
			for _, err := range h.Referrers(ctx, repo, desc.Digest, "", "") {
				return err
			}
			return nil
		},
		"PushBlob": func(ctx context.Context, repo string) error {
			return h.PushBlob(ctx, repo, desc, bytes.NewReader(blob))
		},
		"StartUpload":  func(ctx context.Context, repo string) error { _, err := h.StartUpload(ctx, repo); return err },
		"ResumeUpload": func(ctx context.Context, repo string) error { _, err := h.ResumeUpload(ctx, repo, "x"); return err },
		"MountBlob": func(ctx context.Context, repo string) error {
			_, err := h.MountBlob(ctx, repo, "b", desc.Digest)
			return err
		},
		"PutManifest": func(ctx context.Context, repo string) error {
			_, err := h.PutManifest(ctx, repo, []string{"2"}, m)
			return err
		},
		"DeleteBlob": func(ctx context.Context, repo string) error { return h.DeleteBlob(ctx, repo, desc.Digest) },
		"DeleteManifest": func(ctx context.Context, repo string) error {
			return h.DeleteManifest(ctx, repo, digest.FromBytes(m.Bytes))
		},
		"DeleteTag": func(ctx context.Context, repo string) error { return h.DeleteTag(ctx, repo, "1") },
	} {
		there, absent := call(t.Context(), "ann/app"), call(t.Context(), "ann/none")
		if !registry.HasCode(there, registry.Unauthorized) || !registry.HasCode(absent, registry.Unauthorized) {
			t.Errorf("%s, anonymous: %v; of what is not there: %v", name, there, absent)
		}
		there, absent = call(other, "ann/app"), call(other, "ann/none")
		if there == nil || absent == nil || there.Error() != absent.Error() {
			t.Errorf("%s, without a role: %v; of what is not there: %v", name, there, absent)
		}
	}
	var names []string
	for name, err := range h.Repositories(other, "") {
		if err != nil {
			t.Fatal(err)
		}
		names = append(names, name)
	}
	if len(names) > 0 {
		t.Errorf("others see %v", names)
	}
}

// CVE-2024-39897 by a mount that names no source: a blob is taken from where the
// caller may read it, and their token too, and from nowhere else.
func TestCVE_2024_39897_MountFromAnywhere(t *testing.T) {
	h := open(t, t.TempDir())
	system := auth.With(t.Context(), auth.Identity{System: true})
	bob := auth.Identity{Account: 2, Name: "bob"}
	err := hub.DB(h).Update(t.Context(), func(tx *sql.Tx) error {
		_, err := tx.ExecContext(t.Context(), `INSERT INTO accounts (id, name, created) VALUES (1, 'ann', 1), (2, 'bob', 1)`)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	pushes := func(repo, tag string) digest.Digest {
		t.Helper()
		blob := []byte(`{"of":"` + repo + `"}`)
		config := ocispec.Descriptor{MediaType: ocispec.MediaTypeImageConfig, Digest: digest.FromBytes(blob), Size: int64(len(blob))}
		m := registry.Manifest{MediaType: ocispec.MediaTypeImageManifest}
		m.Bytes = fmt.Appendf(nil, `{"schemaVersion":2,"mediaType":%q,"config":{"mediaType":%q,"digest":%q,"size":%d},"layers":[]}`, m.MediaType, config.MediaType, config.Digest, config.Size)
		if err := h.PushBlob(system, repo, config, bytes.NewReader(blob)); err != nil {
			t.Fatal(err)
		}
		if _, err := h.PutManifest(system, repo, []string{tag}, m); err != nil {
			t.Fatal(err)
		}
		return config.Digest
	}
	secret, own := pushes("ann/app", "1"), pushes("bob/lib", "1")
	token := bob.Asked([]auth.Scope{{Repository: "bob/app", Role: auth.Write}})
	for _, c := range []struct {
		name string
		id   auth.Identity
		blob digest.Digest
		ok   bool
	}{
		{"another's private blob", bob, secret, false},
		{"one's own with a token for elsewhere", token, own, false},
		{"one's own", bob, own, true},
	} {
		_, err := h.MountBlob(auth.With(t.Context(), c.id), "bob/app", "", c.blob)
		if c.ok != (err == nil) || err != nil && !registry.HasCode(err, registry.BlobUnknown) {
			t.Errorf("%s: %v", c.name, err)
		}
	}
	if err := hub.ChangeRepository(system, h, "ann/app", hub.RepositoryChange{Public: new(true)}); err != nil {
		t.Fatal(err)
	}
	if _, err := h.MountBlob(auth.With(t.Context(), bob), "bob/app", "", secret); err != nil {
		t.Errorf("what is public: %v", err)
	}
}

// What is pushed, tagged and deleted is in the audit log, with who did it and from where; what was refused is not.
func TestAudit(t *testing.T) {
	h := open(t, t.TempDir())
	ann := auth.With(t.Context(), auth.Identity{Account: 1, Name: "ann", Admin: true, Address: "192.0.2.7"})
	blob := []byte("{}")
	config := ocispec.Descriptor{MediaType: ocispec.MediaTypeImageConfig, Digest: digest.FromBytes(blob), Size: int64(len(blob))}
	if err := h.PushBlob(ann, "ann/app", config, bytes.NewReader(blob)); err != nil {
		t.Fatal(err)
	}
	m := registry.Manifest{MediaType: ocispec.MediaTypeImageManifest}
	m.Bytes = []byte(`{"schemaVersion":2,"mediaType":"` + m.MediaType + `","config":{"mediaType":"` + config.MediaType + `","digest":"` + config.Digest.String() + `","size":2},"layers":[]}`)
	for range 2 { // the second changes nothing but the time of the push
		if _, err := h.PutManifest(ann, "ann/app", []string{"1"}, m); err != nil {
			t.Fatal(err)
		}
	}
	if err := h.DeleteTag(ann, "ann/app", "none"); err == nil {
		t.Error("deleted what is not there")
	}
	if err := h.DeleteTag(ann, "ann/app", "1"); err != nil {
		t.Fatal(err)
	}
	entries, err := auth.AuditLog(ann, hub.DB(h), auth.AuditFilter{Repository: "ann/app", Limit: 10})
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, e := range slices.Backward(entries) {
		if e.Actor != "ann" || e.Address != "192.0.2.7" {
			t.Errorf("%s by %q from %q", e.Action, e.Actor, e.Address)
		}
		got = append(got, e.Action+" "+e.Object)
	}
	want := []string{"manifest.push ann/app@" + digest.FromBytes(m.Bytes).String(), "tag.set ann/app:1", "tag.delete ann/app:1"}
	if !slices.Equal(got, want) {
		t.Errorf("log %q, want %q", got, want)
	}
}
