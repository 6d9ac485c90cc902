package dockerfile

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"slices"
	"text/tabwriter"

	"github.com/moby/buildkit/frontend/dockerfile/parser"
)

// Location is a place in the Dockerfile, as BuildKit writes it.
type Location struct {
	Ranges []Range `json:"ranges,omitempty"`
}

// Range is some lines of it.
type Range struct {
	Start Position `json:"start"`
	End   Position `json:"end"`
}

// Position is a place in a line, which counts from 1.
type Position struct {
	Line      int `json:"line,omitempty"`
	Character int `json:"character,omitempty"`
}

func newLocation(at []parser.Range) *Location {
	if len(at) == 0 {
		return nil
	}
	l := &Location{}
	for _, r := range at {
		l.Ranges = append(l.Ranges, Range{Start: Position(r.Start), End: Position(r.End)})
	}
	return l
}

func (l *Location) line() int {
	if l == nil || len(l.Ranges) == 0 {
		return 0
	}
	return l.Ranges[0].Start.Line
}

func (l *Location) compare(o *Location) int { return cmp.Compare(l.line(), o.line()) }

// Checked is what the checks found, as BuildKit's frontend.lint says it.
type Checked struct {
	Warnings []CheckWarning `json:"warnings"`
	Sources  []CheckSource  `json:"sources"`
	Error    *CheckError    `json:"buildError,omitempty"`
}

// CheckWarning is one warning.
type CheckWarning struct {
	RuleName    string    `json:"ruleName"`
	Description string    `json:"description,omitempty"`
	URL         string    `json:"url,omitempty"`
	Detail      string    `json:"detail,omitempty"`
	Location    *Location `json:"location,omitempty"`

	excerpt string
}

// CheckSource is the Dockerfile.
type CheckSource struct {
	Filename string `json:"filename,omitempty"`
	Data     []byte `json:"data,omitempty"`
	Language string `json:"language,omitempty"`
}

// CheckError is why the Dockerfile cannot be built.
type CheckError struct {
	Message  string    `json:"message"`
	Location *Location `json:"location"`

	excerpt string
}

// Check sums up the warnings so far, and err, with which compiling ended. A lint
// violation alone is no error here.
func (f *File) Check(err error) Checked {
	c := Checked{Warnings: []CheckWarning{}, Sources: []CheckSource{{Filename: f.name, Data: f.source, Language: "Dockerfile"}}}
	for _, w := range f.warned {
		c.Warnings = append(c.Warnings, CheckWarning{
			RuleName: w.Rule, Description: w.Description, URL: w.URL, Detail: w.Detail, Location: newLocation(w.at), excerpt: w.Excerpt,
		})
	}
	if err == nil {
		err = f.lint.Error()
	}
	if err != nil {
		c.Error = &CheckError{Message: err.Error(), Location: &Location{}, excerpt: f.Excerpt(err)}
		if le := (*parser.LocationError)(nil); errors.As(err, &le) {
			c.Error.Location = newLocation(slices.Concat(le.Locations...))
		}
	}
	return c
}

// Text is all warnings as BuildKit shows them, by line.
func (c Checked) Text() string {
	list := slices.Clone(c.Warnings)
	slices.SortStableFunc(list, func(a, b CheckWarning) int {
		if a.Location.line() == 0 && b.Location.line() == 0 {
			return cmp.Compare(a.RuleName, b.RuleName)
		}
		return a.Location.compare(b.Location)
	})
	var b bytes.Buffer
	for _, w := range list {
		fmt.Fprintf(&b, "\nWARNING: %s", w.RuleName)
		if w.URL != "" {
			fmt.Fprintf(&b, " - %s", w.URL)
		}
		fmt.Fprintf(&b, "\n%s\n%s", w.Detail, w.excerpt)
	}
	return b.String()
}

// ErrorText is the error as BuildKit shows it; "" where there is none.
func (c Checked) ErrorText() string {
	if c.Error == nil {
		return ""
	}
	return c.Error.Message + "\n" + c.Error.excerpt
}

// Targets are the stages that can be built.
type Targets struct {
	Targets []Target `json:"targets"`
	Sources [][]byte `json:"sources"`
}

// Target is one of them.
type Target struct {
	Name        string    `json:"name,omitempty"`
	Default     bool      `json:"default,omitempty"`
	Description string    `json:"description,omitempty"`
	Base        string    `json:"base,omitempty"`
	Platform    string    `json:"platform,omitempty"`
	Location    *Location `json:"location,omitempty"`
}

// Targets lists the stages.
func (f *File) Targets() Targets {
	list := Targets{Sources: [][]byte{f.source}}
	for i, s := range f.stages {
		list.Targets = append(list.Targets, Target{
			Name: s.Name, Description: s.DocComment, Default: i == len(f.stages)-1, Base: s.BaseName, Platform: s.Platform,
			Location: newLocation(s.Location),
		})
	}
	return list
}

// Text is the list as BuildKit shows it.
func (l Targets) Text() string {
	var b bytes.Buffer
	w := tabwriter.NewWriter(&b, 0, 0, 1, ' ', 0)
	fmt.Fprint(w, "TARGET\tDESCRIPTION\n")
	for _, t := range l.Targets {
		name := t.Name
		switch {
		case name == "" && t.Default:
			name = "(default)"
		case t.Default:
			name += " (default)"
		}
		fmt.Fprintf(w, "%s\t%s\n", name, t.Description)
	}
	_ = w.Flush() // into memory
	return b.String()
}

// Text is the outline as BuildKit shows it.
func (o Outline) Text() string {
	var b bytes.Buffer
	table := func(padding int, rows func(w *tabwriter.Writer)) {
		w := tabwriter.NewWriter(&b, 0, 0, padding, ' ', 0)
		rows(w)
		_ = w.Flush() // into memory
		b.WriteByte('\n')
	}
	if o.Name != "" || o.Description != "" {
		table(1, func(w *tabwriter.Writer) {
			fmt.Fprintf(w, "TARGET:\t%s\n", cmp.Or(o.Name, "(default)"))
			if o.Description != "" {
				fmt.Fprintf(w, "DESCRIPTION:\t%s\n", o.Description)
			}
		})
	}
	if len(o.Args) > 0 {
		table(3, func(w *tabwriter.Writer) {
			fmt.Fprint(w, "BUILD ARG\tVALUE\tDESCRIPTION\n")
			for _, a := range o.Args {
				fmt.Fprintf(w, "%s\t%s\t%s\n", a.Name, a.Value, a.Description)
			}
		})
	}
	secrets := func(head string, list []OutlineSecret) {
		if len(list) == 0 {
			return
		}
		table(3, func(w *tabwriter.Writer) {
			fmt.Fprintf(w, "%s\tREQUIRED\n", head)
			for _, s := range list {
				required := ""
				if s.Required {
					required = "true"
				}
				fmt.Fprintf(w, "%s\t%s\n", s.Name, required)
			}
		})
	}
	secrets("SECRET", o.Secrets)
	secrets("SSH", o.SSH)
	return b.String()
}
