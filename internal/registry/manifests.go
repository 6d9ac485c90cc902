package registry

import (
	"encoding/json"
	"fmt"
	"io"
	"mime"
	"net/http"
	"strconv"

	"github.com/opencontainers/go-digest"
)

func (c *call) statManifest() error {
	desc, err := c.reg.StatManifest(c.r.Context(), c.repo, c.arg)
	if err != nil {
		return err
	}
	h := c.w.Header()
	h.Set("Content-Type", desc.MediaType)
	h.Set("Content-Length", strconv.FormatInt(desc.Size, 10))
	h.Set("Docker-Content-Digest", desc.Digest.String())
	h.Set("Etag", `"`+desc.Digest.String()+`"`)
	c.w.WriteHeader(http.StatusOK)
	return nil
}

func (c *call) getManifest() error {
	m, err := c.reg.GetManifest(c.r.Context(), c.repo, c.arg)
	if err != nil {
		return err
	}
	dgst := digest.Digest(c.arg)
	if !IsDigest(c.arg) {
		dgst = digest.FromBytes(m.Bytes)
	}
	h := c.w.Header()
	h.Set("Content-Type", m.MediaType)
	h.Set("Docker-Content-Digest", dgst.String())
	h.Set("Etag", `"`+dgst.String()+`"`)
	h.Set("X-Content-Type-Options", "nosniff")
	return c.body(m.Bytes)
}

func (c *call) putManifest() error {
	if c.r.ContentLength > MaxManifestSize {
		return Errorf(SizeInvalid, "manifest of %d bytes, more than %d", c.r.ContentLength, MaxManifestSize)
	}
	b, err := io.ReadAll(io.LimitReader(c.r.Body, MaxManifestSize+1))
	if err != nil {
		return Errorf(ManifestInvalid, "receive manifest: %w", err)
	}
	if len(b) > MaxManifestSize {
		return Errorf(SizeInvalid, "manifest of more than %d bytes", MaxManifestSize)
	}
	var probe struct {
		MediaType string `json:"mediaType"`
		Subject   struct {
			Digest digest.Digest `json:"digest"`
		} `json:"subject"`
	}
	if err := json.Unmarshal(b, &probe); err != nil {
		return Errorf(ManifestInvalid, "manifest is no JSON: %w", err)
	}
	m := Manifest{MediaType: probe.MediaType, Bytes: b}
	if ct := c.r.Header.Get("Content-Type"); ct != "" {
		if m.MediaType, _, err = mime.ParseMediaType(ct); err != nil {
			return Errorf(ManifestInvalid, "malformed Content-Type: %w", err)
		}
	}
	tag := c.arg
	if IsDigest(c.arg) {
		tag = ""
		want := digest.Digest(c.arg)
		if got := want.Algorithm().FromBytes(b); got != want {
			return Errorf(DigestInvalid, "manifest has digest %s, not %s", got, want)
		}
	}
	desc, err := c.reg.PutManifest(c.r.Context(), c.repo, tag, m)
	if err != nil {
		return err
	}
	if probe.Subject.Digest != "" {
		c.w.Header().Set("Oci-Subject", probe.Subject.Digest.String())
	}
	return created(c, "manifests", desc.Digest)
}

func (c *call) deleteManifest() error {
	var err error
	if IsDigest(c.arg) {
		err = c.reg.DeleteManifest(c.r.Context(), c.repo, digest.Digest(c.arg))
	} else {
		err = c.reg.DeleteTag(c.r.Context(), c.repo, c.arg)
	}
	if err != nil {
		return fmt.Errorf("delete %s: %w", c.arg, err)
	}
	c.w.Header().Set("Content-Length", "0")
	c.w.WriteHeader(http.StatusAccepted)
	return nil
}
