package scan

import (
	"bufio"
	"cmp"
	"errors"
	"fmt"
	"hash/maphash"
	"io"
	"path"
	"strings"

	"github.com/containerd/errdefs"
)

// field puts a line of a record into p, and returns what it says of its status.
type field func(p *Package, line string) (status string)

// records reads the records of a distribution's file, which empty lines divide.
func (c *collector) records(name string, r io.Reader, set field, installed func(status string) bool) (found []Package, err error) {
	bounded := &io.LimitedReader{R: r, N: c.left + 1}
	lines := bufio.NewScanner(bounded)
	lines.Buffer(nil, maxLine)
	var p Package
	status := ""
	end := func() error {
		if p.Name != "" && p.Version != "" && installed(status) {
			p.Source = cmp.Or(p.Source, p.Name)
			p.SourceVersion = cmp.Or(p.SourceVersion, p.Version)
			found = addPackage(found, p)
		}
		p, status = Package{}, ""
		if len(found) > maxPackages {
			return fmt.Errorf("%s: more than %d packages: %w", name, maxPackages, errdefs.ErrResourceExhausted)
		}
		return nil
	}
	for lines.Scan() {
		line := lines.Text()
		if line != "" {
			status = cmp.Or(set(&p, line), status)
		} else if err := end(); err != nil {
			return nil, err
		}
	}
	err = lines.Err()
	if c.left = bounded.N - 1; c.left < 0 || errors.Is(err, bufio.ErrTooLong) {
		return nil, tooLarge(name)
	}
	if err != nil {
		return nil, err
	}
	return found, end()
}

// dpkg reads the records of dpkg.
func (c *collector) dpkg(name string, r io.Reader) ([]Package, error) {
	return c.records(name, r, dpkgField, dpkgInstalled)
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
	case "source": // glibc (2.36-9)
		name, version, _ := strings.Cut(value, " ")
		p.Source, p.SourceVersion = name, strings.Trim(version, " ()")
	case "status":
		return value
	}
	return ""
}

// dpkgInstalled tells whether a package's files are there: its status is what was
// wanted, an error flag and what it is. Images without dpkg have none.
func dpkgInstalled(status string) bool {
	words := strings.Fields(status)
	return len(words) < 3 || words[2] != "config-files" && words[2] != "not-installed"
}

// apk reads the records of apk, and which files they say are theirs.
func (c *collector) apk(name string, r io.Reader) ([]Package, error) {
	dir := ""
	return c.records(name, r, func(p *Package, line string) string {
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
		case "F":
			dir = value
		case "R":
			c.own(path.Join(dir, value))
		}
		return ""
	}, func(string) bool { return true })
}

// maxOwned bounds the files that packages of distributions own.
const maxOwned = 4 << 20

var ownedSeed = maphash.MakeSeed()

// own notes that a package of the distribution owns a file: what is in it is that
// package, under another name.
func (c *collector) own(name string) {
	if len(c.owned) < maxOwned {
		c.owned[maphash.String(ownedSeed, withoutUsr(name))] = struct{}{}
	}
}

func (c *collector) isOwned(name string) bool {
	_, ok := c.owned[maphash.String(ownedSeed, withoutUsr(name))]
	return ok
}

// withoutUsr makes one name of the two that a file has since /lib and others are links into /usr.
func withoutUsr(name string) string {
	return strings.TrimPrefix(strings.TrimLeft(name, "/"), "usr/")
}

// fileList reads dpkg's list of the files of a package.
func (c *collector) fileList(name string, r io.Reader) error {
	bounded := &io.LimitedReader{R: r, N: c.left + 1}
	lines := bufio.NewScanner(bounded)
	lines.Buffer(nil, maxLine)
	for lines.Scan() {
		c.own(lines.Text())
	}
	err := lines.Err()
	if c.left = bounded.N - 1; c.left < 0 || errors.Is(err, bufio.ErrTooLong) {
		return tooLarge(name)
	}
	return err
}

// maxRelease bounds what is read of os-release, in bytes.
const maxRelease = 64 << 10

// ReadRelease reads an os-release, its first 64 KiB.
func ReadRelease(r io.Reader) (*Release, error) {
	lines := bufio.NewScanner(io.LimitReader(r, maxRelease))
	lines.Buffer(nil, maxRelease)
	release := &Release{}
	for lines.Scan() {
		key, value, ok := strings.Cut(strings.TrimSpace(lines.Text()), "=")
		value = strings.Trim(value, `"'`)
		if !ok || len(value) > maxText || strings.ContainsFunc(value, func(r rune) bool { return r < ' ' }) {
			continue
		}
		switch key {
		case "ID":
			release.ID = strings.ToLower(value)
		case "VERSION_ID":
			release.Version = value
		case "PRETTY_NAME":
			release.Name = value
		case "VERSION_CODENAME":
			release.Code = value
		case "VERSION":
			release.LTS = strings.Contains(value, "LTS")
		}
	}
	return release, lines.Err()
}
