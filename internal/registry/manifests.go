package registry

import (
	"encoding/json"
	"fmt"
	"io"
	"mime"
	"net/http"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// maxTags is how many tags a manifest is given at once.
const maxTags = 100

// manifestHeader sets what every answer about a manifest has. What a digest names
// never changes; what a tag names is to be asked for again.
func (c *call) manifestHeader(desc ocispec.Descriptor) {
	h := c.w.Header()
	contentHeader(h, desc.MediaType, desc.Digest, desc.Size)
	if IsDigest(c.arg) {
		h["Cache-Control"] = immutable
	} else {
		h["Cache-Control"] = revalidate
	}
}

var revalidate = []string{"no-cache"}

func statManifest(c *call) error {
	desc, err := c.reg.StatManifest(c.r.Context(), c.repo, c.arg)
	if err != nil {
		return err
	}
	c.manifestHeader(desc)
	if !c.notModified(desc.Digest) {
		c.w.WriteHeader(http.StatusOK)
	}
	return nil
}

func getManifest(c *call) error {
	m, err := c.reg.GetManifest(c.r.Context(), c.repo, c.arg)
	if err != nil {
		return err
	}
	if m.Digest == "" {
		m.Digest = digest.FromBytes(m.Bytes)
	}
	if c.opts.MayPull != nil {
		if err := c.opts.MayPull(c.r.Context(), c.repo, m.Digest); err != nil {
			return err
		}
	}
	if m.Warning != "" {
		AddWarning(c.w.Header(), m.Warning)
	}
	c.manifestHeader(ocispec.Descriptor{MediaType: m.MediaType, Digest: m.Digest, Size: int64(len(m.Bytes))})
	if c.notModified(m.Digest) {
		return nil
	}
	return c.write(m.Bytes)
}

// readManifest reads the manifest that a request brings.
func (c *call) readManifest() (m Manifest, subject digest.Digest, err error) {
	if c.r.ContentLength > MaxManifestSize {
		return m, "", Errorf(SizeInvalid, "manifest of %d bytes, more than %d", c.r.ContentLength, MaxManifestSize)
	}
	b, err := io.ReadAll(c.body(io.LimitReader(c.r.Body, MaxManifestSize+1)))
	if err != nil {
		return m, "", Errorf(ManifestInvalid, "receive manifest: %w", err)
	}
	if len(b) > MaxManifestSize {
		return m, "", Errorf(SizeInvalid, "manifest of more than %d bytes", MaxManifestSize)
	}
	var probe struct {
		MediaType string `json:"mediaType"`
		Subject   struct {
			Digest digest.Digest `json:"digest"`
		} `json:"subject"`
		Layers []struct {
			URLs []string `json:"urls"`
		} `json:"layers"`
	}
	if err := json.Unmarshal(b, &probe); err != nil {
		return m, "", Errorf(ManifestInvalid, "manifest is no JSON: %w", err)
	}
	for _, layer := range probe.Layers {
		if len(layer.URLs) > 0 {
			AddWarning(c.w.Header(), "the manifest has layers that are to be fetched from elsewhere: this registry does not keep them")
			break
		}
	}
	m = Manifest{MediaType: probe.MediaType, Bytes: b}
	if ct := c.r.Header.Get("Content-Type"); ct != "" {
		if m.MediaType, _, err = mime.ParseMediaType(ct); err != nil {
			return m, "", Errorf(ManifestInvalid, "malformed Content-Type: %w", err)
		}
	}
	return m, probe.Subject.Digest, nil
}

// warnOf adds what who made tags name a manifest is to be told. The push is done,
// whether that can be found out or not.
func warnOf(c *call, tags []string, dgst digest.Digest) {
	if len(tags) == 0 || c.opts.Pushed == nil {
		return
	}
	switch text, err := c.opts.Pushed(c.r.Context(), c.repo, dgst); {
	case err != nil:
		c.opts.Log.Warn("warn of a push", "repository", c.repo, "digest", dgst, "err", err)
	case text != "":
		AddWarning(c.w.Header(), text)
	}
}

// putManifest answers end-7a and end-7b.
func putManifest(c *call) error {
	tags := c.r.URL.Query()["tag"]
	if len(tags) > maxTags {
		return Errorf(SizeInvalid, "%d tags, more than %d", len(tags), maxTags)
	}
	for _, tag := range tags {
		if err := CheckTag(tag); err != nil {
			return err
		}
	}
	m, subject, err := c.readManifest()
	if err != nil {
		return err
	}
	put := tags
	if IsDigest(c.arg) {
		m.Digest = digest.Digest(c.arg)
		if got := m.Digest.Algorithm().FromBytes(m.Bytes); got != m.Digest {
			return Errorf(DigestInvalid, "manifest has digest %s, not %s", got, m.Digest)
		}
	} else {
		put = append([]string{c.arg}, tags...)
	}
	desc, err := c.reg.PutManifest(c.r.Context(), c.repo, put, m)
	if err != nil {
		return err
	}
	warnOf(c, put, desc.Digest)
	for _, tag := range tags {
		c.w.Header().Add("Oci-Tag", tag)
	}
	if subject != "" {
		c.w.Header().Set("Oci-Subject", subject.String())
	}
	return c.created("manifests", desc.Digest)
}

func deleteManifest(c *call) error {
	var err error
	if IsDigest(c.arg) {
		err = c.reg.DeleteManifest(c.r.Context(), c.repo, digest.Digest(c.arg))
	} else {
		err = c.reg.DeleteTag(c.r.Context(), c.repo, c.arg)
	}
	if err != nil {
		return fmt.Errorf("delete %s: %w", c.arg, err)
	}
	return c.empty(http.StatusAccepted)
}
