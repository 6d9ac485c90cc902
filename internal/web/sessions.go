package web

import (
	"net"
	"strings"

	"github.com/containerd/errdefs"

	"strake/internal/auth"
	"strake/internal/gate"
)

// showSessions shows the browsers in which one is logged in.
func showSessions(c *call) error {
	if c.id.Anonymous() {
		return errdefs.ErrUnauthenticated
	}
	list, err := auth.Sessions(c.ctx(), c.DB, c.id.Name, gate.SessionCookie(c.r))
	if err != nil {
		return err
	}
	return c.render("Logins", sessionsPage(c.id.Name, list))
}

// changeSessions ends one of them, or all but this one.
func changeSessions(c *call) error {
	if c.id.Anonymous() {
		return errdefs.ErrUnauthenticated
	}
	if err := auth.EndSessions(c.ctx(), c.DB, c.id.Name, c.r.PostFormValue("session"), gate.SessionCookie(c.r)); err != nil {
		return c.refused(err, nil, showSessions)
	}
	return c.done("/account/sessions", "ended")
}

// named is what a mark in a browser's own name stands for.
type named struct{ mark, name string }

// The first mark that is there counts: most browsers say that they are others, too.
var (
	browsers = []named{{"Edg/", "Edge"}, {"OPR/", "Opera"}, {"Firefox/", "Firefox"}, {"Chrome/", "Chrome"}, {"Safari/", "Safari"}}
	systems  = []named{{"Android", "Android"}, {"iPhone", "iPhone"}, {"iPad", "iPad"}, {"Windows", "Windows"}, {"Mac OS X", "macOS"}, {"CrOS", "ChromeOS"}, {"Linux", "Linux"}}
)

// agentText is a browser and its system, as far as it says so.
func agentText(agent string) string {
	browser, system := nameIn(agent, browsers), nameIn(agent, systems)
	switch {
	case browser == "":
		return "Another program"
	case system == "":
		return browser
	}
	return browser + " on " + system
}

// nameIn is the name of the first mark that s has; empty: it has none.
func nameIn(s string, list []named) string {
	for _, n := range list {
		if strings.Contains(s, n.mark) {
			return n.name
		}
	}
	return ""
}

// hostOf is an address without its port.
func hostOf(address string) string {
	host, _, err := net.SplitHostPort(address)
	if err != nil {
		return address
	}
	return host
}
