package cli

import (
	"bytes"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	imagetypes "github.com/moby/moby/api/types/image"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"strake/internal/engine"
)

// golden compares got with a file of testdata/golden, or writes that.
func golden(t *testing.T, name, got string) {
	t.Helper()
	path := filepath.Join("testdata", "golden", name)
	if *update {
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), got); diff != "" {
		t.Errorf("%s differs (-want +got; -update rewrites it):\n%s", path, diff)
	}
}

// TestImagesTable holds the bytes that docker 28 prints of the same images.
func TestImagesTable(t *testing.T) {
	age := func(d time.Duration) time.Time { return time.Now().Add(-d) }
	images := []engine.Image{
		{
			ID: digest.FromString("a"), Created: age(3 * time.Minute), Size: 1982286,
			Names:       []string{"docker.io/library/bb:2", "docker.io/library/bb:latest", "localhost:5000/team/bb:1"},
			RepoDigests: []string{"docker.io/library/bb@" + digest.FromString("m").String(), "quay.io/x/y@" + digest.FromString("n").String()},
		},
		{ID: digest.FromString("b"), Created: age(50 * time.Hour), Size: 999},
		{ID: digest.FromString("c"), Created: age(2 * 365 * 24 * time.Hour), Size: 1234567890, Names: []string{"docker.io/a/b:c"}},
	}
	for name, opts := range map[string]imagesOptions{
		"images":          {},
		"images-digests":  {digests: true},
		"images-notrunc":  {noTrunc: true},
		"images-quiet":    {quiet: true},
		"images-json":     {format: `{"ID":{{json .ID}},"Size":{{json .Size}},"Tag":{{json .Tag}}}`},
		"images-table":    {format: `table {{.ID}}\t{{upper .Repository}}\t{{pad .Tag 1 2}}x`},
		"images-template": {format: `{{.Repository}}@{{.Digest}} {{truncate .Size 2}} {{join (split .Repository "/") "+"}} {{title .Tag}}`},
		"images-raw":      {format: "raw", quiet: true},
	} {
		t.Run(name, func(t *testing.T) {
			table, format := imagesFormat(opts)
			var rows []imageRow
			for i := range images {
				rows = appendRows(rows, &images[i], opts.digests || strings.Contains(format, "{{.Digest}}"), opts.digests)
			}
			var b bytes.Buffer
			if err := table.write(&b, format, rows); err != nil {
				t.Fatal(err)
			}
			golden(t, name, b.String())
		})
	}
}

func TestHistoryTable(t *testing.T) {
	steps := []imagetypes.HistoryResponseItem{
		{ID: digest.FromString("a").String(), Created: time.Now().Add(-25 * time.Hour).Unix(), CreatedBy: "CMD [\"sh\"]", Comment: "buildkit.dockerfile.v0"},
		{ID: "<missing>", Created: 0, CreatedBy: "RUN /bin/sh -c echo\tone two three four five six seven eight", Size: 123456789},
	}
	for name, human := range map[string]bool{"history": true, "history-exact": false} {
		t.Run(name, func(t *testing.T) {
			steps := slices.Clone(steps)
			if !human {
				steps[0].Created = 1_700_000_000
			}
			table := listing[imagetypes.HistoryResponseItem]{
				fields: historyFields(true, human), columns: []string{"ID", "CreatedSince", "CreatedBy", "Size", "Comment"},
			}
			var b bytes.Buffer
			if err := table.write(&b, "", steps); err != nil {
				t.Fatal(err)
			}
			golden(t, name, b.String())
		})
	}
}

// TestTransfer shows a pull as lines and as docker's table on a terminal.
func TestTransfer(t *testing.T) {
	layer := func(s string) ocispec.Descriptor {
		return ocispec.Descriptor{MediaType: ocispec.MediaTypeImageLayerGzip, Digest: digest.FromString(s), Size: 2_000_000}
	}
	events := []engine.Event{
		{Desc: ocispec.Descriptor{MediaType: ocispec.MediaTypeImageConfig, Digest: digest.FromString("config")}},
		{Desc: layer("a"), State: engine.StateWaiting},
		{Desc: layer("b"), State: engine.StateWaiting},
		{Desc: layer("b"), State: engine.StateExists},
		{Desc: layer("a"), State: engine.StateCopying, Offset: 1_000_000},
		{Desc: layer("a"), State: engine.StateDone, Offset: 2_000_000},
	}
	for name, width := range map[string]int{"transfer-lines": 0, "transfer-narrow": 40, "transfer-wide": 120} {
		t.Run(name, func(t *testing.T) {
			var b bytes.Buffer
			tr := newTransfer(&b, pullVerbs)
			tr.width = width
			for _, e := range events {
				tr.event(e)
			}
			golden(t, name, strings.ReplaceAll(b.String(), "\x1b", "ESC"))
		})
	}
}

// TestVisible: what an image says cannot command the terminal.
func TestVisible(t *testing.T) {
	for s, want := range map[string]string{
		"plain\tünï\n": "plain\tünï\n", "\x1b[2J\x1b]0;title\x07": "^[[2J^[]0;title^G", "a\rb\x7f\x00": "a^Mb^?^@", "\u009b2J": "^[[2J",
	} {
		var b strings.Builder
		n, err := visibleWriter{&b}.Write([]byte(s))
		if err != nil || n != len(s) || b.String() != want {
			t.Errorf("%q: %q, %d, %v", s, b.String(), n, err)
		}
	}
}

// A table's cells stand where text/tabwriter puts them, whatever is in them.
func TestWriteAligned(t *testing.T) {
	cells := []string{"", "a", "ten bytes.", "eleven byte", "größer", "日本語の名前", "\xfe", strings.Repeat("long ", 20)}
	for columns := 1; columns < 5; columns++ {
		for rows := range 20 {
			var text []byte
			for i := range rows * columns {
				text = append(append(text, cells[(i*i+rows)%len(cells)]...), cellEnd(i%columns, columns))
			}
			var want, got bytes.Buffer
			tw := newTable(&want)
			if _, err := tw.Write(text); err != nil {
				t.Fatal(err)
			}
			if err := tw.Flush(); err != nil {
				t.Fatal(err)
			}
			if writeAligned(&got, text, columns); got.String() != want.String() {
				t.Fatalf("%d rows of %d columns:\n%q\nwant\n%q", rows, columns, got.String(), want.String())
			}
		}
	}
}

// A cell with a line feed in it ends the row in a table.
func TestWriteTableOfLines(t *testing.T) {
	cell := func(i int) string { return strings.Repeat("x", 12*i) }
	table := listing[int]{columns: []string{"A", "B"}, fields: []field[int]{
		{"A", "A", cell}, {"B", "B", func(i int) string { return cell(i) + "\n" + cell(1-i) }},
	}}
	var got bytes.Buffer
	if err := table.format(&got, "", []int{0, 1}); err != nil {
		t.Fatal(err)
	}
	if want := "A         B\n          \nxxxxxxxxxxxx\nxxxxxxxxxxxx   xxxxxxxxxxxx\n\n"; got.String() != want {
		t.Errorf("the table is %q, want %q", got.String(), want)
	}
}
