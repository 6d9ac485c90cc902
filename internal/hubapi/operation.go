package hubapi

import (
	"net/http"
	"net/url"
	"time"

	"strake/internal/auth"
	"strake/internal/catalog"
	"strake/internal/gate"
	"strake/internal/hub"
	"strake/internal/scan"
	"strake/internal/scandb"
	"strake/internal/vuln"
)

// Storage is what the Hub keeps.
type Storage struct {
	Blobs int64 `json:"blobs"` // and manifests, each once
	Bytes int64 `json:"bytes"`
}

// VulnerabilityData is how the vulnerability data stands, and the scans that use it.
type VulnerabilityData struct {
	Sources []VulnerabilitySource `json:"sources"`
	Next    time.Time             `json:"next,omitzero"`   // that it is read; none: it is not read by itself
	Reading bool                  `json:"reading"`         // at the moment
	Error   string                `json:"error,omitempty"` // of the last time that it was read
	Scanned int64                 `json:"scanned"`         // images
	Unknown int64                 `json:"unknown"`         // of them: whose packages no data speaks of
	Waiting int64                 `json:"waiting"`         // scans that were not begun or go on
	GivenUp int64                 `json:"given_up"`        // scans that failed too often
}

// VulnerabilitySource is one source of the data.
type VulnerabilitySource struct {
	Name     string    `json:"name"`
	Origin   string    `json:"origin"`            // a file, or a URL without what it may hold of secrets
	Imported time.Time `json:"imported,omitzero"` // when it was last compared with its origin
	Modified time.Time `json:"modified,omitzero"` // of the record that changed last
	Records  int64     `json:"records"`
}

// Scan is what is known of what is in an image.
type Scan struct {
	Digest       string         `json:"digest"` // of the image, where the reference names an index
	Platform     string         `json:"platform"`
	Scanned      time.Time      `json:"scanned"`
	Matched      time.Time      `json:"matched,omitzero"` // none: no data speaks of its packages
	Distribution string         `json:"distribution"`
	Counts       map[string]int `json:"counts"` // of findings, by severity
	Findings     []vuln.Finding `json:"findings"`
	Packages     []scan.Package `json:"packages"`
	Secrets      []scan.Secret  `json:"secrets,omitempty"` // for who may push
	Notes        []string       `json:"notes"`             // what was not looked at
}

func sessionRoutes() []Route {
	const sessions = "/accounts/{account}/sessions"
	end := func(a API, c *Call) (any, error) {
		return nil, auth.EndSessions(c.Context(), a.DB, c.account(), c.PathValue("session"), gate.SessionCookie(c.Request))
	}
	return []Route{
		{
			Method: "GET", Pattern: sessions, Need: Owner, Summary: "List the browsers in which an account is logged in, the one used last first", Answer: Page[auth.BrowserSession]{},
			Do: func(a API, c *Call) (any, error) {
				return all(auth.Sessions(c.Context(), a.DB, c.account(), gate.SessionCookie(c.Request)))
			},
		},
		{Method: "DELETE", Pattern: sessions, Need: Owner, Summary: "Log all browsers of an account out, but the one that asks", Do: end},
		{Method: "DELETE", Pattern: sessions + "/{session}", Need: Owner, Summary: "Log a browser out", Do: end},
	}
}

func operationRoutes() []Route {
	return []Route{
		{
			Method: "GET", Pattern: "/storage", Need: SiteAdmin, Summary: "Count what the Hub keeps", Answer: Storage{},
			Do: func(a API, c *Call) (any, error) {
				blobs, bytes, err := hub.Stored(c.Context(), a.Hub)
				return Storage{blobs, bytes}, err
			},
		},
		{
			Method: "GET", Pattern: "/storage/repositories", Need: SiteAdmin, Summary: "List what repositories hold, the largest first", Query: paging,
			Answer: Page[hub.Holding]{}, Do: listHoldings,
		},
		{
			Method: "GET", Pattern: "/storage/garbage", Need: SiteAdmin, Summary: "Count what a garbage collection would free now", Answer: hub.GCResult{},
			Do: func(a API, c *Call) (any, error) {
				return hub.Collect(c.Context(), a.Hub, hub.GCOptions{DryRun: true})
			},
		},
		{
			Method: "GET", Pattern: "/collections", Need: SiteAdmin, Summary: "List the last hundred garbage collections, the newest first", Answer: Page[hub.Collection]{},
			Query: paging[:1], Do: func(a API, c *Call) (any, error) {
				limit, err := c.Limit()
				if err != nil {
					return nil, err
				}
				return all(hub.Collections(c.Context(), a.Hub, limit))
			},
		},
		{
			Method: "POST", Pattern: "/collections", Need: SiteAdmin, Summary: "Have a garbage collection begin; the list tells how it ends",
			Answer: hub.Collection{}, Status: http.StatusAccepted,
			Do: func(a API, c *Call) (any, error) { return hub.CollectSoon(c.Context(), a.Hub) },
		},
		{
			Method: "GET", Pattern: "/vulnerability-data", Need: SiteAdmin, Summary: "Tell from when the vulnerability data is, and how scans stand",
			Answer: VulnerabilityData{}, Do: vulnerabilityData,
		},
		{
			Method: "POST", Pattern: "/vulnerability-data/refresh", Need: SiteAdmin, Summary: "Have the vulnerability data read now", Status: http.StatusAccepted, Answer: VulnerabilityData{},
			Do: func(a API, c *Call) (any, error) {
				if err := scandb.RefreshSoon(c.Context(), a.DB); err != nil {
					return nil, err
				}
				return vulnerabilityData(a, c)
			},
		},
		{
			Method: "GET", Pattern: "/tags", Need: Anyone, Summary: "List the tags whose images have a vulnerability, or a package, as far as they were scanned",
			Query: append([]Param{
				{"vulnerability", "By the name that scans give it, such as CVE-2024-3094"},
				{"package", "Its name"},
				{"version", "Of the package"},
			}, paging...),
			Answer: Page[catalog.Tagged]{}, Do: listTagged,
		},
		{
			Method: "GET", Pattern: "/repositories/{repository}/manifests/{reference}/scan", Need: Reader, Query: []Param{{"platform", "Of an index of images, as linux/arm64"}},
			Summary: "Tell the packages and vulnerabilities of an image that was scanned; its secrets, to who may push", Answer: Scan{}, Do: getScan,
		},
	}
}

func listTagged(a API, c *Call) (any, error) {
	q := c.URL.Query()
	in := catalog.Contents{Vulnerability: q.Get("vulnerability"), Package: q.Get("package"), Version: q.Get("version")}
	return numbered(c, func(offset, limit int) ([]catalog.Tagged, error) {
		return a.Catalog.Tagged(c.Context(), in, offset, limit)
	})
}

func listHoldings(a API, c *Call) (any, error) {
	return numbered(c, func(offset, limit int) ([]hub.Holding, error) { return hub.Holdings(c.Context(), a.Hub, offset, limit) })
}

// numbered is a page of a list that goes on by the number of items before.
func numbered[T any](c *Call, list func(offset, limit int) ([]T, error)) (any, error) {
	limit, err := c.Limit()
	if err != nil {
		return nil, err
	}
	after, err := c.After()
	if err != nil {
		return nil, err
	}
	items, err := list(int(after), limit+1)
	if err != nil || len(items) <= limit {
		return Page[T]{Items: items}, err
	}
	return Page[T]{Items: items[:limit], Next: number(after + int64(limit))}, nil
}

func vulnerabilityData(a API, c *Call) (any, error) {
	s, err := scandb.Stands(c.Context(), a.DB)
	if err != nil {
		return nil, err
	}
	d := VulnerabilityData{
		Sources: []VulnerabilitySource{}, Next: s.Next, Reading: s.Reading, Error: s.Error,
		Scanned: s.Scanned, Unknown: s.Unknown, Waiting: s.Waiting, GivenUp: s.GivenUp,
	}
	for _, source := range s.Sources {
		d.Sources = append(d.Sources, VulnerabilitySource{source.Name, originOf(source.Origin), source.Imported, source.Modified, source.Records})
	}
	return d, nil
}

// originOf is a file, or a URL without the name, the password and the query that
// it may have.
func originOf(s string) string {
	u, err := url.Parse(s)
	if err != nil || u.Host == "" {
		return s
	}
	u.User, u.RawQuery, u.Fragment = nil, "", ""
	return u.String()
}

func getScan(a API, c *Call) (any, error) {
	repo := c.PathValue("repository")
	im, err := a.Catalog.Image(c.Context(), repo, c.PathValue("reference"), c.URL.Query().Get("platform"))
	if err != nil {
		return nil, err
	}
	r, err := scandb.Find(c.Context(), a.DB, im.Digest)
	if err != nil {
		return nil, err
	}
	described, err := a.Catalog.Repository(c.Context(), repo)
	if err != nil {
		return nil, err
	}
	out := Scan{
		Digest: im.Digest.String(), Platform: im.Platform, Scanned: r.Scanned, Matched: r.Matched, Distribution: r.Distribution,
		Counts: map[string]int{}, Findings: r.Findings, Packages: r.Packages, Notes: append([]string{}, r.Notes...),
	}
	if described.Role >= auth.Write {
		out.Secrets = r.Secrets
	}
	for _, severity := range vuln.Severities() {
		out.Counts[severity.String()] = 0
	}
	for _, f := range r.Findings {
		out.Counts[f.Severity.String()]++
	}
	return out, nil
}
