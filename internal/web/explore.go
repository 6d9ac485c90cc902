package web

import (
	"cmp"
	"net/url"
	"strconv"
	"time"

	"strake/internal/catalog"
)

// moment is a time on a page.
type moment struct{ time.Time }

func (m moment) ago() string     { return ago(m.Time) }
func (m moment) exact() string   { return date(m.Time) }
func (m moment) machine() string { return m.UTC().Format(time.RFC3339) }

func escape(s string) string { return url.QueryEscape(s) }

// pages lead from one page of a list to others; "" leads nowhere.
type pages struct{ Previous, Next string }

// pagesOf are the pages around offset of the list that the request shows.
func (c *call) pagesOf(offset, limit int, more bool) (p pages) {
	to := func(offset int) string {
		q := c.r.URL.Query()
		q.Del("done")
		q.Del("offset")
		if offset > 0 {
			q.Set("offset", strconv.Itoa(offset))
		}
		return c.r.URL.Path + "?" + q.Encode()
	}
	if offset > 0 {
		p.Previous = to(max(0, offset-limit))
	}
	if more {
		p.Next = to(offset + limit)
	}
	return p
}

// offset is the number of the list's first line, as the request has it.
func (c *call) offset() int {
	n, err := strconv.Atoi(c.r.FormValue("offset"))
	if err != nil || n < 0 || n > 1_000_000 {
		return 0
	}
	return n
}

type frontView struct {
	Popular, Recent []catalog.Found
	Host, Owner     string
}

func showFront(c *call) error {
	popular, err := c.Catalog.Search(c.ctx(), catalog.Query{Limit: 6})
	if err != nil {
		return err
	}
	recent, err := c.Catalog.Search(c.ctx(), catalog.Query{Limit: 6, Sort: "updated"})
	if err != nil {
		return err
	}
	return c.render("Find images", frontPage(frontView{popular.Repositories, recent.Repositories, c.host(), cmp.Or(c.id.Name, "team")}))
}

type exploreView struct {
	Query    catalog.Query
	Result   catalog.Result
	Filtered bool
	Pages    pages
}

// sortOrders are the orders of a search's results.
var sortOrders = []struct{ Value, Text string }{{"", "Best match"}, {"stars", "Stars"}, {"pulls", "Pulls"}, {"updated", "Last update"}, {"name", "Name"}}

// facetChoice is a value of a facet, and where it leads.
type facetChoice struct {
	Text, URL string
	Count     int
	Chosen    bool
}

// with is the address of the search with one of its values changed.
func (v *exploreView) with(name, value string) string {
	q := url.Values{}
	for key, have := range map[string]string{
		"q": v.Query.Text, "kind": v.Query.Kind, "os": v.Query.OS, "arch": v.Query.Architecture, "namespace": v.Query.Namespace, "sort": v.Query.Sort,
	} {
		if key == name {
			have = value
		}
		if have != "" {
			q.Set(key, have)
		}
	}
	if len(q) == 0 {
		return "/explore"
	}
	return "/explore?" + q.Encode()
}

// choices are the values of a facet, after the one that is any.
func (v *exploreView) choices(name, chosen string, values []catalog.Facet) []facetChoice {
	list := []facetChoice{{Text: "Any", URL: v.with(name, ""), Chosen: chosen == ""}}
	for _, f := range values {
		list = append(list, facetChoice{f.Value, v.with(name, f.Value), f.Count, f.Value == chosen})
	}
	if chosen != "" && len(values) == 0 {
		list = append(list, facetChoice{Text: chosen, URL: v.with(name, chosen), Chosen: true})
	}
	return list
}

func (v *exploreView) sortChoices() (list []facetChoice) {
	for _, o := range sortOrders {
		list = append(list, facetChoice{Text: o.Text, URL: v.with("sort", o.Value), Chosen: o.Value == v.Query.Sort})
	}
	return list
}

// isTrue is the value of aria-current for one of several choices.
func isTrue(is bool) string {
	if is {
		return "true"
	}
	return "false"
}

const perPage = 25

func showExplore(c *call) error {
	f := c.r.FormValue
	q := catalog.Query{
		Text: f("q"), Kind: f("kind"), OS: f("os"), Architecture: f("arch"), Namespace: f("namespace"), Sort: f("sort"),
		Limit: perPage, Offset: c.offset(),
	}
	found, err := c.Catalog.Search(c.ctx(), q)
	if err != nil {
		return err
	}
	v := exploreView{Query: q, Result: found, Filtered: q.Kind+q.OS+q.Architecture+q.Namespace != ""}
	v.Pages = c.pagesOf(q.Offset, perPage, q.Offset+perPage < found.Total)
	return c.render("Explore", explorePage(v))
}
