package cli

import (
	"context"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"unicode/utf8"

	"strake/internal/engine"
)

const (
	treeWarning = "WARNING: This is an experimental feature. The output may change and shouldn't be depended on."
	treeSpacing = "   " // between columns
	minimumName = 12    // columns that would leave the first one less are left out
)

// treeColumn is a column after the first.
type treeColumn struct {
	title string
	width int
	right bool
}

var treeColumns = [...]treeColumn{{"ID", 12, false}, {"DISK USAGE", 10, true}, {"CONTENT SIZE", 12, true}, {"EXTRA", 5, false}}

// The colours of a tree on a terminal.
const (
	treeTitle  = "\x1b[39m\x1b[1m"
	treeName   = "\x1b[34m\x1b[1m"
	treeNormal = "\x1b[39m"
	treeFaint  = "\x1b[39m\x1b[2m"
	treeYellow = "\x1b[93m"
	treeLegend = noteHeader + " \x1b[38;5;0m\x1b[48;5;14m U \x1b[0m In Use "
)

// treePrinter prints docker's tree of images.
type treePrinter struct {
	out    io.Writer
	color  bool
	width  int // of the terminal, 0 for none
	name   int // of the first column
	column []treeColumn
}

func runTree(ctx context.Context, s *session, opts imagesOptions) error {
	if err := treeError(opts); err != nil {
		return err
	}
	env, err := s.engine(ctx)
	if err != nil {
		return err
	}
	list, err := engine.ImageTree(ctx, env, engine.ImagesOptions{All: opts.all, Filters: imageConditions(opts)})
	if err != nil {
		return fromEngine(err)
	}
	p := &treePrinter{out: s.Out, color: isTerminal(s.Out) && os.Getenv("NO_COLOR") == "", width: terminalWidth(s.Out, 0)}
	p.print(list)
	return nil
}

func (p *treePrinter) print(list []engine.TreeImage) {
	width := p.width
	if width == 0 {
		width = 80
	}
	width = max(width, 20)
	fmt.Fprintln(p.out, p.paint(treeYellow, treeWarning))
	const legend, legendWidth = " Info ->  U In Use ", 21 // on a terminal
	if p.color {
		fmt.Fprintln(p.out, strings.Repeat(" ", max(width-legendWidth, 0))+treeLegend)
	} else {
		fmt.Fprintln(p.out, strings.Repeat(" ", max(width-len(legend), 0))+legend)
	}
	fmt.Fprintln(p.out)
	p.fit(width, list)
	p.row(treeTitle, "IMAGE", func(c treeColumn) string { return p.cell(c, treeTitle, c.title, false) })
	fmt.Fprintln(p.out)
	spacing := slices.ContainsFunc(list, func(img engine.TreeImage) bool { return len(img.Children) > 0 })
	for i := range list {
		p.image(&list[i], spacing)
	}
}

// fit gives the first column what the others leave of width, at most what it
// needs, and takes from the right the columns for which nothing is left.
func (p *treePrinter) fit(width int, list []engine.TreeImage) {
	p.name = width
	for _, c := range treeColumns {
		if p.name-c.width-len(treeSpacing) < minimumName {
			break
		}
		p.name -= c.width + len(treeSpacing)
		p.column = append(p.column, c)
	}
	widest := len("IMAGE")
	for _, img := range list {
		for _, name := range engine.FamiliarNames(img.Names) {
			widest = max(widest, len(name))
		}
		for _, child := range img.Children {
			widest = max(widest, len(child.Platform)+len("└─ "))
		}
	}
	p.name = min(p.name, widest)
}

func (p *treePrinter) image(img *engine.TreeImage, spacing bool) {
	names := engine.FamiliarNames(img.Names)
	slices.SortStableFunc(names, func(a, b string) int { return len(b) - len(a) })
	color, name := treeName, ""
	switch n := len(names); n {
	case 0:
		color, name = treeFaint, "<untagged>"
	default:
		name = names[n-1]
		for _, other := range names[:n-1] {
			fmt.Fprintln(p.out, p.paint(treeName, p.cut(other, p.width)))
		}
	}
	p.details(color, treeNormal, name, img.ID.String(), img.Total, img.Content)
	if spacing {
		fmt.Fprintln(p.out)
	}
	for i, child := range img.Children {
		branch, color := "├─ ", treeNormal
		if i == len(img.Children)-1 {
			branch = "└─ "
		}
		if !child.Here {
			color = treeFaint
		}
		p.details(color, color, branch+child.Platform, child.ID.String(), child.Total, child.Content)
		fmt.Fprintln(p.out)
	}
	fmt.Fprintln(p.out)
}

// details prints a line without its end.
func (p *treePrinter) details(nameColor, color, name, id string, total, content int64) {
	values := map[string]string{
		"ID":           shortID(id),
		"DISK USAGE":   bytesOf(total),
		"CONTENT SIZE": bytesOf(content),
	}
	p.row(nameColor, name, func(c treeColumn) string {
		if c.title == "EXTRA" {
			color = "" // holds chips, which have their own
		}
		return p.cell(c, color, values[c.title], c.right)
	})
}

func (p *treePrinter) row(nameColor, name string, cell func(treeColumn) string) {
	fmt.Fprint(p.out, p.cell(treeColumn{width: p.name}, nameColor, name, false))
	for _, c := range p.column {
		fmt.Fprint(p.out, treeSpacing, cell(c))
	}
}

// cell is a text as wide as its column.
func (p *treePrinter) cell(c treeColumn, color, text string, right bool) string {
	n := utf8.RuneCountInString(text)
	if n > c.width {
		return p.paint(color, p.cut(text, c.width))
	}
	fill := strings.Repeat(" ", c.width-n)
	if right {
		return fill + p.paint(color, text)
	}
	return p.paint(color, text) + fill
}

// cut leaves width characters of a text, the last of them "…"; 0 leaves all.
func (p *treePrinter) cut(text string, width int) string {
	if width == 0 {
		return text
	}
	return ellipsis(text, width)
}

func (p *treePrinter) paint(color, text string) string {
	if !p.color || color == "" {
		return text
	}
	return color + text + "\x1b[0m"
}
