package hubapi

import (
	"net/http"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"strake/internal/auth"
	"strake/internal/catalog"
	"strake/internal/hub"
)

// Repository is a repository.
type Repository struct {
	Name        string    `json:"name"`
	Kind        string    `json:"kind"` // community, official, verified
	Public      bool      `json:"public"`
	Description string    `json:"description"`
	Readme      string    `json:"readme,omitempty"` // Markdown
	Created     time.Time `json:"created,omitzero"`
	Pushed      time.Time `json:"pushed,omitzero"`
	Pulls       int64     `json:"pulls"`
	Stars       int64     `json:"stars"`
	Starred     bool      `json:"starred"` // by the caller
	Role        auth.Role `json:"role"`    // the caller's
	Platforms   []string  `json:"platforms"`
	Tags        int       `json:"tags"`
	Size        int64     `json:"size"` // bytes of its blobs, each once
}

// NewRepository is a repository to be made.
type NewRepository struct {
	Name string `json:"name"`
	hub.RepositoryChange
}

// Tag is a tag.
type Tag struct {
	Name      string    `json:"name"`
	Digest    string    `json:"digest"`
	MediaType string    `json:"media_type"`
	Pushed    time.Time `json:"pushed"`
	Pusher    string    `json:"pusher"`
	Pulls     int64     `json:"pulls"`
	Held      bool      `json:"held,omitempty"` // waits for a review
	Images    []Variant `json:"images"`
}

// Variant is an image for one platform.
type Variant struct {
	Digest   string `json:"digest"`
	Platform string `json:"platform"`
	Size     int64  `json:"size"`
}

// Image is what a reference names.
type Image struct {
	Digest       digest.Digest       `json:"digest"`
	Index        digest.Digest       `json:"index,omitempty"`
	MediaType    string              `json:"media_type"`
	ArtifactType string              `json:"artifact_type,omitempty"`
	Pushed       time.Time           `json:"pushed"`
	Pusher       string              `json:"pusher"`
	Held         bool                `json:"held,omitempty"`
	Platform     string              `json:"platform,omitempty"`
	Created      time.Time           `json:"created,omitzero"`
	ConfigDigest digest.Digest       `json:"config_digest,omitempty"`
	Config       ocispec.ImageConfig `json:"config"`
	Size         int64               `json:"size"`
	Variants     []Variant           `json:"variants"`
	Steps        []Step              `json:"steps"`
	Annotations  map[string]string   `json:"annotations,omitempty"`
}

// Step is a line of an image's history and the layer that it made.
type Step struct {
	Instruction string              `json:"instruction"`
	Created     time.Time           `json:"created,omitzero"`
	Layer       digest.Digest       `json:"layer,omitempty"`
	Size        int64               `json:"size"`
	Files       *catalog.LayerFiles `json:"files,omitempty"`
}

func repositoryRoutes() []Route {
	const repo = "/repositories/{repository}"
	return []Route{
		{
			Method: "GET", Pattern: "/repositories", Need: Anyone, Summary: "Find repositories", Answer: catalog.Result{}, Do: search,
			Query: []Param{
				{"q", "Words of the name, the description or labels, or the beginning of a digest"},
				{"kind", "official, verified or community"},
				{"os", "Operating system"},
				{"architecture", "Architecture"},
				{"namespace", "Namespace"},
				{"starred", "true: with a star by the caller"},
				{"sort", "stars, pulls, updated or name"},
				{"limit", "How many at most; 100 at most"},
				{"after", "How many to pass over"},
			},
		},
		{
			Method: "POST", Pattern: "/repositories", Need: Login, Summary: "Make a repository in a namespace that the caller owns", Body: NewRepository{},
			Answer: Repository{}, Status: http.StatusCreated, Do: addRepository,
		},
		{Method: "GET", Pattern: repo, Need: Reader, Summary: "Describe a repository", Answer: Repository{}, Do: getRepository},
		{
			Method: "PATCH", Pattern: repo, Need: RepoAdmin, Summary: "Change what a repository says of itself and whether everybody may read it",
			Body: hub.RepositoryChange{}, Answer: Repository{}, Do: changeRepository,
		},
		{
			Method: "DELETE", Pattern: repo, Need: RepoAdmin, Summary: "Delete a repository with all that is in it",
			Do: func(a API, c *Call) (any, error) {
				return nil, hub.DeleteRepository(c.Context(), a.Hub, c.PathValue("repository"))
			},
		},
		{
			Method: "GET", Pattern: repo + "/tags", Need: Reader, Summary: "List tags, the newest first", Answer: Page[Tag]{}, Do: listTags,
			Query: append([]Param{{"name", "A part of the name"}, {"sort", "name: by name"}}, paging...),
		},
		{
			Method: "DELETE", Pattern: repo + "/tags/{tag}", Need: RepoAdmin, Summary: "Take a tag away; the manifest stays",
			Do: func(a API, c *Call) (any, error) {
				return nil, a.Hub.DeleteTag(c.Context(), c.PathValue("repository"), c.PathValue("tag"))
			},
		},
		{
			Method: "GET", Pattern: repo + "/manifests/{reference}", Need: Reader, Summary: "Describe what a tag or a digest names", Answer: Image{},
			Query: []Param{{"platform", "Of an index of images, as linux/arm64"}}, Do: getImage,
		},
		{
			Method: "DELETE", Pattern: repo + "/manifests/{reference}", Need: RepoAdmin, Summary: "Delete a manifest, by its digest, and its tags",
			Do: func(a API, c *Call) (any, error) {
				return nil, a.Hub.DeleteManifest(c.Context(), c.PathValue("repository"), digest.Digest(c.PathValue("reference")))
			},
		},
	}
}

// peopleRoutes are who has to do with a repository.
func peopleRoutes() []Route {
	const repo = "/repositories/{repository}"
	return []Route{
		{
			Method: "GET", Pattern: repo + "/grants", Need: RepoAdmin, Summary: "List who was granted a role", Answer: Page[auth.Grant]{},
			Do: func(a API, c *Call) (any, error) {
				return all(auth.Grants(c.Context(), a.DB, c.PathValue("repository")))
			},
		},
		{
			Method: "PUT", Pattern: repo + "/grants", Need: RepoAdmin, Summary: "Grant a role to a user, or to a team as ORGANIZATION/TEAM", Body: auth.Grant{},
			Do: func(a API, c *Call) (any, error) {
				var g auth.Grant
				if err := c.Decode(&g); err != nil {
					return nil, err
				}
				return nil, auth.SetGrant(c.Context(), a.DB, c.PathValue("repository"), g)
			},
		},
		{
			Method: "DELETE", Pattern: repo + "/grants/{grantee}", Need: RepoAdmin, Summary: "Take a role back",
			Do: func(a API, c *Call) (any, error) {
				return nil, auth.SetGrant(c.Context(), a.DB, c.PathValue("repository"), auth.Grant{To: c.PathValue("grantee"), Role: auth.None})
			},
		},
		{
			Method: "GET", Pattern: repo + "/audit", Need: RepoAdmin, Summary: "Read the repository's part of the audit log, the newest first", Answer: Page[auth.Entry]{},
			Query: append([]Param{{"actor", "Who did it"}, {"action", "What was done, or a prefix that ends in a dot"}}, paging...),
			Do:    func(a API, c *Call) (any, error) { return audit(a, c, c.PathValue("repository")) },
		},
		{
			Method: "PUT", Pattern: repo + "/star", Need: Reader, Summary: "Give a repository one's star",
			Do: func(a API, c *Call) (any, error) { return nil, a.star(c, true) },
		},
		{
			Method: "DELETE", Pattern: repo + "/star", Need: Reader, Summary: "Take one's star back",
			Do: func(a API, c *Call) (any, error) { return nil, a.star(c, false) },
		},
	}
}

func search(a API, c *Call) (any, error) {
	limit, err := c.Limit()
	if err != nil {
		return nil, err
	}
	after, err := c.After()
	if err != nil {
		return nil, err
	}
	q := c.URL.Query()
	return a.Catalog.Search(c.Context(), catalog.Query{
		Text: q.Get("q"), Kind: q.Get("kind"), OS: q.Get("os"), Architecture: q.Get("architecture"), Namespace: q.Get("namespace"),
		Starred: q.Get("starred") == "true", Sort: q.Get("sort"), Limit: min(limit, 100), Offset: int(after),
	})
}

func addRepository(a API, c *Call) (any, error) {
	var r NewRepository
	if err := c.Decode(&r); err != nil {
		return nil, err
	}
	if err := hub.CreateRepository(c.Context(), a.Hub, r.Name, r.RepositoryChange); err != nil {
		return nil, err
	}
	return describe(a, c, r.Name)
}

func getRepository(a API, c *Call) (any, error) { return describe(a, c, c.PathValue("repository")) }

func describe(a API, c *Call, name string) (any, error) {
	r, err := a.Catalog.Repository(c.Context(), name)
	if r.Platforms == nil {
		r.Platforms = []string{}
	}
	return Repository{
		r.Name, r.Kind, r.Public, r.Description, r.Readme, r.Created, r.Pushed, r.Pulls, r.Stars, r.Starred, r.Role, r.Platforms, r.Tags, r.Size,
	}, err
}

func changeRepository(a API, c *Call) (any, error) {
	var change hub.RepositoryChange
	if err := c.Decode(&change); err != nil {
		return nil, err
	}
	if err := hub.ChangeRepository(c.Context(), a.Hub, c.PathValue("repository"), change); err != nil {
		return nil, err
	}
	return getRepository(a, c)
}

func listTags(a API, c *Call) (any, error) {
	limit, err := c.Limit()
	if err != nil {
		return nil, err
	}
	after, err := c.After()
	if err != nil {
		return nil, err
	}
	q := c.URL.Query()
	tags, more, err := a.Catalog.Tags(c.Context(), c.PathValue("repository"), catalog.TagQuery{
		Name: q.Get("name"), ByName: q.Get("sort") == "name", Limit: limit, Offset: int(after),
	})
	page := Page[Tag]{Items: []Tag{}}
	for _, t := range tags {
		page.Items = append(page.Items, Tag{t.Name, t.Digest, t.MediaType, t.Pushed, t.Pusher, t.Pulls, t.Held, variants(t.Images)})
	}
	if more {
		page.Next = number(after + int64(len(tags)))
	}
	return page, err
}

func variants(list []catalog.Variant) []Variant {
	out := []Variant{}
	for _, v := range list {
		out = append(out, Variant(v))
	}
	return out
}

func getImage(a API, c *Call) (any, error) {
	im, err := a.Catalog.Image(c.Context(), c.PathValue("repository"), c.PathValue("reference"), c.URL.Query().Get("platform"))
	if err != nil {
		return nil, err
	}
	out := Image{
		im.Digest, im.Index, im.MediaType, im.ArtifactType, im.Pushed, im.Pusher, im.Held, im.Platform, im.Created, im.ConfigDigest, im.Config, im.Size,
		variants(im.Variants),
		[]Step{},
		im.Annotations,
	}
	for _, s := range im.Steps {
		step := Step{Instruction: s.Instruction, Created: s.Created, Layer: s.Layer, Size: s.Size}
		if im.Counted && s.Layer != "" {
			step.Files = &s.LayerFiles
		}
		out.Steps = append(out.Steps, step)
	}
	return out, nil
}

func (a API) star(c *Call, on bool) error {
	switch id := auth.From(c.Context()); {
	case id.Anonymous():
		return errLogin
	case !id.Unlimited():
		return errDenied
	}
	return a.Catalog.Star(c.Context(), c.PathValue("repository"), on)
}
