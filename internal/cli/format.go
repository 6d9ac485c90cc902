package cli

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"reflect"
	"slices"
	"strings"
	"text/tabwriter"
	"text/template"
	"time"
	"unicode/utf8"

	"github.com/docker/go-units"
)

// The texts that docker gives its --format flags.
const (
	listFormatHelp = `Format output using a custom template:
'table':            Print output in table format with column headers (default)
'table TEMPLATE':   Print output in table format using the given Go template
'json':             Print in JSON format
'TEMPLATE':         Print output using the given Go template.
Refer to https://docs.docker.com/go/formatting/ for more information about formatting output with templates`
	inspectFormatHelp = `Format output using a custom template:
'json':             Print in JSON format
'TEMPLATE':         Print output using the given Go template.
Refer to https://docs.docker.com/go/formatting/ for more information about formatting output with templates`
)

// field is one property of a record that a list command prints.
type field[T any] struct {
	name   string // in templates
	header string // in tables
	value  func(T) string
}

// listing prints records of one kind as docker's list commands do.
type listing[T any] struct {
	fields  []field[T]
	columns []string                  // names of the fields in the default table
	docker  string                    // the type of a record in docker, which errors in templates tell
	typed   map[string]func(T) any    // fields that templates see as what they are
	labels  func(T) map[string]string // for {{.Label "name"}}; nil: there is none
}

// record is a row as a template sees it.
type record map[string]any

// Keys of what a record has besides fields.
const (
	labelsKey = " labels" // map[string]string
	headerKey = " header" // the record is a table's header
)

// MarshalJSON writes the keys in order, and escapes as docker does.
func (r record) MarshalJSON() ([]byte, error) {
	fields := maps.Clone(r)
	delete(fields, labelsKey)
	return json.Marshal(map[string]any(fields))
}

// Label is one label of a row. A header has the last part of its name, as docker's.
func (r record) Label(name string) (string, error) {
	if _, ok := r[headerKey]; ok {
		return strings.NewReplacer("-", " ", "_", " ").Replace(name[strings.LastIndexByte(name, '.')+1:]), nil
	}
	labels, ok := r[labelsKey].(map[string]string)
	if !ok {
		return "", errors.New("there are no labels")
	}
	return labels[name], nil
}

// record is an item as a template sees it.
func (l listing[T]) record(item T) record {
	row := make(record, len(l.fields))
	for _, f := range l.fields {
		if typed := l.typed[f.name]; typed != nil {
			row[f.name] = typed(item)
		} else {
			row[f.name] = f.value(item)
		}
	}
	if l.labels != nil {
		row[labelsKey] = l.labels(item)
	}
	return row
}

// write prints items in docker's --format language: "" or table, table
// TEMPLATE, json, TEMPLATE. It prints all or, where it fails, nothing.
func (l listing[T]) write(out io.Writer, format string, items []T) error {
	var text bytes.Buffer // a table comes cell by cell
	if err := l.format(&text, format, items); err != nil {
		return err
	}
	_, err := text.WriteTo(forTerminal(out))
	return err
}

// validate fails where a format is no template or does not fit a record, as
// docker's ps does before it asks for containers.
func (l listing[T]) validate(format string) error {
	tmpl, err := template.New("").Funcs(templateFuncs()).Parse(format)
	if err != nil {
		return fmt.Errorf("failed to parse template: %w", err)
	}
	var none T
	if err := tmpl.Option("missingkey=error").Execute(io.Discard, l.record(none)); err != nil {
		return fmt.Errorf("failed to execute template: %s", l.templateError(err))
	}
	return nil
}

// format writes items to out.
func (l listing[T]) format(out *bytes.Buffer, format string, items []T) error {
	switch format {
	case "", "table":
		return l.writeTable(out, items)
	case "json":
		format = "{{json .}}"
	}
	text, table := strings.CutPrefix(format, "table")
	tmpl, err := parseTemplate("", unescape(text))
	if err != nil {
		return err
	}
	tmpl.Option("missingkey=error")
	rows := out
	if table {
		rows = &bytes.Buffer{}
	}
	for _, item := range items {
		if err := tmpl.Execute(rows, l.record(item)); err != nil {
			return fmt.Errorf("template parsing error: %s", l.templateError(err))
		}
		rows.WriteByte('\n')
	}
	if !table {
		return nil
	}
	tw := newTable(out)
	headers := record{headerKey: nil}
	for _, f := range l.fields {
		headers[f.name] = f.header
	}
	// As in docker a header that its template does not fit ends where it fails: rows, where there are any, tell why.
	_ = tmpl.Funcs(headerFuncs()).Execute(tw, headers)
	fmt.Fprintln(tw)
	if _, err := rows.WriteTo(tw); err != nil {
		return err
	}
	return tw.Flush()
}

// templateError words an error as docker does, whose records are structs.
func (l listing[T]) templateError(err error) string {
	text := err.Error()
	if before, key, ok := strings.Cut(text, "map has no entry for key "); ok && l.docker != "" {
		text = before + "can't evaluate field " + strings.Trim(key, `"`) + " in type " + l.docker
	}
	return text
}

// writeTable prints the default table. No template is involved: a list of
// thousands stays fast.
func (l listing[T]) writeTable(out *bytes.Buffer, items []T) error {
	columns := make([]field[T], len(l.columns))
	headers := make([]string, len(l.columns))
	for i, name := range l.columns {
		at := slices.IndexFunc(l.fields, func(f field[T]) bool { return f.name == name })
		columns[i], headers[i] = l.fields[at], l.fields[at].header
	}
	text := make([]byte, 0, (1+len(items))*24*len(columns))
	text = append(append(text, strings.Join(headers, "\t")...), '\n')
	for _, item := range items {
		for i, c := range columns {
			if i > 0 {
				text = append(text, '\t')
			}
			text = append(text, c.value(item)...)
		}
		text = append(text, '\n')
	}
	has := func(c byte) int { return bytes.Count(text, []byte{c}) }
	if rows := 1 + len(items); has('\n') == rows && has('\t') == rows*(len(columns)-1) && has('\v')+has('\f')+has(tabwriter.Escape) == 0 {
		writeAligned(out, text, len(columns))
		return nil
	}
	tw := newTable(out) // there is a cell with what ends cells in it
	if _, err := tw.Write(text); err != nil {
		return err
	}
	return tw.Flush()
}

const (
	minCell = 10 // least width of a column
	cellGap = 3  // spaces after its widest cell
)

// writeAligned writes what newTable makes of rows which all have that many
// cells, in a fraction of the time.
func writeAligned(out *bytes.Buffer, text []byte, columns int) {
	widths, rows := make([]int, columns), 0
	for rest := text; len(rest) > 0; rows++ {
		for i := range columns {
			end := bytes.IndexByte(rest, cellEnd(i, columns))
			widths[i] = max(widths[i], utf8.RuneCount(rest[:end])+cellGap, minCell)
			rest = rest[end+1:]
		}
	}
	total := 0
	for _, w := range widths {
		total += w
	}
	out.Grow(total * rows)
	pad := bytes.Repeat([]byte{' '}, total)
	for rest := text; len(rest) > 0; {
		for i := range columns {
			end := bytes.IndexByte(rest, cellEnd(i, columns))
			out.Write(rest[:end])
			if i < columns-1 {
				out.Write(pad[:widths[i]-utf8.RuneCount(rest[:end])])
			}
			rest = rest[end+1:]
		}
		out.WriteByte('\n')
	}
}

// cellEnd is what ends a cell: a tab or, the last, a line feed.
func cellEnd(i, columns int) byte {
	if i == columns-1 {
		return '\n'
	}
	return '\t'
}

func newTable(out io.Writer) *tabwriter.Writer {
	return tabwriter.NewWriter(out, minCell, 1, cellGap, ' ', 0)
}

// unescape gives \t and \n in a format their meaning, which shells do not.
func unescape(format string) string {
	return strings.NewReplacer(`\t`, "\t", `\n`, "\n").Replace(strings.Trim(format, " "))
}

func parseTemplate(name, text string) (*template.Template, error) {
	tmpl, err := template.New(name).Funcs(templateFuncs()).Parse(text)
	if err != nil {
		return nil, fmt.Errorf("template parsing error: %w", err)
	}
	return tmpl, nil
}

// templateFuncs are the functions that docker's templates have.
func templateFuncs() template.FuncMap {
	return template.FuncMap{
		"json":     compactJSON,
		"split":    strings.Split,
		"join":     join,
		"title":    title,
		"lower":    strings.ToLower,
		"upper":    strings.ToUpper,
		"pad":      pad,
		"truncate": truncate,
	}
}

// headerFuncs leave the header of a column as it is, whatever is done to its
// cells.
func headerFuncs() template.FuncMap {
	same := func(v string) string { return v }
	return template.FuncMap{
		"json": same, "title": same, "lower": same, "upper": same,
		"split":    func(v, _ string) string { return v },
		"join":     func(v, _ string) string { return v },
		"truncate": func(v string, _ int) string { return v },
	}
}

func compactJSON(v any) (string, error) {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(v); err != nil {
		return "", err
	}
	return strings.TrimSpace(b.String()), nil
}

func join(elems any, sep string) (string, error) {
	if elems == nil {
		return "", nil
	}
	v := reflect.ValueOf(elems)
	var parts []string
	switch v.Kind() {
	case reflect.Array, reflect.Slice:
		for i := range v.Len() {
			parts = append(parts, fmt.Sprint(v.Index(i).Interface()))
		}
	case reflect.Map:
		for _, k := range v.MapKeys() {
			parts = append(parts, fmt.Sprint(v.MapIndex(k).Interface()))
		}
		slices.Sort(parts)
	default:
		return "", fmt.Errorf("expected slice, got %T", elems)
	}
	return strings.Join(parts, sep), nil
}

// title upper-cases the first letter of every word (ASCII, as field values are).
func title(s string) string {
	b := []byte(s)
	for i, c := range b {
		if c >= 'a' && c <= 'z' && (i == 0 || b[i-1] == ' ' || b[i-1] == '-') {
			b[i] = c - 'a' + 'A'
		}
	}
	return string(b)
}

func pad(s string, before, after int) string {
	if s == "" {
		return s
	}
	return strings.Repeat(" ", max(before, 0)) + s + strings.Repeat(" ", max(after, 0))
}

func truncate(s string, length int) string {
	if length < 0 || len(s) < length {
		return s
	}
	return s[:length]
}

// shortID is an ID as tables show it: 12 hex digits.
func shortID(id string) string {
	if _, hex, ok := strings.Cut(id, ":"); ok {
		id = hex
	}
	return id[:min(len(id), 12)]
}

// idText is an ID of a table that is cut short or not.
func idText(id string, trunc bool) string {
	if trunc {
		return shortID(id)
	}
	return id
}

// bytesOf is a size as docker's tables have it.
func bytesOf(n int64) string { return units.HumanSizeWithPrecision(float64(n), 3) }

func since(now, t time.Time) string { return units.HumanDuration(now.Sub(t)) + " ago" }

// createdSince and createdAt are when something was made, if that is known.
func createdSince(now, t time.Time) string {
	if t.IsZero() {
		return "N/A"
	}
	return since(now, t)
}

func createdAt(t time.Time) string {
	if t.IsZero() {
		return "N/A"
	}
	return t.Format(time.RFC3339)
}

// ellipsis cuts s to width characters, the last of them "…".
func ellipsis(s string, width int) string {
	runes := []rune(s)
	if len(runes) <= width {
		return s
	}
	return string(runes[:width-1]) + "…"
}

// writeFormat prints one value by a template, which errors call name, or as JSON.
func writeFormat(out io.Writer, name, format string, v any) error {
	if format == "json" {
		format = "{{json .}}"
	}
	tmpl, err := parseTemplate(name, format)
	if err != nil {
		return statusError{exitTemplate, err}
	}
	var b bytes.Buffer
	if err := tmpl.Execute(&b, v); err != nil {
		return fmt.Errorf("template parsing error: %w", err)
	}
	b.WriteByte('\n')
	_, err = b.WriteTo(out)
	return err
}
