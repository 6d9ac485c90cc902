package web

import (
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/containerd/errdefs"

	"strake/internal/fault"
	"strake/internal/proxy"
)

type registriesView struct {
	Form    form
	Proxies []proxy.Proxy
	Mirrors []proxy.Mirror
	Host    string
}

// showRegistries shows what comes from other registries.
func showRegistries(c *call) error {
	if err := c.needAdmin(); err != nil {
		return err
	}
	v := registriesView{Form: c.form, Host: c.host()}
	var err error
	if v.Proxies, err = c.Proxy.List(c.ctx()); err != nil {
		return err
	}
	if v.Mirrors, err = c.Mirrors.List(c.ctx()); err != nil {
		return err
	}
	return c.render("Other registries", registriesPage(v))
}

// changeRegistries does what a form of that page says.
func changeRegistries(c *call) error {
	if err := c.needAdmin(); err != nil {
		return err
	}
	f := func(key string) string { return strings.TrimSpace(c.r.PostFormValue(key)) }
	id, _ := strconv.ParseInt(f("id"), 10, 64) // what is no number is no mirror's
	notice, fields := "saved", ids(nil)
	var err error
	switch f("do") {
	case "set-proxy":
		p := proxy.Proxy{
			Namespace: f("namespace"), Host: f("host"), Prefix: f("prefix"), Username: f("username"), Password: c.r.PostFormValue("password"),
			Public: f("public") != "", Insecure: f("insecure") != "",
		}
		err = c.Proxy.Set(c.ctx(), p)
	case "remove-proxy":
		notice, err = "removed", c.Proxy.Unset(c.ctx(), f("namespace"))
	case "add-mirror":
		notice, fields = "added", ids{"password": "mirror-password"}
		err = c.addMirror(f)
	case "run-mirror":
		notice, err = "started", c.Mirrors.Run(c.ctx(), id)
	case "remove-mirror":
		notice, err = "removed", c.Mirrors.Remove(c.ctx(), id)
	default:
		err = errdefs.ErrInvalidArgument
	}
	if err != nil {
		return c.refused(err, fields, showRegistries)
	}
	return c.done("/admin/registries", notice)
}

// addMirror adds the mirror that a form asks for.
func (c *call) addMirror(f func(string) string) error {
	hours, err := strconv.Atoi(f("every"))
	if err != nil || hours < 1 || hours > 24*365 {
		return fault.In("every", fmt.Errorf("%.20q is no number of hours: %w", f("every"), errdefs.ErrInvalidArgument))
	}
	_, err = c.Mirrors.Add(c.ctx(), proxy.Mirror{
		Repository: f("repository"), Source: f("source"), Pattern: f("pattern"), Every: hours * int(time.Hour/time.Second),
		Username: f("mirror-username"), Password: c.r.PostFormValue("mirror-password"),
	})
	return err
}

// upstream is what a namespace stands for.
func upstream(p proxy.Proxy) string {
	if p.Prefix == "" {
		return p.Host
	}
	return p.Host + "/" + p.Prefix
}

// everyText is how often a mirror runs.
func everyText(seconds int) string {
	if seconds%3600 == 0 {
		return "every " + strings.TrimPrefix(plural(int64(seconds/3600), "hour"), "1 ")
	}
	return "every " + plural(int64(seconds/60), "minute")
}
