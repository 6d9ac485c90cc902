package web

import (
	"fmt"
	"net/url"
	"strings"
	"time"

	"github.com/containerd/errdefs"

	"strake/internal/hub"
	"strake/internal/scandb"
)

type storageView struct {
	Blobs, Bytes int64
	Holdings     []hub.Holding
	Pages        pages
	Runs         []hub.Collection
	Would        *hub.GCResult // go now; nil: it was not counted
	Form         form
}

// someRuns is how many collections the page shows.
const someRuns = 10

// showStorage shows what the bytes are of, and what garbage collection does.
func showStorage(c *call) error {
	if err := c.needAdmin(); err != nil {
		return err
	}
	v := storageView{Form: c.form}
	var err error
	if v.Blobs, v.Bytes, err = hub.Stored(c.ctx(), c.Hub); err != nil {
		return err
	}
	offset := c.offset()
	if v.Holdings, err = hub.Holdings(c.ctx(), c.Hub, offset, perPage+1); err != nil {
		return err
	}
	v.Pages = c.pagesOf(offset, perPage, len(v.Holdings) > perPage)
	v.Holdings = v.Holdings[:min(perPage, len(v.Holdings))]
	if v.Runs, err = hub.Collections(c.ctx(), c.Hub, someRuns); err != nil {
		return err
	}
	if c.r.FormValue("count") != "" {
		would, err := hub.Collect(c.ctx(), c.Hub, hub.GCOptions{DryRun: true})
		if err != nil {
			return err
		}
		v.Would = &would
	}
	return c.render("Storage", storagePage(v))
}

// changeStorage begins a collection.
func changeStorage(c *call) error {
	if err := c.needAdmin(); err != nil {
		return err
	}
	if c.r.PostFormValue("do") != "collect" {
		return errdefs.ErrInvalidArgument
	}
	if _, err := hub.CollectSoon(c.ctx(), c.Hub); err != nil {
		return err
	}
	return c.done("/admin/storage", "started")
}

// goneText is what a collection removes, in words.
func goneText(r hub.GCResult) string {
	if r == (hub.GCResult{}) {
		return "nothing"
	}
	parts := []string{size(r.Bytes) + " in " + plural(r.Blobs, "blob")}
	for _, n := range []struct {
		n    int64
		what string
	}{{r.Manifests, "deleted image"}, {r.Links, "blob of repositories"}, {r.Uploads, "unfinished upload"}, {r.Orphans, "unknown blob"}} {
		if n.n > 0 {
			parts = append(parts, plural(n.n, n.what))
		}
	}
	return strings.Join(parts, ", ")
}

// runText is how a collection stands, and the class of its badge.
func runText(r hub.Collection) (text, class string) {
	switch r.State {
	case hub.CollectionFailed:
		return "failed", "high"
	case hub.CollectionDone:
		return "done", "official"
	case hub.CollectionInterrupted:
		return "interrupted", "warn"
	case hub.CollectionWaiting:
		return "waits", ""
	}
	return "goes on", ""
}

type dataView struct{ scandb.Status }

// oldData is from when on vulnerability data is too old to be relied on.
const oldData = 7 * 24 * time.Hour

// showData shows the vulnerability data, and how scans stand.
func showData(c *call) error {
	if err := c.needAdmin(); err != nil {
		return err
	}
	s, err := scandb.Stands(c.ctx(), c.DB)
	if err != nil {
		return err
	}
	return c.render("Vulnerability data", dataPage(dataView{Status: s}))
}

// changeData has the data read again.
func changeData(c *call) error {
	if err := c.needAdmin(); err != nil {
		return err
	}
	if err := scandb.RefreshSoon(c.ctx(), c.DB); err != nil {
		return c.refused(err, nil, showData)
	}
	return c.done("/admin/vulnerabilities", "started")
}

// oldest is when the source was read that was not for longest.
func (v dataView) oldest() (t time.Time) {
	for i, s := range v.Sources {
		if i == 0 || s.Imported.Before(t) {
			t = s.Imported
		}
	}
	return t
}

// old tells whether some of the data is too old.
func (v dataView) old() bool { return len(v.Sources) > 0 && time.Since(v.oldest()) > oldData }

// records counts those of all sources.
func (v dataView) records() (n int64) {
	for _, s := range v.Sources {
		n += s.Records
	}
	return n
}

// originText is where data is from, without what a URL may hold of secrets.
func originText(s string) string {
	u, err := url.Parse(s)
	if err != nil || u.Host == "" {
		return s
	}
	return fmt.Sprintf("%s%s", u.Host, u.Path)
}
