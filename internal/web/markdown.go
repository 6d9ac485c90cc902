package web

import (
	"bytes"
	"regexp"
	"sync"

	"github.com/microcosm-cc/bluemonday"
	"github.com/yuin/goldmark"
	"github.com/yuin/goldmark/extension"
)

// markdown turns a README into HTML that is safe to show. HTML in it is left out
// by goldmark, and what is left goes through bluemonday all the same: two people's
// mistakes are needed for a script. Pictures are left out, since they would be
// loaded from elsewhere and tell who reads the page. Headings are moved down by
// one, below that of the page.
func markdown(source string) (string, error) {
	var b bytes.Buffer
	if err := renderer().Convert([]byte(source), &b); err != nil {
		return "", err
	}
	return string(lower(safe().SanitizeBytes(b.Bytes()))), nil
}

var renderer = sync.OnceValue(func() goldmark.Markdown {
	return goldmark.New(goldmark.WithExtensions(extension.GFM))
})

var safe = sync.OnceValue(func() *bluemonday.Policy {
	p := bluemonday.NewPolicy()
	p.AllowElements("p", "br", "hr", "h1", "h2", "h3", "h4", "h5", "h6", "ul", "ol", "li", "blockquote", "pre", "code", "em", "strong", "del",
		"table", "thead", "tbody", "tr", "th", "td")
	p.AllowAttrs("align").Matching(regexp.MustCompile(`^(left|right|center)$`)).OnElements("th", "td")
	p.AllowAttrs("start").Matching(bluemonday.Integer).OnElements("ol")
	p.AllowAttrs("href").OnElements("a")
	p.AllowURLSchemes("https", "http", "mailto")
	p.RequireParseableURLs(true)
	p.AllowRelativeURLs(false)
	p.RequireNoFollowOnLinks(true)
	p.RequireNoReferrerOnLinks(true)
	return p
})

var heading = regexp.MustCompile(`<(/?)h([1-6])>`)

// lower moves headings down by one.
func lower(html []byte) []byte {
	return heading.ReplaceAllFunc(html, func(tag []byte) []byte {
		level := min(tag[len(tag)-2]-'0'+1, 6)
		return append(tag[:len(tag)-2:len(tag)-2], level+'0', '>')
	})
}
