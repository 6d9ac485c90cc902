package web

import (
	"fmt"
	"slices"
	"strconv"
	"time"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"

	"strake/internal/hub"
)

type trashView struct {
	place
	Trash  []hub.Trashed
	Events []hub.TagEvent // that can be undone, the last first
	Pages  pages
}

// showTrash shows what was deleted from a repository, or overwritten in it, and can
// be restored.
func showTrash(c *call, p place) error {
	v := trashView{place: p}
	j := hub.NewJournal(c.Hub)
	var err error
	before, _ := strconv.ParseInt(c.r.FormValue("before"), 10, 64) // what is no number is the beginning
	if before <= 0 {
		if v.Trash, err = j.Trash(c.ctx(), p.Scope); err != nil {
			return err
		}
	}
	if v.Events, err = j.History(c.ctx(), p.Scope, "", max(0, before)); err != nil {
		return err
	}
	v.Events = slices.DeleteFunc(v.Events, func(e hub.TagEvent) bool { return e.Previous == "" })
	if len(v.Events) > perPage {
		v.Events = v.Events[:perPage]
		v.Pages.Next = p.page("trash") + fmt.Sprintf("?before=%d", v.Events[perPage-1].ID)
	}
	return c.render("Deleted from "+p.Scope, trashPage(v))
}

// someTrash is how many deleted images the page shows; the API lists more.
const someTrash = 100

func (v trashView) newest() []hub.Trashed { return v.Trash[:min(someTrash, len(v.Trash))] }

// restore puts back what a form of the page names.
func restore(c *call, p place) error {
	j, dgst := hub.NewJournal(c.Hub), digest.Digest(c.r.PostFormValue("digest"))
	var err error
	switch c.r.PostFormValue("do") {
	case "manifest":
		_, err = j.RestoreManifest(c.ctx(), p.Scope, dgst)
	case "tag":
		_, err = j.RestoreTag(c.ctx(), p.Scope, c.r.PostFormValue("tag"), dgst)
	default:
		err = errdefs.ErrInvalidArgument
	}
	if err != nil {
		return c.refused(err, nil, func(c *call) error { return showTrash(c, p) })
	}
	return c.done(p.page("trash"), "restored")
}

// left is how much of the time is left in which something can be restored.
func left(since time.Time) string {
	switch d := hub.Window - time.Since(since); {
	case d <= 0:
		return "goes with the next collection"
	case d < time.Hour:
		return "less than an hour left"
	case d < 48*time.Hour:
		return plural(int64(d/time.Hour), "hour") + " left"
	default:
		return plural(int64((d+24*time.Hour-1)/(24*time.Hour)), "day") + " left"
	}
}

// eventText says what became of a tag.
func eventText(e hub.TagEvent) string {
	switch {
	case e.Action == "expire":
		return "a retention rule deleted it"
	case e.Digest == "":
		return "deleted"
	}
	return "named " + short(e.Digest.String()) + " instead"
}
