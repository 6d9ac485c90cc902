package web

import (
	"cmp"
	"fmt"
	"maps"
	"net/http"
	"path"
	"slices"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"

	"strake/internal/auth"
	"strake/internal/catalog"
	"strake/internal/scan"
	"strake/internal/scandb"
	"strake/internal/vuln"
)

type repositoryView struct {
	catalog.Repository
	User     auth.Identity
	Host     string
	Tab      string
	HTML     string // the read-me, safe to show
	Tags     []catalog.Tag
	TagQuery catalog.TagQuery
	Pages    pages
	Reviewed bool // there are reviews
}

func (v *repositoryView) base() string { return path.Base(v.Name) }

// newest are tags for the side of the page.
func (v *repositoryView) newest() []catalog.Tag { return v.Tags[:min(5, len(v.Tags))] }

// pullName is what people pull: latest, where it is there.
func (v *repositoryView) pullName() string {
	name := v.Host + "/" + v.Name
	if slices.ContainsFunc(v.Tags, func(t catalog.Tag) bool { return t.Name == "latest" }) {
		return name
	}
	return name + ":" + v.Tags[0].Name
}

// current is the value of aria-current.
func current(is bool) string {
	if is {
		return "page"
	}
	return "false"
}

// platformSearch leads to the repositories for a platform.
func platformSearch(platform string) string {
	os, arch, _ := strings.Cut(platform, "/")
	return "/explore?os=" + escape(os) + "&arch=" + escape(arch)
}

// imagePath is the path of a tag's image for a platform.
func imagePath(repo, ref, platform string) string {
	kind := "tags"
	if _, err := digest.Parse(ref); err == nil {
		kind = "manifests"
	}
	p := repositoryPath(repo, kind, ref)
	if platform != "" {
		p += "?platform=" + escape(platform)
	}
	return p
}

// split takes the path after /r/ apart: a repository's name and the page of it.
func split(p string) (repo string, page []string) {
	repo, rest, ok := strings.Cut(p, "/-/")
	if !ok {
		return strings.TrimSuffix(p, "/"), nil
	}
	return repo, strings.Split(rest, "/")
}

// repositoryPages are pages of a repository for who may do as much as a role there.
var repositoryPages = map[string]struct {
	tab  string
	role auth.Role
	placePage
}{
	"trash":         {"trash", auth.Write, placePage{showTrash, restore}},
	"rules":         {"rules", auth.Write, placePage{showRules, changeRules}},
	"rules/preview": {"rules", auth.Admin, placePage{showPreview, applyRetention}},
	"webhooks":      {"webhooks", auth.Admin, placePage{showWebhooks, addWebhook}},
	"webhooks/{id}": {"webhooks", auth.Admin, placePage{showWebhook, changeWebhook}},
}

// repositoryPage is one of repositoryPages, with the place that it is of.
func (c *call) repositoryPage(repo string, page []string) (place, placePage, error) {
	if len(page) == 2 && page[0] == "webhooks" {
		c.r.SetPathValue("id", page[1])
		page = []string{"webhooks", "{id}"}
	}
	of, ok := repositoryPages[strings.Join(page, "/")]
	if !ok {
		return place{}, placePage{}, errdefs.ErrNotFound
	}
	p, err := c.repositoryPlace(repo, of.tab, of.role)
	return p, of.placePage, err
}

// showRepository shows a page of a repository.
func showRepository(c *call) error {
	repo, page := split(c.r.PathValue("path"))
	switch {
	case len(page) == 0:
		return showOverview(c, repo)
	case len(page) == 1 && page[0] == "tags":
		return showTags(c, repo)
	case len(page) == 1 && page[0] == "settings":
		return showSettings(c, repo)
	case len(page) == 2 && (page[0] == "tags" || page[0] == "manifests"):
		return showImage(c, repo, page[1])
	}
	p, of, err := c.repositoryPage(repo, page)
	if err != nil {
		return err
	}
	return of.show(c, p)
}

// repositoryView is what the pages of a repository have in common.
func (c *call) repositoryView(repo, tab string) (repositoryView, error) {
	r, err := c.Catalog.Repository(c.ctx(), repo)
	return repositoryView{Repository: r, User: c.id, Host: c.host(), Tab: tab, Reviewed: c.Reviews != nil}, err
}

func showOverview(c *call, repo string) error {
	v, err := c.repositoryView(repo, "")
	if err != nil {
		return err
	}
	if v.Tags, _, err = c.Catalog.Tags(c.ctx(), repo, catalog.TagQuery{}); err != nil {
		return err
	}
	if v.HTML, err = markdown(v.Readme); err != nil {
		return err
	}
	return c.render(v.Name, overviewPage(v))
}

func showTags(c *call, repo string) error {
	v, err := c.repositoryView(repo, "tags")
	if err != nil {
		return err
	}
	v.TagQuery = catalog.TagQuery{Name: c.r.FormValue("name"), ByName: c.r.FormValue("order") == "name", Limit: perPage, Offset: c.offset()}
	more := false
	if v.Tags, more, err = c.Catalog.Tags(c.ctx(), repo, v.TagQuery); err != nil {
		return err
	}
	v.Pages = c.pagesOf(v.TagQuery.Offset, perPage, more)
	return c.render("Tags of "+v.Name, tagsPage(v))
}

type settingsView struct {
	repositoryView
	Form   form
	Grants []auth.Grant
}

func showSettings(c *call, repo string) error {
	v, err := c.repositoryView(repo, "settings")
	if err != nil {
		return err
	}
	if v.Role < auth.Admin {
		return errdefs.ErrNotFound
	}
	grants, err := auth.Grants(c.ctx(), c.DB, repo)
	if err != nil {
		return err
	}
	return c.render("Settings of "+v.Name, settingsPage(settingsView{v, c.form, grants}))
}

// changeRepository does what a form of a repository's pages says.
func changeRepository(c *call) error {
	repo, page := split(c.r.PathValue("path"))
	if p, of, err := c.repositoryPage(repo, page); err == nil {
		return of.change(c, p)
	} else if !errdefs.IsNotFound(err) || len(page) != 1 {
		return err
	}
	if _, err := c.Catalog.Repository(c.ctx(), repo); err != nil {
		return err
	}
	f, settings := c.r.PostFormValue, func(c *call) error { return showSettings(c, repo) }
	var err error
	notice, fields := "saved", ids(nil)
	switch page[0] {
	case "star":
		if c.id.Account == 0 {
			return errdefs.ErrUnauthenticated
		}
		if err := c.Catalog.Star(c.ctx(), repo, f("on") != ""); err != nil {
			return err
		}
		return c.done(repositoryPath(repo), "")
	case "settings":
		err = c.Hub.Describe(c.ctx(), repo, f("description"), f("readme"), f("public") == "1")
	case "grants":
		role := auth.None // takes it back
		if f("role") != "none" {
			role, err = auth.ParseRole(f("role"))
		}
		if err == nil {
			err = auth.SetGrant(c.ctx(), c.DB, repo, auth.Grant{To: strings.TrimSpace(f("to")), Role: role})
		}
	case "untag":
		tag := strings.TrimSpace(f("tag"))
		if notice, fields = "deleted", (ids{"": "tag"}); f("sure") == "" {
			if err = askUntag(c, repo, tag); err == nil {
				return nil
			}
		} else {
			err = c.Hub.DeleteTag(c.ctx(), repo, tag)
		}
	default:
		return errdefs.ErrNotFound
	}
	if err != nil {
		return c.refused(err, fields, settings)
	}
	return c.done(repositoryPath(repo, "settings"), notice)
}

type imageView struct {
	*catalog.Image
	Host    string
	Largest int64          // of the layers
	Report  *scandb.Report // nil: it was not scanned
	Role    auth.Role      // of the caller, for the repository
	All     bool           // findings and packages, however many
}

// What a page shows of a long list unless it is asked for all of it.
const (
	someFindings = 25
	somePackages = 200
	mostLines    = 5000
)

func (v imageView) findings() []vuln.Finding { return cut(v.Report.Findings, v.All, someFindings) }
func (v imageView) packages() []scan.Package { return cut(v.Report.Packages, v.All, somePackages) }

// allPath leads to the page with the whole lists.
func (v imageView) allPath() string {
	p := imagePath(v.Repository, v.Reference, v.Platform)
	if strings.Contains(p, "?") {
		return p + "&all=1"
	}
	return p + "?all=1"
}

func cut[T any](list []T, all bool, some int) []T {
	if all {
		some = mostLines
	}
	return list[:min(some, len(list))]
}

func showImage(c *call, repo, ref string) error {
	im, err := c.Catalog.Image(c.ctx(), repo, ref, c.r.FormValue("platform"))
	if err != nil {
		return err
	}
	v := imageView{Image: im, Host: c.host()}
	for _, s := range im.Steps {
		v.Largest = max(v.Largest, s.Size)
	}
	r, err := c.Catalog.Repository(c.ctx(), repo)
	if err != nil {
		return err
	}
	v.Role, v.All = r.Role, c.r.FormValue("all") != ""
	switch report, err := scandb.Find(c.ctx(), c.DB, im.Digest); {
	case err == nil:
		v.Report = &report
	case !errdefs.IsNotFound(err):
		return err
	}
	return c.render(v.title(), imagePage(v))
}

// isDigest tells whether the image was asked for by its digest.
func (v imageView) isDigest() bool {
	_, err := digest.Parse(v.Reference)
	return err == nil
}

func (v imageView) title() string {
	if v.isDigest() {
		return v.Repository + "@" + short(v.Reference)
	}
	return v.Repository + ":" + v.Reference
}

// pull is what to pull, by the name that was asked for.
func (v imageView) pull() string {
	if v.isDigest() {
		return v.Host + "/" + v.Repository + "@" + v.Reference
	}
	return v.Host + "/" + v.Repository + ":" + v.Reference
}

func (v imageView) wasteText() string {
	waste, all := v.Waste()
	if waste == 0 || all == 0 {
		return "The files have " + size(all) + ". No layer hides files of another one."
	}
	return "The files have " + size(all) + ", of which " + size(waste) + " (" + trim(100*float64(waste)/float64(all)) + " %) are hidden by later layers."
}

// configRow is a line of the configuration.
type configRow struct {
	Name   string
	Values []string
}

func (v imageView) configRows() []configRow {
	c := v.Config
	var labels []string
	for _, k := range slices.Sorted(maps.Keys(c.Labels)) {
		labels = append(labels, k+"="+c.Labels[k])
	}
	rows := []configRow{
		{"Entrypoint", c.Entrypoint},
		{"Command", c.Cmd},
		{"Working directory", one(c.WorkingDir)},
		{"User", one(cmp.Or(c.User, "root"))},
		{"Ports", slices.Sorted(maps.Keys(c.ExposedPorts))},
		{"Volumes", slices.Sorted(maps.Keys(c.Volumes))},
		{"Stop signal", one(c.StopSignal)},
		{"Environment", c.Env},
		{"Labels", labels},
		{"Author", one(v.Author)},
	}
	if v.Platform == "" {
		return nil
	}
	return slices.DeleteFunc(rows, func(r configRow) bool { return len(r.Values) == 0 })
}

func one(s string) []string {
	if s == "" {
		return nil
	}
	return []string{s}
}

// instruction is a step as the Dockerfile had it.
func instruction(createdBy string) string {
	s := strings.TrimSpace(createdBy)
	s = strings.TrimSuffix(s, "# buildkit")
	if rest, ok := strings.CutPrefix(s, "/bin/sh -c #(nop)"); ok {
		s = rest
	} else if rest, ok := strings.CutPrefix(s, "/bin/sh -c "); ok {
		s = "RUN " + rest
	}
	s = strings.TrimSpace(s)
	if rest, ok := strings.CutPrefix(s, "RUN /bin/sh -c "); ok {
		s = "RUN " + rest
	}
	return cmp.Or(s, "(not told)")
}

// referrerName says what an artifact is, where its type is well known.
func referrerName(artifactType string) string {
	for part, name := range map[string]string{
		"sigstore": "Signature (sigstore)", "cosign": "Signature (cosign)", "notary": "Signature (notation)", "notation": "Signature (notation)",
		"spdx": "SBOM (SPDX)", "cyclonedx": "SBOM (CycloneDX)", "in-toto": "Attestation (in-toto)", "slsa": "Provenance (SLSA)",
	} {
		if strings.Contains(artifactType, part) {
			return name
		}
	}
	return cmp.Or(artifactType, "Artifact")
}

type untagView struct{ Repository, Tag, Digest string }

// askUntag shows what deleting a tag would do, and asks for it.
func askUntag(c *call, repo, tag string) error {
	r, err := c.Catalog.Repository(c.ctx(), repo)
	if err != nil {
		return err
	}
	if r.Role < auth.Admin {
		return errdefs.ErrPermissionDenied
	}
	desc, err := c.Hub.StatManifest(c.ctx(), repo, tag)
	if kindOf(err) == http.StatusNotFound {
		return fmt.Errorf("there is no tag %.128q: %w", tag, errdefs.ErrNotFound)
	}
	if err != nil {
		return err
	}
	return c.render("Delete "+repo+":"+tag, untagPage(untagView{repo, tag, desc.Digest.String()}))
}
