package remote

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"

	"github.com/containerd/errdefs"
	registrytypes "github.com/moby/moby/api/types/registry"
)

// Search asks the registry for repositories that have to do with term, at most
// limit, by docker's v1 API: docker.io's own host for it, any other's /v1/search.
func (r *Registry) Search(ctx context.Context, term string, limit int) ([]registrytypes.SearchResult, error) {
	req := request{
		method: http.MethodGet, path: "/v1/search", scopes: []string{"registry:catalog:search"},
		query:  url.Values{"q": {term}, "n": {strconv.Itoa(limit)}},
		header: http.Header{"X-Docker-Token": {"true"}},
	}
	if r.host == "docker.io" {
		req.url = &url.URL{Scheme: "https", Host: "index.docker.io", Path: "/v1/search", RawQuery: req.query.Encode()}
		req.path, req.query, req.scopes = "", nil, nil
	} else if err := r.Check(ctx); err != nil && !errdefs.IsUnauthorized(err) && !errdefs.IsNotFound(err) {
		// Who logged in finds more, and a search asks nobody to: the base of the API does.
		return nil, fmt.Errorf("search: %w", err)
	}
	resp, err := r.do(ctx, req)
	if errdefs.IsNotFound(err) {
		return nil, fmt.Errorf("registry %s offers no search: %w", r.host, errdefs.ErrNotImplemented)
	}
	if err != nil {
		return nil, fmt.Errorf("search: %w", err)
	}
	b, err := io.ReadAll(io.LimitReader(resp.Body, maxListBody+1))
	if err := errors.Join(err, resp.Body.Close()); err != nil {
		return nil, fmt.Errorf("search: %w", err)
	}
	if len(b) > maxListBody {
		return nil, fmt.Errorf("search: more than %d bytes: %w", maxListBody, errdefs.ErrResourceExhausted)
	}
	var found registrytypes.SearchResults
	if err := json.Unmarshal(b, &found); err != nil {
		return nil, fmt.Errorf("error decoding registry search results: %w", err)
	}
	return found.Results, nil
}
