package web

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"

	"github.com/containerd/errdefs"

	"strake/internal/webhook"
)

type webhooksView struct {
	place
	Form     form
	Webhooks []webhook.Webhook
	Made     *webhook.Webhook // just now, with its secret
}

// showWebhooks lists the webhooks of a place.
func showWebhooks(c *call, p place) error { return renderWebhooks(c, webhooksView{place: p}) }

func renderWebhooks(c *call, v webhooksView) (err error) {
	if v.Webhooks, err = c.Webhooks.List(c.ctx(), v.Scope); err != nil {
		return err
	}
	v.Form = c.form
	c.secret = v.Made != nil
	return c.render("Webhooks of "+v.of(), webhooksPage(v))
}

// addWebhook adds a webhook and shows its secret.
func addWebhook(c *call, p place) error {
	made, err := c.Webhooks.Add(c.ctx(), webhook.Webhook{
		Scope: p.Scope, URL: strings.TrimSpace(c.r.PostFormValue("url")), Secret: c.r.PostFormValue("secret"), Events: c.r.PostForm["events"],
	})
	if err != nil {
		return c.refused(err, nil, func(c *call) error { return showWebhooks(c, p) })
	}
	return renderWebhooks(c, webhooksView{place: p, Made: &made})
}

// eventTexts say what each event is.
var eventTexts = map[string]string{
	"push": "an image is pushed, or restored", "tag": "a tag names something else, or is new", "delete": "a tag or an image is deleted",
	"review": "a reviewer decides", "scan": "a scan has ended",
}

// boxes are the events that a form shows as chosen; a new webhook is told of pushes.
func boxes(f form, known []string) (list []box) {
	for _, e := range webhook.Events() {
		list = append(list, box{e, eventTexts[e], f.checked("events", e, slices.Contains(known, e))})
	}
	return list
}

// box is a box that is checked or not.
type box struct {
	Value, Text string
	Checked     bool
}

type webhookView struct {
	place
	webhook.Webhook
	Form       form
	Deliveries []webhook.Delivery
	Pages      pages
}

// somewhere tells a template apart from the scope of the place.
func (v webhookView) path() string {
	return v.page("webhooks", strconv.FormatInt(v.ID, 10))
}

// deliveriesPerPage keeps the page small: each has an answer of up to a kilobyte.
const deliveriesPerPage = 20

// showWebhook shows a webhook, with what became of its deliveries.
func showWebhook(c *call, p place) error {
	id, err := strconv.ParseInt(c.r.PathValue("id"), 10, 64)
	if err != nil {
		return errdefs.ErrNotFound
	}
	list, err := c.Webhooks.List(c.ctx(), p.Scope)
	if err != nil {
		return err
	}
	i := slices.IndexFunc(list, func(w webhook.Webhook) bool { return w.ID == id })
	if i < 0 {
		return errdefs.ErrNotFound
	}
	v := webhookView{place: p, Webhook: list[i], Form: c.form}
	if v.Deliveries, err = c.Webhooks.Deliveries(c.ctx(), p.Scope, id); err != nil {
		return err
	}
	offset := min(c.offset(), len(v.Deliveries))
	v.Deliveries = v.Deliveries[offset:]
	more := len(v.Deliveries) > deliveriesPerPage
	v.Deliveries = v.Deliveries[:min(deliveriesPerPage, len(v.Deliveries))]
	v.Pages = c.pagesOf(offset, deliveriesPerPage, more)
	return c.render("Webhook of "+p.of(), webhookPage(v))
}

// changeWebhook does what a form of a webhook's page says.
func changeWebhook(c *call, p place) error {
	id, err := strconv.ParseInt(c.r.PathValue("id"), 10, 64)
	if err != nil {
		return errdefs.ErrNotFound
	}
	again, path := func(c *call) error { return showWebhook(c, p) }, p.page("webhooks", c.r.PathValue("id"))
	notice, on := "saved", true
	switch c.r.PostFormValue("do") {
	case "change":
		change := webhook.Change{Events: append([]string{}, c.r.PostForm["events"]...)}
		url, secret := strings.TrimSpace(c.r.PostFormValue("url")), c.r.PostFormValue("secret")
		change.URL = &url
		if secret != "" {
			change.Secret = &secret
		}
		if err := c.Webhooks.Change(c.ctx(), p.Scope, id, change); err != nil {
			return c.refused(err, nil, again)
		}
	case "ping":
		notice, err = "sent", c.Webhooks.Ping(c.ctx(), p.Scope, id)
	case "redeliver":
		notice, err = "sent", c.Webhooks.Redeliver(c.ctx(), p.Scope, id, c.r.PostFormValue("delivery"))
	case "enable":
		notice, err = "enabled", c.Webhooks.Change(c.ctx(), p.Scope, id, webhook.Change{Enabled: &on})
	case "disable":
		on = false
		notice, err = "disabled", c.Webhooks.Change(c.ctx(), p.Scope, id, webhook.Change{Enabled: &on})
	case "remove":
		notice, err, path = "removed", c.Webhooks.Remove(c.ctx(), p.Scope, id), p.page("webhooks")
	default:
		err = errdefs.ErrInvalidArgument
	}
	if err != nil {
		return c.refused(err, nil, again)
	}
	return c.done(path, notice)
}

// stateOf is what a webhook does at present, and the class of its badge.
func stateOf(w webhook.Webhook) (text, class string) {
	switch {
	case !w.Enabled:
		return "disabled", "warn"
	case !w.Failing.IsZero():
		return "failing", "high"
	}
	return "enabled", "official"
}

// deliveryBadge is what became of a delivery, and the class of its badge.
func deliveryBadge(d webhook.Delivery) (text, class string) {
	switch {
	case d.State == "delivered":
		return d.State, "official"
	case d.State == "failed":
		return d.State, "high"
	case d.Attempts > 0:
		return "to be sent again", "warn"
	}
	return "to be sent", ""
}

// about is what a delivery tells of.
func about(d webhook.Delivery) string {
	var p webhook.Payload
	if json.Unmarshal(d.Payload, &p) != nil || p.Repository == "" {
		return ""
	}
	switch {
	case p.Tag != "":
		return p.Repository + ":" + p.Tag
	case p.Digest != "":
		return p.Repository + "@" + short(p.Digest.String())
	}
	return p.Repository
}

// answerText is the first line of what came back.
func answerText(d webhook.Delivery) string {
	if d.Status > 0 {
		return strings.TrimSpace(fmt.Sprintf("%d %s", d.Status, http.StatusText(d.Status)))
	}
	return "no answer"
}

// indented is JSON for people.
func indented(b json.RawMessage) string {
	var out bytes.Buffer
	if err := json.Indent(&out, b, "", "  "); err != nil {
		return string(b)
	}
	return out.String()
}
