// Package browse shows the layers of an image in the terminal: the list of layers
// on the left, and on the right the tree of files as the chosen layer leaves it,
// with what it adds (A), changes (C) and deletes (D).
package browse

import (
	"context"
	"errors"
	"fmt"

	"github.com/gdamore/tcell/v3"
	"github.com/gdamore/tcell/v3/color"

	"strake/internal/engine"
)

// Options say what to show.
type Options struct {
	Title  string
	Layers engine.LayersResult // with their lists of changes
	Size   func(int64) string  // how sizes are written
}

// Run shows the layers until the user quits or ctx ends. The terminal is as it
// was when Run returns or panics.
func Run(ctx context.Context, opts Options) error {
	screen, err := tcell.NewScreen()
	if err == nil {
		err = screen.Init()
	}
	if err != nil {
		return fmt.Errorf("open the terminal: %w", err)
	}
	defer screen.Fini()
	p := &painter{screen: screen, model: newModel(opts)}
	p.draw()
	for {
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case event, ok := <-screen.EventQ():
			if !ok {
				return errors.New("the terminal is gone")
			}
			if !p.handle(event) {
				return nil
			}
			p.draw()
		}
	}
}

// Bounds of the screen's parts.
const (
	columnsMin, rowsMin = 40, 8
	leftMin, leftMax    = 24, 60
)

// painter draws a model on a screen.
type painter struct {
	screen tcell.Screen
	*model
}

// handle acts on an event and tells whether to go on.
func (p *painter) handle(event tcell.Event) bool {
	switch e := event.(type) {
	case *tcell.EventResize:
		p.screen.Sync()
	case *tcell.EventKey:
		k, text := translate(e)
		_, height := p.screen.Size()
		return p.press(k, text, max(1, height-4))
	}
	return true
}

// translate tells what a key means.
func translate(e *tcell.EventKey) (key, string) {
	keys := map[tcell.Key]key{
		tcell.KeyUp: keyUp, tcell.KeyDown: keyDown, tcell.KeyLeft: keyLeft, tcell.KeyRight: keyRight,
		tcell.KeyPgUp: keyPageUp, tcell.KeyPgDn: keyPageDown, tcell.KeyHome: keyHome, tcell.KeyEnd: keyEnd,
		tcell.KeyEnter: keyEnter, tcell.KeyTab: keyTab, tcell.KeyBacktab: keyTab, tcell.KeyBackspace: keyBackspace,
		tcell.KeyEscape: keyEscape, tcell.KeyCtrlC: keyQuit,
	}
	if e.Key() == tcell.KeyRune {
		if e.Modifiers()&tcell.ModCtrl != 0 && e.Str() == "c" {
			return keyQuit, ""
		}
		return keyText, e.Str()
	}
	return keys[e.Key()], ""
}

func look(s style) tcell.Style {
	plain := tcell.StyleDefault
	switch s {
	case styleTitle:
		return plain.Bold(true)
	case styleDim:
		return plain.Dim(true)
	case styleAdded:
		return plain.Foreground(color.Green)
	case styleChanged:
		return plain.Foreground(color.Olive)
	case styleDeleted:
		return plain.Foreground(color.Maroon)
	case styleCursor:
		return plain.Reverse(true)
	case styleCursorFaint:
		return plain.Bold(true)
	}
	return plain
}

// draw draws everything. tcell sends what differs from the last time.
func (p *painter) draw() {
	width, height := p.screen.Size()
	p.screen.Clear()
	defer p.screen.Show()
	if width < columnsMin || height < rowsMin {
		p.put(0, 0, width, "too small", styleText)
		return
	}
	left := max(leftMin, min(leftMax, width*2/5))
	bottom := height - 1
	p.put(0, 0, width, p.title, styleTitle)
	for y := 1; y < bottom; y++ {
		p.put(left, y, 1, "|", styleDim)
	}
	p.drawLayers(1, left, bottom)
	p.drawTree(1, left+2, width-left-2, bottom)
	p.put(0, bottom, width, p.status(), styleDim)
}

// drawLayers draws the layers, and below them what there is to say of one.
func (p *painter) drawLayers(top, width, bottom int) {
	details := wrap(p.details(), width-1)
	room := max(3, min(len(p.layers)+1, (bottom-top)/2, bottom-top-4)) // lines of the list
	p.put(0, top, width, fmt.Sprintf("%3s %8s %8s  %s", "#", "SIZE", "WASTE", "CREATED BY"), styleDim)
	p.layer.move(p.layer.at, len(p.layers), room-1)
	for y := 1; y < room && p.layer.top+y-1 < len(p.layers); y++ {
		i := p.layer.top + y - 1
		p.put(0, top+y, width-1, p.layerLine(i), p.cursor(i == p.layer.at, !p.inTree, styleText))
	}
	for i, line := range details {
		if y := top + room + 1 + i; y < bottom {
			p.put(0, y, width-1, line, styleText)
		}
	}
}

func (p *painter) drawTree(top, x, width, bottom int) {
	p.put(x, top, width, fmt.Sprintf("  %8s  %s", "SIZE", "FILE"), styleDim)
	height := bottom - top - 1
	p.file.move(p.file.at, len(p.rows), height)
	if len(p.rows) == 0 {
		p.put(x, top+1, width, "no files", styleDim)
	}
	for y := range height {
		i := p.file.top + y
		if i >= len(p.rows) {
			break
		}
		text, s := p.line(&p.rows[i])
		p.put(x, top+1+y, width, text, p.cursor(i == p.file.at, p.inTree, s))
	}
}

// cursor is the style of a line that may be under the cursor.
func (p *painter) cursor(here, active bool, otherwise style) style {
	switch {
	case here && active:
		return styleCursor
	case here && otherwise == styleText:
		return styleCursorFaint
	}
	return otherwise
}

// put writes text into width cells of a line, and fills those that are left.
func (p *painter) put(x, y, width int, text string, s style) {
	end := x + width
	style := look(s)
	for text != "" && x < end {
		rest, n := p.screen.Put(x, y, text, style)
		if n == 0 || len(rest) >= len(text) {
			break
		}
		if x+n > end { // half of a wide character
			p.screen.Put(x, y, " ", style)
		}
		x, text = x+n, rest
	}
	for ; x < end && s == styleCursor; x++ {
		p.screen.Put(x, y, " ", style)
	}
}

// wrap breaks lines that are longer than width characters.
func wrap(lines []string, width int) (out []string) {
	for _, line := range lines {
		runes := []rune(line)
		for len(runes) > width {
			out = append(out, string(runes[:width]))
			runes = runes[width:]
		}
		out = append(out, string(runes))
	}
	return out
}
