// Package scan finds what is installed in an image.
//
// A package is what a distribution's package manager recorded as installed: dpkg
// in /var/lib/dpkg/status and, in images without dpkg, status.d beside it; apk in
// /lib/apk/db/installed. The records come from images, which may be hostile:
// what is read is bounded, and symlinks are the file system's business to follow.
package scan

import (
	"bufio"
	"cmp"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path"
	"slices"
	"strings"

	"github.com/containerd/errdefs"
)

// Types of packages, as package URLs have them.
const (
	TypeDeb = "deb"
	TypeAPK = "apk"
)

// Package is one installed package.
type Package struct {
	Type    string // TypeDeb or TypeAPK
	Name    string
	Version string
	Arch    string
	Source  string // the source package that it was built of; Name if the record has none
}

// Bounds on what is read of one image.
const (
	maxBytes    = 64 << 20 // of all records
	maxLine     = 1 << 20  // of one line
	maxPackages = 200_000
	maxFiles    = 50_000 // records in status.d
)

// Packages lists the installed packages, by type, name, architecture and
// version. An image without records has none. A database of rpm is not read: the
// other packages come with an error of the kind NotImplemented then. Records that
// are larger than any real one fail with ResourceExhausted.
func Packages(fsys fs.FS) ([]Package, error) {
	r := reader{fsys: fsys, left: maxBytes}
	err := r.all()
	if err != nil {
		return nil, fmt.Errorf("find packages: %w", err)
	}
	slices.SortFunc(r.found, func(a, b Package) int {
		return cmp.Or(cmp.Compare(a.Type, b.Type), cmp.Compare(a.Name, b.Name), cmp.Compare(a.Arch, b.Arch), cmp.Compare(a.Version, b.Version))
	})
	for _, name := range []string{"var/lib/rpm", "usr/lib/sysimage/rpm"} {
		for _, db := range []string{"rpmdb.sqlite", "Packages.db", "Packages"} {
			if _, err := fs.Stat(fsys, path.Join(name, db)); err == nil {
				return r.found, fmt.Errorf("packages of rpm, in /%s: %w", path.Join(name, db), errdefs.ErrNotImplemented)
			}
		}
	}
	return r.found, nil
}

// reader collects packages within the bounds.
type reader struct {
	fsys  fs.FS
	left  int64 // bytes that may still be read
	found []Package
}

func (r *reader) all() error {
	if err := r.file("var/lib/dpkg/status", dpkgField, dpkgInstalled); err != nil {
		return err
	}
	if err := r.statusDir("var/lib/dpkg/status.d"); err != nil {
		return err
	}
	for _, name := range []string{"lib/apk/db/installed", "usr/lib/apk/db/installed"} {
		err := r.file(name, apkField, func(*Package, string) bool { return true })
		if err != nil || slices.ContainsFunc(r.found, func(p Package) bool { return p.Type == TypeAPK }) {
			return err // the second may be the first, by a symlink
		}
	}
	return nil
}

// statusDir reads the records of images without dpkg, one file each.
func (r *reader) statusDir(dir string) error {
	entries, err := fs.ReadDir(r.fsys, dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if len(entries) > maxFiles {
		return fmt.Errorf("%s: %d files: %w", dir, len(entries), errdefs.ErrResourceExhausted)
	}
	for _, e := range entries {
		if strings.HasSuffix(e.Name(), ".md5sums") {
			continue
		}
		if err := r.file(path.Join(dir, e.Name()), dpkgField, dpkgInstalled); err != nil {
			return err
		}
	}
	return nil
}

// field puts a line of a record into p, and returns what it says of its status.
type field func(p *Package, line string) (status string)

// file reads the records of a file, which empty lines divide. A file that is not
// there, or is none, has none.
func (r *reader) file(name string, set field, installed func(p *Package, status string) bool) (err error) {
	f, err := r.fsys.Open(name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	if info, err := f.Stat(); err != nil || !info.Mode().IsRegular() {
		return err
	}
	bounded := &io.LimitedReader{R: f, N: r.left + 1}
	lines := bufio.NewScanner(bounded)
	lines.Buffer(nil, maxLine)
	var p Package
	status := ""
	end := func() error {
		if p.Name != "" && p.Version != "" && installed(&p, status) {
			p.Source = cmp.Or(p.Source, p.Name)
			r.found = append(r.found, p)
		}
		p, status = Package{}, ""
		if len(r.found) > maxPackages {
			return fmt.Errorf("%s: more than %d packages: %w", name, maxPackages, errdefs.ErrResourceExhausted)
		}
		return nil
	}
	for lines.Scan() {
		line := lines.Text()
		if line != "" {
			status = cmp.Or(set(&p, line), status)
		} else if err := end(); err != nil {
			return err
		}
	}
	err = lines.Err()
	if r.left = bounded.N - 1; r.left < 0 || errors.Is(err, bufio.ErrTooLong) {
		return fmt.Errorf("%s is too large: %w", name, errdefs.ErrResourceExhausted)
	}
	return errors.Join(err, end())
}

// dpkgField reads a line of dpkg's, "Field: value"; values go on in lines that
// begin with white space.
func dpkgField(p *Package, line string) (status string) {
	key, value, ok := strings.Cut(line, ":")
	if !ok || line[0] == ' ' || line[0] == '\t' {
		return ""
	}
	value = strings.TrimSpace(value)
	switch strings.ToLower(key) {
	case "package":
		p.Type, p.Name = TypeDeb, value
	case "version":
		p.Version = value
	case "architecture":
		p.Arch = value
	case "source":
		p.Source, _, _ = strings.Cut(value, " ")
	case "status":
		return value
	}
	return ""
}

// dpkgInstalled tells whether a package's files are there: its status is what was
// wanted, an error flag and what it is. Images without dpkg have none.
func dpkgInstalled(_ *Package, status string) bool {
	words := strings.Fields(status)
	return len(words) < 3 || words[2] != "config-files" && words[2] != "not-installed"
}

// apkField reads a line of apk's, "X:value".
func apkField(p *Package, line string) string {
	key, value, _ := strings.Cut(line, ":")
	switch key {
	case "P":
		p.Type, p.Name = TypeAPK, value
	case "V":
		p.Version = value
	case "A":
		p.Arch = value
	case "o":
		p.Source = value
	}
	return ""
}
