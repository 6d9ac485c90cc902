package cli

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/opencontainers/go-digest"

	"strake/internal/engine"
	"strake/internal/store"
)

// The golden files are what docker 28 prints for the same images, but for the
// colours that its heads of columns have in a pipe too.
func TestTree(t *testing.T) {
	id := func(c string) digest.Digest { return digest.Digest("sha256:" + strings.Repeat(c, 64)) }
	size := func(total, content int64) store.Footprint { return store.Footprint{Total: total, Content: content} }
	list := []engine.TreeImage{
		{
			Image: engine.Image{ID: id("a"), Names: []string{"docker.io/library/app:latest", "reg.example.com/team/app:1"}}, Footprint: size(123456789, 40000000),
			Children: []engine.Branch{
				{ID: id("b"), Platform: "linux/amd64", Here: true, Footprint: size(100000000, 40000000)},
				{ID: id("c"), Platform: "linux/arm64/v8"},
			},
		},
		{
			Image: engine.Image{ID: id("d"), Names: []string{"docker.io/library/busybox:1"}}, Footprint: size(4000000, 1000),
			Children: []engine.Branch{{ID: id("e"), Platform: "linux/amd64", Here: true, Footprint: size(4000000, 1000)}},
		},
		{Image: engine.Image{ID: id("f"), Names: []string{"a-very-long-name.example.com/some/organisation/with/a/long/path:tag-of-it"}}, Footprint: size(4000000, 0)},
		{Image: engine.Image{ID: id("9")}, Footprint: size(4000000, 0)},
	}
	for name, p := range map[string]*treePrinter{"tree.txt": {}, "tree-terminal.txt": {color: true, width: 100}} {
		var out bytes.Buffer
		p.out = &out
		p.print(list)
		want, err := os.ReadFile(filepath.Join("testdata", "golden", name))
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(string(want), out.String()); diff != "" {
			t.Errorf("%s: %s", name, diff)
		}
	}
}
