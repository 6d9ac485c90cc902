package hubapi

import (
	"net/http"
	"strconv"

	"github.com/opencontainers/go-digest"

	"strake/internal/hub"
	"strake/internal/policy"
	"strake/internal/proxy"
	"strake/internal/review"
	"strake/internal/webhook"
)

// id reads a number of the path; what is none is the number of nothing.
func (c *Call) id(name string) int64 {
	n, err := strconv.ParseInt(c.PathValue(name), 10, 64)
	if err != nil {
		return -1
	}
	return n
}

// decoded reads a body of type T.
func decoded[T any](c *Call) (v T, err error) {
	err = c.Decode(&v)
	return v, err
}

// Restore says what a tag is to name again.
type Restore struct {
	Digest digest.Digest `json:"digest,omitempty"` // none: what it named before its last change
}

// Restored is what came back.
type Restored struct {
	Digest digest.Digest `json:"digest"`
	Tags   []string      `json:"tags"`
}

func journalRoutes() []Route {
	const repo = "/repositories/{repository}"
	return []Route{
		{
			Method: "GET", Pattern: repo + "/history", Need: Writer, Summary: "List what tags named, the last change first", Answer: Page[hub.TagEvent]{},
			Query: []Param{{"tag", "Of this tag alone"}, {"after", "The ID of the last event of the part before"}},
			Do: func(a API, c *Call) (any, error) {
				after, err := c.After()
				if err != nil {
					return nil, err
				}
				return all(hub.NewJournal(a.Hub).History(c.Context(), c.PathValue("repository"), c.URL.Query().Get("tag"), after))
			},
		},
		{
			Method: "POST", Pattern: repo + "/tags/{tag}/restore", Need: RepoAdmin, Summary: "Make a tag name again what it named", Body: Restore{}, Answer: Restored{},
			Do: func(a API, c *Call) (any, error) {
				r, err := decoded[Restore](c)
				if err != nil {
					return nil, err
				}
				desc, err := hub.NewJournal(a.Hub).RestoreTag(c.Context(), c.PathValue("repository"), c.PathValue("tag"), r.Digest)
				return Restored{desc.Digest, []string{c.PathValue("tag")}}, err
			},
		},
		{
			Method: "GET", Pattern: repo + "/trash", Need: Writer, Summary: "List manifests that were deleted and can be restored", Answer: Page[hub.Trashed]{},
			Do: func(a API, c *Call) (any, error) {
				return all(hub.NewJournal(a.Hub).Trash(c.Context(), c.PathValue("repository")))
			},
		},
		{
			Method: "POST", Pattern: repo + "/trash/{digest}/restore", Need: RepoAdmin, Summary: "Restore a manifest that was deleted, with its tags", Answer: Restored{},
			Do: func(a API, c *Call) (any, error) {
				dgst := digest.Digest(c.PathValue("digest"))
				tags, err := hub.NewJournal(a.Hub).RestoreManifest(c.Context(), c.PathValue("repository"), dgst)
				return Restored{dgst, tags}, err
			},
		},
	}
}

// Pattern is a pattern of tags.
type Pattern struct {
	Pattern string `json:"pattern"`
}

// RuleBody is a retention rule to be made.
type RuleBody struct {
	Pattern    string `json:"pattern"`
	LastPushed int    `json:"lastPushed,omitempty"`
	LastPulled int    `json:"lastPulled,omitempty"`
	PushedDays int    `json:"pushedDays,omitempty"`
	PulledDays int    `json:"pulledDays,omitempty"`
}

// PullBody is a rule of pulls: images with a vulnerability of the severity
// (critical, high, medium, low, none) or above are not pulled, nor those that were not scanned.
type PullBody struct {
	Severity  string `json:"severity"`
	Unscanned bool   `json:"unscanned,omitempty"`
}

// Quota is how many bytes a namespace may hold: 0 is any number, -1 the default.
type Quota struct {
	Bytes int64 `json:"bytes"`
}

func policyRoutes() []Route {
	const scope, repo = "/scopes/{scope}", "/repositories/{repository}"
	return []Route{
		{
			Method: "GET", Pattern: scope + "/immutable-tags", Need: Login, Summary: "List the patterns of immutable tags", Answer: Page[policy.Immutable]{},
			Do: func(a API, c *Call) (any, error) {
				return all(a.Policy.ListImmutable(c.Context(), c.PathValue("scope")))
			},
		},
		{
			Method: "POST", Pattern: scope + "/immutable-tags", Need: Login, Summary: "Make the tags of a pattern immutable", Body: Pattern{}, Answer: policy.Immutable{}, Status: http.StatusCreated,
			Do: func(a API, c *Call) (any, error) {
				p, err := decoded[Pattern](c)
				if err != nil {
					return nil, err
				}
				return a.Policy.AddImmutable(c.Context(), c.PathValue("scope"), p.Pattern)
			},
		},
		{
			Method: "DELETE", Pattern: scope + "/immutable-tags/{rule}", Need: Login, Summary: "Take a pattern back",
			Do: func(a API, c *Call) (any, error) {
				return nil, a.Policy.RemoveImmutable(c.Context(), c.PathValue("scope"), c.id("rule"))
			},
		},
		{
			Method: "GET", Pattern: scope + "/retention-rules", Need: Login, Summary: "List retention rules", Answer: Page[policy.Rule]{},
			Do: func(a API, c *Call) (any, error) { return all(a.Policy.ListRules(c.Context(), c.PathValue("scope"))) },
		},
		{
			Method: "POST", Pattern: scope + "/retention-rules", Need: Login, Summary: "Add a retention rule", Body: RuleBody{}, Answer: policy.Rule{}, Status: http.StatusCreated,
			Do: func(a API, c *Call) (any, error) {
				r, err := decoded[RuleBody](c)
				if err != nil {
					return nil, err
				}
				return a.Policy.AddRule(c.Context(), policy.Rule{
					Scope: c.PathValue("scope"), Pattern: r.Pattern, LastPushed: r.LastPushed, LastPulled: r.LastPulled, PushedDays: r.PushedDays, PulledDays: r.PulledDays,
				})
			},
		},
		{
			Method: "DELETE", Pattern: scope + "/retention-rules/{rule}", Need: Login, Summary: "Take a retention rule back",
			Do: func(a API, c *Call) (any, error) {
				return nil, a.Policy.RemoveRule(c.Context(), c.PathValue("scope"), c.id("rule"))
			},
		},
		{
			Method: "GET", Pattern: repo + "/retention", Need: RepoAdmin, Summary: "Preview what the retention rules would do now", Answer: policy.Plan{},
			Do: func(a API, c *Call) (any, error) { return a.Policy.Preview(c.Context(), c.PathValue("repository")) },
		},
		{
			Method: "POST", Pattern: repo + "/retention", Need: RepoAdmin, Summary: "Apply the retention rules now", Answer: policy.Plan{},
			Do: func(a API, c *Call) (any, error) {
				return a.Policy.Retain(c.Context(), hub.HooksOf(a.Hub), c.PathValue("repository"))
			},
		},
		{
			Method: "GET", Pattern: "/usage/{namespace}", Need: Login, Summary: "Count the bytes of a namespace, each once", Answer: policy.Usage{},
			Do: func(a API, c *Call) (any, error) { return a.Policy.Usage(c.Context(), c.PathValue("namespace")) },
		},
		{
			Method: "PUT", Pattern: "/quotas/{namespace}", Need: SiteAdmin, Summary: "Say how many bytes a namespace may hold; * is all of which nothing else is said", Body: Quota{},
			Do: func(a API, c *Call) (any, error) {
				q, err := decoded[Quota](c)
				if err != nil {
					return nil, err
				}
				return nil, a.Policy.SetQuota(c.Context(), c.PathValue("namespace"), q.Bytes)
			},
		},
	}
}

func pullRoutes() []Route {
	const scope = "/scopes/{scope}"
	return []Route{
		{
			Method: "GET", Pattern: scope + "/pull-rule", Need: Login, Summary: "List the rules that stop pulls, the one that holds first", Answer: Page[policy.PullRule]{},
			Do: func(a API, c *Call) (any, error) { return all(a.Policy.PullRules(c.Context(), c.PathValue("scope"))) },
		},
		{
			Method: "PUT", Pattern: scope + "/pull-rule", Need: Login, Summary: "Stop pulls of images with vulnerabilities", Body: PullBody{},
			Do: func(a API, c *Call) (any, error) {
				r, err := decoded[PullBody](c)
				if err != nil {
					return nil, err
				}
				return nil, a.Policy.SetPullRule(c.Context(), policy.PullRule{Scope: c.PathValue("scope"), Severity: r.Severity, Unscanned: r.Unscanned})
			},
		},
		{
			Method: "DELETE", Pattern: scope + "/pull-rule", Need: Login, Summary: "Take the rule of pulls back",
			Do: func(a API, c *Call) (any, error) {
				return nil, a.Policy.RemovePullRule(c.Context(), c.PathValue("scope"))
			},
		},
	}
}

// CommentBody is a comment to be made.
type CommentBody struct {
	Text string `json:"text"`
}

func reviewRoutes() []Route {
	decide := func(run func(a API, c *Call, d review.Decision) error) func(API, *Call) (any, error) {
		return func(a API, c *Call) (any, error) {
			d, err := decoded[review.Decision](c)
			if err != nil {
				return nil, err
			}
			return nil, run(a, c, d)
		}
	}
	return []Route{
		{
			Method: "GET", Pattern: "/reviews", Need: Login, Summary: "List reviews, the newest first: of a repository for its writers, all for reviewers", Answer: Page[review.Review]{},
			Query: []Param{{"repository", "Of this repository"}, {"state", "checking, waiting, returned, approved or withdrawn"}, {"after", "The ID of the last of the part before"}},
			Do: func(a API, c *Call) (any, error) {
				after, err := c.After()
				if err != nil {
					return nil, err
				}
				q := c.URL.Query()
				return all(a.Reviews.List(c.Context(), review.Filter{Repository: q.Get("repository"), State: review.State(q.Get("state")), Before: after}))
			},
		},
		{
			Method: "GET", Pattern: "/reviews/{review}", Need: Login, Summary: "Read a review, what its checks found and its comments", Answer: review.Review{},
			Do: func(a API, c *Call) (any, error) { return a.Reviews.Get(c.Context(), c.id("review")) },
		},
		{
			Method: "POST", Pattern: "/reviews/{review}/comments", Need: Login, Summary: "Comment on a review", Body: CommentBody{},
			Do: func(a API, c *Call) (any, error) {
				b, err := decoded[CommentBody](c)
				if err != nil {
					return nil, err
				}
				return nil, a.Reviews.Comment(c.Context(), c.id("review"), b.Text)
			},
		},
		{
			Method: "POST", Pattern: "/reviews/{review}/approve", Need: Reviewer, Summary: "Approve an image, and publish it", Body: review.Decision{},
			Do: decide(func(a API, c *Call, d review.Decision) error {
				return a.Reviews.Approve(c.Context(), hub.HooksOf(a.Hub), c.id("review"), d)
			}),
		},
		{
			Method: "POST", Pattern: "/reviews/{review}/return", Need: Reviewer, Summary: "Return an image to its author, with a comment", Body: review.Decision{},
			Do: decide(func(a API, c *Call, d review.Decision) error {
				return a.Reviews.Return(c.Context(), hub.HooksOf(a.Hub), c.id("review"), d)
			}),
		},
	}
}

// WebhookBody is a webhook to be made.
type WebhookBody struct {
	URL    string   `json:"url"`
	Secret string   `json:"secret,omitempty"` // none: one is made
	Events []string `json:"events"`
}

func webhookRoutes() []Route {
	const hooks = "/scopes/{scope}/webhooks"
	const one = hooks + "/{webhook}"
	return []Route{
		{
			Method: "GET", Pattern: hooks, Need: Login, Summary: "List webhooks", Answer: Page[webhook.Webhook]{},
			Do: func(a API, c *Call) (any, error) { return all(a.Webhooks.List(c.Context(), c.PathValue("scope"))) },
		},
		{
			Method: "POST", Pattern: hooks, Need: Login, Summary: "Add a webhook; the answer alone has its secret", Body: WebhookBody{}, Answer: webhook.Webhook{}, Status: http.StatusCreated,
			Do: func(a API, c *Call) (any, error) {
				b, err := decoded[WebhookBody](c)
				if err != nil {
					return nil, err
				}
				return a.Webhooks.Add(c.Context(), webhook.Webhook{Scope: c.PathValue("scope"), URL: b.URL, Secret: b.Secret, Events: b.Events})
			},
		},
		{
			Method: "PATCH", Pattern: one, Need: Login, Summary: "Change a webhook, enable or disable it", Body: webhook.Change{},
			Do: func(a API, c *Call) (any, error) {
				b, err := decoded[webhook.Change](c)
				if err != nil {
					return nil, err
				}
				return nil, a.Webhooks.Change(c.Context(), c.PathValue("scope"), c.id("webhook"), b)
			},
		},
		{
			Method: "DELETE", Pattern: one, Need: Login, Summary: "Remove a webhook",
			Do: func(a API, c *Call) (any, error) {
				return nil, a.Webhooks.Remove(c.Context(), c.PathValue("scope"), c.id("webhook"))
			},
		},
		{
			Method: "POST", Pattern: one + "/ping", Need: Login, Summary: "Send the event ping",
			Do: func(a API, c *Call) (any, error) {
				return nil, a.Webhooks.Ping(c.Context(), c.PathValue("scope"), c.id("webhook"))
			},
		},
		{
			Method: "GET", Pattern: one + "/deliveries", Need: Login, Summary: "List the last deliveries of a webhook and what became of them", Answer: Page[webhook.Delivery]{},
			Do: func(a API, c *Call) (any, error) {
				return all(a.Webhooks.Deliveries(c.Context(), c.PathValue("scope"), c.id("webhook")))
			},
		},
		{
			Method: "POST", Pattern: one + "/deliveries/{delivery}", Need: Login, Summary: "Send a delivery once more",
			Do: func(a API, c *Call) (any, error) {
				return nil, a.Webhooks.Redeliver(c.Context(), c.PathValue("scope"), c.id("webhook"), c.PathValue("delivery"))
			},
		},
	}
}

func proxyRoutes() []Route {
	return []Route{
		{
			Method: "GET", Pattern: "/proxies", Need: SiteAdmin, Summary: "List the namespaces that stand for other registries", Answer: Page[proxy.Proxy]{},
			Do: func(a API, c *Call) (any, error) { return all(a.Proxy.List(c.Context())) },
		},
		{
			Method: "PUT", Pattern: "/proxies/{namespace}", Need: SiteAdmin, Summary: "Make a namespace stand for another registry", Body: proxy.Proxy{},
			Do: func(a API, c *Call) (any, error) {
				p, err := decoded[proxy.Proxy](c)
				if err != nil {
					return nil, err
				}
				p.Namespace = c.PathValue("namespace")
				return nil, a.Proxy.Set(c.Context(), p)
			},
		},
		{
			Method: "DELETE", Pattern: "/proxies/{namespace}", Need: SiteAdmin, Summary: "Make a namespace an ordinary one again; what was pulled stays",
			Do: func(a API, c *Call) (any, error) { return nil, a.Proxy.Unset(c.Context(), c.PathValue("namespace")) },
		},
		{
			Method: "GET", Pattern: "/mirrors", Need: SiteAdmin, Summary: "List mirrors", Answer: Page[proxy.Mirror]{},
			Do: func(a API, c *Call) (any, error) { return all(a.Mirrors.List(c.Context())) },
		},
		{
			Method: "POST", Pattern: "/mirrors", Need: SiteAdmin, Summary: "Copy tags of another registry from now on", Body: proxy.Mirror{}, Answer: proxy.Mirror{}, Status: http.StatusCreated,
			Do: func(a API, c *Call) (any, error) {
				m, err := decoded[proxy.Mirror](c)
				if err != nil {
					return nil, err
				}
				return a.Mirrors.Add(c.Context(), m)
			},
		},
		{
			Method: "POST", Pattern: "/mirrors/{mirror}/run", Need: SiteAdmin, Summary: "Run a mirror now",
			Do: func(a API, c *Call) (any, error) { return nil, a.Mirrors.Run(c.Context(), c.id("mirror")) },
		},
		{
			Method: "DELETE", Pattern: "/mirrors/{mirror}", Need: SiteAdmin, Summary: "End a mirror; what was copied stays",
			Do: func(a API, c *Call) (any, error) { return nil, a.Mirrors.Remove(c.Context(), c.id("mirror")) },
		},
	}
}
