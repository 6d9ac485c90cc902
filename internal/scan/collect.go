package scan

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"strings"
	"time"

	"github.com/containerd/errdefs"

	"strake/internal/secret"
)

const (
	headSize     = 512
	maxSecretIn  = 1 << 20         // bytes of a file that are looked at for secrets
	maxSecrets   = 1000            // of a layer
	maxSkipped   = 100             // notes of a layer
	secretBudget = 2 * time.Minute // for a layer: hostile texts are slow
)

// collector makes the record of a layer, file by file.
type collector struct {
	files   map[string]*File
	record  Record
	others  map[pathHash]struct{}
	owned   map[uint64]struct{} // hashes of files of the distribution's packages
	left    int64               // bytes of the distribution's records that may still be read
	inner   int64               // bytes of archives in archives that may still be unpacked
	found   int                 // packages
	secrets bool                // they are wanted
	spent   time.Duration       // on them

	buf     []byte
	scratch *os.File // what is read in no order, where the layer is a stream
}

func newCollector(secrets bool) *collector {
	return &collector{
		files: map[string]*File{}, others: map[pathHash]struct{}{}, owned: map[uint64]struct{}{}, left: maxBytes, inner: maxInnerAll,
		secrets: secrets, record: Record{Format: recordFormat},
	}
}

// close gives up the scratch file.
func (c *collector) close() error {
	if c.scratch == nil {
		return nil
	}
	return errors.Join(c.scratch.Close(), os.Remove(c.scratch.Name()))
}

// source is the content of a file: r reads it from its beginning; at, where there
// is one, anywhere.
type source struct {
	r    io.Reader
	at   io.ReaderAt
	size int64
}

// regular looks at a regular file.
func (c *collector) regular(name string, executable bool, s source) error {
	if s.size == 0 {
		return c.other(name)
	}
	switch base := path.Base(name); {
	case strings.HasPrefix(name, "var/lib/dpkg/"):
		return c.dpkgFile(name, s)
	case name == "lib/apk/db/installed" || name == "usr/lib/apk/db/installed":
		found, err := c.apk(name, s.r)
		return c.add(name, found, err)
	case name == "etc/os-release" || name == "usr/lib/os-release":
		release, err := ReadRelease(s.r)
		c.files[name] = &File{Path: name, Release: release}
		return err
	case isRPM(name, base):
		c.files[name] = &File{Path: name, RPM: true}
		return nil
	}
	return c.content(name, executable, s)
}

func isRPM(name, base string) bool {
	dir := strings.TrimSuffix(name, "/"+base)
	return (dir == "var/lib/rpm" || dir == "usr/lib/sysimage/rpm") && (base == "rpmdb.sqlite" || base == "Packages.db" || base == "Packages")
}

func (c *collector) dpkgFile(name string, s source) error {
	dir, base := path.Split(name)
	switch {
	case name == "var/lib/dpkg/status":
	case dir == "var/lib/dpkg/status.d/" && !strings.HasSuffix(base, ".md5sums"):
		if c.record.statusFiles++; c.record.statusFiles > maxFiles {
			return fmt.Errorf("%s: more than %d files: %w", dir, maxFiles, errdefs.ErrResourceExhausted)
		}
	case strings.HasPrefix(dir, "var/lib/dpkg/info/") && strings.HasSuffix(base, ".list"):
		return c.fileList(name, s.r)
	default:
		return nil
	}
	found, err := c.dpkg(name, s.r)
	return c.add(name, found, err)
}

// add notes the packages of a file, of which it may have none.
func (c *collector) add(name string, found []Package, err error) error {
	if err != nil {
		return err
	}
	if c.found += len(found); c.found > maxPackages {
		return fmt.Errorf("%s: more than %d packages: %w", name, maxPackages, errdefs.ErrResourceExhausted)
	}
	c.files[name] = &File{Path: name, Packages: found}
	return nil
}

// content looks at a file by what is in it.
func (c *collector) content(name string, executable bool, s source) error {
	if c.buf == nil {
		c.buf = make([]byte, maxSecretIn)
	}
	n, err := io.ReadFull(s.r, c.buf[:min(headSize, s.size)])
	if err != nil {
		return err
	}
	head := c.buf[:n]
	switch {
	case bytes.HasPrefix(head, []byte("\x7fELF")):
		if !executable || s.size < minProgram || s.size > maxProgram {
			return nil
		}
		return c.inAnyOrder(name, head, s, func(r io.ReaderAt) []Package { return program(r) })
	case isJar(name) && bytes.HasPrefix(head, []byte("PK\x03\x04")):
		if s.size > maxJar {
			c.skip(name, "too large")
			return nil
		}
		return c.inAnyOrder(name, head, s, func(r io.ReaderAt) []Package { return c.jar(name, r, s.size, 0) })
	case executable:
		if err := c.other(name); err != nil {
			return err
		}
	}
	if bytes.IndexByte(head, 0) >= 0 {
		return nil
	}
	return c.text(name, n, s)
}

// text looks at a text, whose first n bytes are in the buffer.
func (c *collector) text(name string, n int, s source) error {
	parse, most := languageFile(name)
	if parse != nil && s.size > most {
		c.skip(name, "too large")
		parse = nil
	}
	if parse == nil && !c.secrets {
		return nil
	}
	want := min(s.size, maxSecretIn)
	if parse != nil {
		want = s.size
	}
	b := c.buf
	if want > int64(len(b)) {
		b = make([]byte, want)
		copy(b, c.buf[:n])
	}
	m, err := io.ReadFull(s.r, b[n:want])
	if err != nil && !errors.Is(err, io.EOF) {
		return err
	}
	b = b[:n+m]
	if parse != nil {
		if err := c.add(name, parse(name, b), nil); err != nil {
			return err
		}
	}
	if c.secrets {
		c.lookForSecrets(name, b[:min(len(b), maxSecretIn)])
	}
	return nil
}

func (c *collector) lookForSecrets(name string, b []byte) {
	if c.spent > secretBudget || len(c.record.Secrets) >= maxSecrets {
		c.skip(name, "not looked at for secrets: there is too much to look at")
		return
	}
	start := time.Now()
	for _, f := range secret.InFile(name, b) {
		c.record.Secrets = append(c.record.Secrets, Secret{File: name, Finding: f})
	}
	c.spent += time.Since(start)
}

// inAnyOrder looks at a file that is not read from its beginning to its end.
func (c *collector) inAnyOrder(name string, head []byte, s source, look func(r io.ReaderAt) []Package) error {
	at := s.at
	if at == nil {
		if err := c.spool(head, s.r); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		at = c.scratch
	}
	return c.add(name, look(at), nil)
}

// spool copies a file to the scratch file.
func (c *collector) spool(head []byte, rest io.Reader) (err error) {
	if c.scratch == nil {
		if c.scratch, err = os.CreateTemp("", "strake-scan-"); err != nil {
			return err
		}
	}
	if err := c.scratch.Truncate(0); err != nil {
		return err
	}
	if _, err := c.scratch.Seek(0, io.SeekStart); err != nil {
		return err
	}
	if _, err := c.scratch.Write(head); err != nil {
		return err
	}
	_, err = io.Copy(c.scratch, rest)
	return err
}

// other notes a name that is no directory, or a file without packages: it may
// stand in the place of something that a lower layer has.
func (c *collector) other(name string) error {
	if delete(c.files, name); len(c.others) >= maxNames {
		return tooLarge("the list of files")
	}
	c.others[hashOf(name)] = struct{}{}
	return nil
}

func (c *collector) hides(list *[]string, name string) error {
	if len(*list) >= maxNames {
		return tooLarge("the list of deleted files")
	}
	*list = append(*list, name)
	return nil
}

func (c *collector) skip(name, why string) {
	if len(c.record.Skipped) < maxSkipped {
		c.record.Skipped = append(c.record.Skipped, fmt.Sprintf("/%s: %s", name, why))
	}
}
