package web

import (
	"strconv"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"

	"strake/internal/hub"
	"strake/internal/review"
)

type reviewsView struct {
	Filter  review.Filter
	Reviews []review.Review
	Pages   pages
}

// reviewStates are the lists of reviews; "" is all.
var reviewStates = []review.State{review.Waiting, review.Checking, review.Returned, review.Approved, review.Withdrawn, ""}

func stateText(s review.State) string {
	switch s {
	case "":
		return "All"
	case review.Checking:
		return "Being checked"
	case review.Waiting:
		return "Waiting"
	case review.Returned:
		return "Returned"
	case review.Approved:
		return "Approved"
	case review.Withdrawn:
		return "Withdrawn"
	}
	return string(s)
}

func stateClass(s review.State) string {
	switch s {
	case review.Approved:
		return "official"
	case review.Waiting, review.Checking:
		return "warn"
	case review.Returned:
		return "high"
	}
	return ""
}

func verdictClass(v review.Verdict) string {
	switch v {
	case review.Fail:
		return "high"
	case review.Warn:
		return "warn"
	}
	return "official"
}

// saidText is what a line of the conversation did.
func saidText(kind string) string {
	return map[string]string{"push": "pushed", "comment": "said", "approve": "approved", "return": "returned it", "withdraw": "withdrew it"}[kind]
}

// nextText says what a state leads to.
func nextText(s review.State) string {
	switch s {
	case review.Checking:
		return "The automatic checks run. Then a reviewer looks at the image."
	case review.Waiting:
		return "A reviewer looks at the image and what the checks say, and publishes it or returns it. Who may write to the repository can pull it already."
	case review.Returned:
		return "The author answers here, or mends the image and pushes the tag again. It is checked anew then."
	case review.Approved:
		return "Everybody can pull it."
	}
	return "Nothing: the tag was deleted, or set to what needs no review."
}

func reviewPath(id int64) string { return "/review/" + strconv.FormatInt(id, 10) }

func (v *reviewsView) link(s review.State) string {
	return "/review?repository=" + escape(v.Filter.Repository) + "&state=" + escape(string(s)) + "&all=" + strconv.FormatBool(s == "")
}

const reviewsPerPage = 50

// showReviews shows the queue to reviewers, and a repository's to who may write
// to it.
func showReviews(c *call) error {
	if c.Reviews == nil {
		return errdefs.ErrNotFound
	}
	f := c.r.FormValue
	v := reviewsView{Filter: review.Filter{Repository: f("repository"), State: review.State(f("state")), Limit: reviewsPerPage}}
	if v.Filter.State == "" && f("all") != "true" && v.Filter.Repository == "" {
		v.Filter.State = review.Waiting
	}
	if before, err := strconv.ParseInt(f("before"), 10, 64); err == nil && before > 0 {
		v.Filter.Before = before
	}
	var err error
	if v.Reviews, err = c.Reviews.List(c.ctx(), v.Filter); err != nil {
		return err
	}
	if len(v.Reviews) == reviewsPerPage {
		v.Pages.Next = v.link(v.Filter.State) + "&before=" + strconv.FormatInt(v.Reviews[reviewsPerPage-1].ID, 10)
	}
	return c.render("Reviews", reviewsPage(v))
}

type reviewView struct {
	review.Review
	Reviewer bool
	Form     form
}

func (v *reviewView) open() bool { return v.State == review.Waiting || v.State == review.Returned }

func (v *reviewView) failed() bool {
	for _, c := range v.Checks {
		if c.Verdict == review.Fail {
			return true
		}
	}
	return false
}

// reviewID is the review of the path.
func (c *call) reviewID() (int64, error) {
	id, err := strconv.ParseInt(c.r.PathValue("id"), 10, 64)
	if err != nil || c.Reviews == nil {
		return 0, errdefs.ErrNotFound
	}
	return id, nil
}

func showReview(c *call) error {
	id, err := c.reviewID()
	if err != nil {
		return err
	}
	r, err := c.Reviews.Get(c.ctx(), id)
	if err != nil {
		return err
	}
	return c.render("Review of "+r.Repository+":"+r.Tag, reviewPage(reviewView{r, c.id.IsReviewer(), c.form}))
}

// changeReview comments or decides.
func changeReview(c *call) error {
	id, err := c.reviewID()
	if err != nil {
		return err
	}
	if _, err := c.Reviews.Get(c.ctx(), id); err != nil {
		return err
	}
	f := c.r.PostFormValue
	d := review.Decision{Digest: digest.Digest(f("digest")), Comment: strings.TrimSpace(f("text")), Override: f("override") != ""}
	switch f("do") {
	case "comment":
		err = c.Reviews.Comment(c.ctx(), id, d.Comment)
	case "approve":
		err = c.Reviews.Approve(c.ctx(), hub.HooksOf(c.Hub), id, d)
	case "return":
		err = c.Reviews.Return(c.ctx(), hub.HooksOf(c.Hub), id, d)
	default:
		err = errdefs.ErrInvalidArgument
	}
	if err != nil {
		return c.refused(err, nil, showReview)
	}
	return c.done(reviewPath(id), "saved")
}
