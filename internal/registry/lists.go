package registry

import (
	"fmt"
	"iter"
	"net/url"
	"strconv"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

func (c *call) catalog() error {
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

func (c *call) tags() error {
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
				next := url.URL{Path: c.r.URL.Path, RawQuery: url.Values{
					"n": {strconv.Itoa(n)}, "last": {names[n-1]},
				}.Encode()}
				c.w.Header().Set("Link", fmt.Sprintf(`<%s>; rel="next"`, next.String()))
			}
			break
		}
		names = append(names, name)
	}
	return names, nil
}

// maxReferrers is how many referrers one answer holds; more are an error, for
// the specification leaves clients no way to notice a cut.
const maxReferrers = 10_000

func (c *call) referrers() error {
	artifactType := c.r.URL.Query().Get("artifactType")
	index := ocispec.Index{
		Versioned: specs.Versioned{SchemaVersion: 2},
		MediaType: ocispec.MediaTypeImageIndex,
		Manifests: []ocispec.Descriptor{},
	}
	for desc, err := range c.reg.Referrers(c.r.Context(), c.repo, digest.Digest(c.arg), artifactType) {
		if err != nil {
			return err
		}
		if len(index.Manifests) == maxReferrers {
			return Errorf(SizeInvalid, "more than %d referrers", maxReferrers)
		}
		index.Manifests = append(index.Manifests, desc)
	}
	if artifactType != "" {
		c.w.Header().Set("Oci-Filters-Applied", "artifactType")
	}
	c.w.Header().Set("X-Content-Type-Options", "nosniff")
	return c.json(ocispec.MediaTypeImageIndex, index)
}
