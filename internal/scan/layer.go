package scan

import (
	"cmp"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"slices"
	"strings"

	"strake/internal/archive"
	"strake/internal/layer"
	"strake/internal/secret"
)

// recordFormat is the version of Record. It grows when a record of an older one
// lacks what is looked for now.
const recordFormat = 1

// Record is what one layer says of packages and secrets. It stays good for as long
// as its format is the program's, for the layer never changes.
type Record struct {
	Format  int      `json:"format"`
	Files   []File   `json:"files,omitempty"`
	Hidden  []string `json:"hidden,omitempty"` // names of lower layers that the layer deletes
	Opaque  []string `json:"opaque,omitempty"` // directories of lower layers that it empties
	Others  []byte   `json:"others,omitempty"` // hashes of other names that it puts in their places
	Secrets []Secret `json:"secrets,omitempty"`
	Skipped []string `json:"skipped,omitempty"` // what was not looked at, and why

	statusFiles int
}

// Current tells whether a record is of this program's format.
func (r *Record) Current() bool { return r.Format == recordFormat }

// File is a file that says what is installed.
type File struct {
	Path     string    `json:"path"`
	Packages []Package `json:"packages,omitempty"`
	Release  *Release  `json:"release,omitempty"`
	RPM      bool      `json:"rpm,omitempty"` // it is rpm's, which is not read
}

// Secret is a secret in a layer. It is in the image even where an upper layer deletes its file.
type Secret struct {
	File    string `json:"file,omitempty"`    // without a leading slash; "" is one of the config
	Place   string `json:"place,omitempty"`   // in the config, as "environment NAME"
	Layer   int    `json:"layer,omitempty"`   // of the chain, from 1 at the bottom; 0: of the config
	Deleted bool   `json:"deleted,omitempty"` // by an upper layer
	secret.Finding
}

// pathHash stands for a path, where very many would be too much.
type pathHash [8]byte

func hashOf(name string) (h pathHash) {
	sum := sha256.Sum256([]byte(name))
	copy(h[:], sum[:])
	return h
}

// Tar looks at a layer that is a tar, uncompressed, in one pass, from its
// beginning. Programs and Java archives are read in place where the tar is an
// io.ReaderAt, otherwise copied to a scratch file one by one. A tar that is broken
// or breaks the bounds of package archive fails with the kinds of errors that it
// has; more packages or names than any real layer has, with ResourceExhausted.
func Tar(ctx context.Context, tar io.Reader) (r Record, err error) {
	c := newCollector(true)
	defer func() { err = errors.Join(err, c.close()) }()
	at, _ := tar.(io.ReaderAt)
	entries := archive.NewReader(tar)
	for {
		if err := ctx.Err(); err != nil {
			return Record{}, fmt.Errorf("scan layer: %w", err)
		}
		e, err := entries.Next()
		if errors.Is(err, io.EOF) {
			return c.end(), nil
		}
		if err == nil {
			err = c.entry(e, entries, at)
		}
		if err != nil {
			return Record{}, fmt.Errorf("scan layer: %w", err)
		}
	}
}

// entry looks at a member of a tar.
func (c *collector) entry(e *archive.Entry, content io.Reader, at io.ReaderAt) error {
	kind, name, err := archive.ParseWhiteout(e.Name)
	switch {
	case err != nil:
		return err
	case kind == archive.Hides:
		return c.hides(&c.record.Hidden, name)
	case kind == archive.Opaque:
		return c.hides(&c.record.Opaque, name)
	case kind == archive.Metadata || e.IsDir():
		return nil
	case e.HardLink || e.Mode&archive.TypeMask != archive.TypeRegular:
		return c.other(name)
	}
	s := source{r: content, size: e.Size}
	if at != nil && !e.Sparse {
		s.at = io.NewSectionReader(at, e.Data, e.Size)
	}
	if err := c.regular(name, e.Mode&0o111 != 0, s); err != nil {
		return fmt.Errorf("%q: %w", e.Name, err)
	}
	return nil
}

// Layer looks at one layer as it is, whiteouts included: a layer.Layer.
func Layer(fsys fs.FS) (Record, error) {
	r, err := walk(fsys, true)
	if err != nil {
		return Record{}, fmt.Errorf("scan layer: %w", err)
	}
	return r, nil
}

// walk looks at the files of a file system.
func walk(fsys fs.FS, secrets bool) (r Record, err error) {
	c := newCollector(secrets)
	defer func() { err = errors.Join(err, c.close()) }()
	err = fs.WalkDir(fsys, ".", func(name string, d fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) && name == "." {
			return nil // there is nothing at all
		}
		if err != nil {
			return err
		}
		return c.walked(fsys, name, d)
	})
	return c.end(), err
}

func (c *collector) walked(fsys fs.FS, name string, d fs.DirEntry) (err error) {
	info, err := d.Info()
	if err != nil {
		return err
	}
	stat, _ := info.Sys().(*layer.Stat)
	switch {
	case stat != nil && stat.Whiteout():
		return c.hides(&c.record.Hidden, name)
	case stat != nil && stat.Opaque && name == ".":
		return c.hides(&c.record.Opaque, "")
	case stat != nil && stat.Opaque:
		return c.hides(&c.record.Opaque, name)
	case info.IsDir():
		return nil
	case !info.Mode().IsRegular():
		return c.other(name)
	}
	f, err := fsys.Open(name)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	at, _ := f.(io.ReaderAt)
	if err := c.regular(name, info.Mode()&0o111 != 0, source{r: f, at: at, size: info.Size()}); err != nil {
		return fmt.Errorf("%q: %w", name, err)
	}
	return nil
}

// end is the record of what was looked at.
func (c *collector) end() Record {
	for _, name := range slices.Sorted(maps.Keys(c.files)) {
		f := c.files[name]
		if len(f.Packages) > 0 && !f.Packages[0].Distribution() && c.isOwned(name) {
			f.Packages = nil // the distribution's package has it, and its version
		}
		if len(f.Packages) == 0 && f.Release == nil && !f.RPM {
			c.others[hashOf(name)] = struct{}{}
			continue
		}
		slices.SortFunc(f.Packages, comparePackages)
		c.record.Files = append(c.record.Files, *f)
	}
	hashes := slices.SortedFunc(maps.Keys(c.others), func(a, b pathHash) int { return slices.Compare(a[:], b[:]) })
	for _, h := range hashes {
		c.record.Others = append(c.record.Others, h[:]...)
	}
	slices.Sort(c.record.Hidden)
	slices.Sort(c.record.Opaque)
	return c.record
}

// Image is what the layers of a chain come to.
type Image struct {
	Release  *Release  `json:"release,omitempty"` // nil: it says none
	Packages []Package `json:"packages"`          // by type, name, architecture and version, once each
	Secrets  []Secret  `json:"secrets"`           // by layer and file
	RPM      []string  `json:"rpm,omitempty"`     // databases that are not read
	Skipped  []string  `json:"skipped,omitempty"`
}

// Merge makes of the records of a chain's layers, bottom first, what the image has.
// A package is of the lowest layer from which on it was there.
func Merge(records []Record) Image {
	m := merger{files: map[string]*merged{}, hashes: map[string]pathHash{}}
	im := Image{Packages: []Package{}, Secrets: []Secret{}}
	for i := range records {
		r := &records[i]
		gone := m.goneBy(r)
		for name := range m.files {
			if gone(name) {
				delete(m.files, name)
			}
		}
		for k := range im.Secrets {
			im.Secrets[k].Deleted = im.Secrets[k].Deleted || gone(im.Secrets[k].File)
		}
		for k := range r.Files {
			m.put(&r.Files[k], i+1)
		}
		for _, s := range r.Secrets {
			s.Layer = i + 1
			im.Secrets = append(im.Secrets, s)
		}
		im.Skipped = append(im.Skipped, r.Skipped...)
	}
	for _, name := range []string{"usr/lib/os-release", "etc/os-release"} {
		if f := m.files[name]; f != nil && f.file.Release != nil {
			im.Release = f.file.Release
		}
	}
	for _, f := range m.files {
		if f.file.RPM {
			im.RPM = append(im.RPM, f.file.Path)
		}
	}
	slices.Sort(im.RPM)
	im.Packages = m.packages(im.Release)
	slices.SortStableFunc(im.Secrets, func(a, b Secret) int {
		return cmp.Or(cmp.Compare(a.Layer, b.Layer), cmp.Compare(a.File, b.File), cmp.Compare(a.Line, b.Line))
	})
	return im
}

// merged is a file of a chain, and in which layer each of its packages came.
type merged struct {
	file   *File
	layers []int
}

type merger struct {
	files  map[string]*merged
	hashes map[string]pathHash
}

// goneBy tells of a name in lower layers whether a layer hides it.
func (m *merger) goneBy(r *Record) func(name string) bool {
	hidden, opaque, others := map[string]bool{}, map[string]bool{}, map[pathHash]bool{}
	for _, name := range r.Hidden {
		hidden[name] = true
	}
	for _, name := range r.Opaque {
		opaque[name] = true
	}
	for b := r.Others; len(b) >= len(pathHash{}); b = b[len(pathHash{}):] {
		others[pathHash(b)] = true
	}
	if len(hidden)+len(opaque)+len(others) == 0 {
		return func(string) bool { return false }
	}
	return func(name string) bool {
		for at := name; at != ""; at = parent(at) {
			if hidden[at] || opaque[parent(at)] {
				return true
			}
			h, ok := m.hashes[at]
			if !ok {
				h = hashOf(at)
				m.hashes[at] = h
			}
			if others[h] {
				return true
			}
		}
		return false
	}
}

// parent is the directory of a name; "" is the root.
func parent(name string) string {
	return name[:max(strings.LastIndexByte(name, '/'), 0)]
}

// put lays a file over what is there.
func (m *merger) put(f *File, number int) {
	was := map[Package]int{}
	if old := m.files[f.Path]; old != nil {
		for i, p := range old.file.Packages {
			was[p] = old.layers[i]
		}
	}
	layers := make([]int, len(f.Packages))
	for i, p := range f.Packages {
		layers[i] = cmp.Or(was[p], number)
	}
	m.files[f.Path] = &merged{f, layers}
}

// packages lists the packages, each once.
func (m *merger) packages(release *Release) []Package {
	list := []Package{}
	for _, f := range m.files {
		for i, p := range f.file.Packages {
			if p.Distribution() {
				p.Ecosystem = release.ecosystem(p.Type)
			}
			p.File, p.Layer = f.file.Path, f.layers[i]
			list = append(list, p)
		}
	}
	slices.SortFunc(list, comparePackages)
	return slices.CompactFunc(list, func(a, b Package) bool {
		return a.Type == b.Type && a.Name == b.Name && a.Arch == b.Arch && a.Version == b.Version
	})
}
