package registry

import (
	"encoding/json"
	"fmt"
	"iter"
	"net/url"
	"strconv"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

func catalog(c *call) error {
	names, err := c.page(func(last string) iter.Seq2[string, error] {
		return c.reg.Repositories(c.r.Context(), last)
	})
	if err != nil {
		return err
	}
	return c.json("application/json", struct {
		Repositories []string `json:"repositories"`
	}{names})
}

func tags(c *call) error {
	tags, err := c.page(func(last string) iter.Seq2[string, error] {
		return c.reg.Tags(c.r.Context(), c.repo, last)
	})
	if err != nil {
		return err
	}
	return c.json("application/json", struct {
		Name string   `json:"name"`
		Tags []string `json:"tags"`
	}{c.repo, tags})
}

// page reads the page of list that the query's n and last ask for, and links to
// the next one. n takes no memory by itself and is cut to maxPage.
func (c *call) page(list func(last string) iter.Seq2[string, error]) ([]string, error) {
	query := c.r.URL.Query()
	n := maxPage
	if s := query.Get("n"); s != "" {
		v, err := strconv.Atoi(s)
		if err != nil || v < 0 {
			return nil, &Error{Code: PageInvalid, Message: "invalid number of results requested"}
		}
		n = min(v, maxPage)
	}
	names := []string{}
	for name, err := range list(query.Get("last")) {
		if err != nil {
			return nil, err
		}
		if len(names) == n {
			if n > 0 {
				query.Set("n", strconv.Itoa(n))
				query.Set("last", names[n-1])
				c.linkNext(query)
			}
			break
		}
		names = append(names, name)
	}
	return names, nil
}

// An answer of referrers is an index, which holds so many bytes or descriptors.
const (
	maxReferrersSize = MaxManifestSize - 1024
	maxReferrers     = maxPage
)

// referrers answers end-12a and end-12b. Where not all fit into one index, or into
// the n that the client asks for, it links to the next.
func referrers(c *call) error {
	query := c.r.URL.Query()
	artifactType, last, n := query.Get("artifactType"), digest.Digest(query.Get("last")), maxReferrers
	if last != "" {
		if err := CheckDigest(last); err != nil {
			return err
		}
	}
	if s := query.Get("n"); s != "" {
		v, err := strconv.Atoi(s)
		if err != nil || v < 1 {
			return &Error{Code: PageInvalid, Message: "invalid number of results requested"}
		}
		n = min(v, maxReferrers)
	}
	index := ocispec.Index{
		Versioned: specs.Versioned{SchemaVersion: 2},
		MediaType: ocispec.MediaTypeImageIndex,
		Manifests: []ocispec.Descriptor{},
	}
	size := 0
	for desc, err := range c.reg.Referrers(c.r.Context(), c.repo, digest.Digest(c.arg), artifactType, last) {
		if err != nil {
			return err
		}
		b, err := json.Marshal(desc)
		if err != nil {
			return fmt.Errorf("encode answer: %w", err)
		}
		if size += len(b) + 1; len(index.Manifests) == n || size > maxReferrersSize && len(index.Manifests) > 0 {
			query.Set("last", string(index.Manifests[len(index.Manifests)-1].Digest))
			c.linkNext(query)
			break
		}
		index.Manifests = append(index.Manifests, desc)
	}
	if artifactType != "" {
		c.w.Header().Set("Oci-Filters-Applied", "artifactType")
	}
	return c.json(ocispec.MediaTypeImageIndex, index)
}

// linkNext tells the client where the next page is.
func (c *call) linkNext(query url.Values) {
	next := url.URL{Path: c.r.URL.Path, RawQuery: query.Encode()}
	c.w.Header().Set("Link", fmt.Sprintf(`<%s>; rel="next"`, next.String()))
}
