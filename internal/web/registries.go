package web

import (
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/containerd/errdefs"

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
	notice, field := "saved", ""
	var err error
	switch f("do") {
	case "set-proxy":
		p := proxy.Proxy{
			Namespace: f("namespace"), Host: f("host"), Prefix: f("prefix"), Username: f("username"), Password: c.r.PostFormValue("password"),
			Public: f("public") != "", Insecure: f("insecure") != "",
		}
		field, err = proxyField(p), c.Proxy.Set(c.ctx(), p)
	case "remove-proxy":
		notice, err = "removed", c.Proxy.Unset(c.ctx(), f("namespace"))
	case "add-mirror":
		field, err = c.addMirror(f)
		notice = "added"
	case "run-mirror":
		notice, err = "started", c.Mirrors.Run(c.ctx(), id)
	case "remove-mirror":
		notice, err = "removed", c.Mirrors.Remove(c.ctx(), id)
	default:
		err = errdefs.ErrInvalidArgument
	}
	if err != nil {
		return c.refusedAt(field, err, showRegistries)
	}
	return c.done("/admin/registries", notice)
}

// proxyField is the field that is wrong, where Set refuses p.
func proxyField(p proxy.Proxy) string {
	switch {
	case p.Namespace == "" || strings.ContainsAny(p.Namespace, "/:"):
		return "namespace"
	case (p.Username == "") != (p.Password == ""):
		return "password"
	}
	return "host"
}

// addMirror adds the mirror that a form asks for, or tells which field is wrong.
func (c *call) addMirror(f func(string) string) (field string, err error) {
	hours, err := strconv.Atoi(f("every"))
	if err != nil || hours < 1 || hours > 24*365 {
		return "every", fmt.Errorf("%.20q is no number of hours: %w", f("every"), errdefs.ErrInvalidArgument)
	}
	m := proxy.Mirror{
		Repository: f("repository"), Source: f("source"), Pattern: f("pattern"), Every: hours * int(time.Hour/time.Second),
		Username: f("mirror-username"), Password: c.r.PostFormValue("mirror-password"),
	}
	if _, err = c.Mirrors.Add(c.ctx(), m); err == nil {
		return "", nil
	}
	for prefix, field := range map[string]string{"source": "source", "pattern": "pattern", "a mirror": "mirror-password"} {
		if strings.HasPrefix(err.Error(), prefix) {
			return field, err
		}
	}
	return "repository", err
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
