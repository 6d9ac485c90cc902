package conformance

import (
	"archive/tar"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"path"
	"regexp"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// now is what stands for a time that a build made.
const now = "now"

// describe writes down what a builder made, one fact a line: the error, or
// warnings, config, history, and all files that are not the base image's.
func (c *DockerfileCase) describe(b Built) (string, error) {
	var out strings.Builder
	for _, w := range slices.Sorted(slices.Values(b.Warnings)) {
		fmt.Fprintf(&out, "warning: %s\n", w)
	}
	switch {
	case b.Err != "":
		fmt.Fprintf(&out, "error:\n%s\n", strings.TrimSuffix(b.Err, "\n"))
	case c.Call != "":
		out.WriteString(b.Shown)
	default:
		if err := describeImage(&out, b); err != nil {
			return "", err
		}
	}
	s := strings.ReplaceAll(out.String(), c.Dir, "@DIR@")
	s = internalRef.ReplaceAllString(s, "of ref REF: ")
	s = internalRoot.ReplaceAllString(s, "$1/")
	if c.url != "" {
		s = strings.ReplaceAll(s, c.url, "@URL@")
	}
	return s, nil
}

// Names that a builder makes up: of what a step reads, and of the directory that
// it works in.
var (
	internalRef  = regexp.MustCompile(`of ref .*?: `)
	internalRoot = regexp.MustCompile(`(\s)/\S+/cachemounts/buildkit\d+/`)
)

func describeImage(out *strings.Builder, b Built) error {
	ids, err := describeConfig(out, b)
	if err != nil {
		return err
	}
	return describeFiles(out, ids, b.Layer)
}

// describeConfig writes down the config and the history; it returns the layers.
func describeConfig(out *strings.Builder, b Built) ([]digest.Digest, error) {
	var config map[string]any
	if err := json.Unmarshal(b.Config, &config); err != nil {
		return nil, err
	}
	var layers struct {
		RootFS  ocispec.RootFS   `json:"rootfs"`
		History []map[string]any `json:"history"`
	}
	if err := json.Unmarshal(b.Config, &layers); err != nil {
		return nil, err
	}
	undate(config)
	delete(config, "rootfs")
	delete(config, "history")
	text, err := json.MarshalIndent(config, "", " ")
	if err != nil {
		return nil, err
	}
	fmt.Fprintf(out, "%s\n%d layers\n", text, len(layers.RootFS.DiffIDs))
	for _, h := range layers.History {
		undate(h)
		line, err := json.Marshal(h)
		if err != nil {
			return nil, err
		}
		fmt.Fprintf(out, "%s\n", line)
	}
	return layers.RootFS.DiffIDs, nil
}

// undate removes the time where it is that of the build.
func undate(m map[string]any) {
	created, _ := m["created"].(string)
	at, err := time.Parse(time.RFC3339Nano, created)
	if err == nil && stamp(at) == now {
		delete(m, "created")
	}
}

func stamp(at time.Time) string {
	if at.Year() > caseTime.Year()+2 {
		return now
	}
	return at.UTC().Format(time.RFC3339Nano)
}

// describeFiles lists what the layers above the base image changed.
func describeFiles(out *strings.Builder, ids []digest.Digest, open func(digest.Digest) (io.ReadCloser, error)) error {
	base, files := map[string]string{}, map[string]string{}
	for _, id := range ids {
		l, err := parsedLayers.read(id, open)
		if err != nil {
			return err
		}
		l.apply(files)
		if l.base {
			base = maps.Clone(files)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(base)) {
		if _, ok := files[name]; !ok {
			fmt.Fprintf(out, "gone %s\n", name)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(files)) {
		if files[name] != base[name] {
			fmt.Fprintf(out, "%s\n", files[name])
		}
	}
	return nil
}

// caseLayer is a layer, read: lines by path, and what it hides.
type caseLayer struct {
	files  map[string]string
	hidden []string // paths; one that ends in "/" is what is in the directory
	base   bool
}

// apply does to files what the layer does.
func (l *caseLayer) apply(files map[string]string) {
	drop := func(dir string) {
		for name := range files {
			if strings.HasPrefix(name, dir+"/") || dir == "." {
				delete(files, name)
			}
		}
	}
	for _, name := range l.hidden {
		if dir, opaque := strings.CutSuffix(name, "/"); opaque {
			drop(dir)
			continue
		}
		delete(files, name)
		drop(name)
	}
	for _, name := range slices.Sorted(maps.Keys(l.files)) {
		if old, ok := files[name]; ok && old[0] == 'd' && l.files[name][0] != 'd' {
			drop(name)
		}
		files[name] = l.files[name]
	}
}

// layerCache keeps layers that many cases have.
type layerCache struct {
	mu   sync.Mutex
	seen map[digest.Digest]*caseLayer
}

var parsedLayers layerCache

func (c *layerCache) read(id digest.Digest, open func(digest.Digest) (io.ReadCloser, error)) (*caseLayer, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if l, ok := c.seen[id]; ok {
		return l, nil
	}
	r, err := open(id)
	if err != nil {
		return nil, err
	}
	l, err := readCaseLayer(r)
	if err = errors.Join(err, r.Close()); err != nil {
		return nil, fmt.Errorf("layer %s: %w", id, err)
	}
	if c.seen == nil {
		c.seen = map[digest.Digest]*caseLayer{}
	}
	c.seen[id] = l
	return l, nil
}

// readCaseLayer reads a layer's tar. That of the base image has a file baseMark.
func readCaseLayer(r io.Reader) (*caseLayer, error) {
	l := &caseLayer{files: map[string]string{}}
	for tr := tar.NewReader(r); ; {
		h, err := tr.Next()
		if errors.Is(err, io.EOF) {
			return l, nil
		}
		if err != nil {
			return nil, err
		}
		name := path.Clean(h.Name)
		dir, file := path.Split(name)
		switch hidden, is := strings.CutPrefix(file, ".wh."); {
		case file == ".wh..wh..opq":
			l.hidden = append(l.hidden, dir)
		case is:
			l.hidden = append(l.hidden, dir+hidden)
		default:
			l.base = l.base || name == baseMark
			if l.files[name], err = l.line(h, name, tr); err != nil {
				return nil, err
			}
		}
	}
}

// line describes one file: kind, mode, owner, time, path, content, attributes.
func (l *caseLayer) line(h *tar.Header, name string, r io.Reader) (string, error) {
	kind := map[byte]string{
		tar.TypeDir: "d", tar.TypeReg: "f", tar.TypeSymlink: "l", tar.TypeChar: "c", tar.TypeBlock: "b", tar.TypeFifo: "p", tar.TypeLink: "h",
	}[h.Typeflag]
	detail := ""
	switch kind {
	case "f":
		content, err := io.ReadAll(r)
		if err != nil {
			return "", err
		}
		detail = fmt.Sprintf(" %q", content)
		switch {
		case len(content) > 1<<20: // the system's busybox
			detail = " large"
		case len(content) > 80:
			detail = fmt.Sprintf(" %d bytes %.12x", len(content), sha256.Sum256(content))
		}
	case "l":
		detail = " -> " + h.Linkname
	case "h":
		return fmt.Sprintf("h /%s = /%s", name, strings.TrimPrefix(path.Clean(h.Linkname), "/")), nil
	case "c", "b":
		detail = fmt.Sprintf(" %d,%d", h.Devmajor, h.Devminor)
	}
	if name == "." {
		name = "" // the root
	}
	for _, k := range slices.Sorted(maps.Keys(h.PAXRecords)) {
		if attr, ok := strings.CutPrefix(k, "SCHILY.xattr."); ok {
			detail += fmt.Sprintf(" %s=%q", attr, h.PAXRecords[k])
		}
	}
	return fmt.Sprintf("%s %04o %d:%d %s /%s%s", kind, h.Mode&0o7777, h.Uid, h.Gid, stamp(h.ModTime), name, detail), nil
}
