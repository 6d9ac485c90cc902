package archive

import (
	"bytes"
	"cmp"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/bits"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/containerd/errdefs"
)

// Types of tar entries.
const (
	typeOldRegular = 0
	typeRegular    = '0'
	typeLink       = '1'
	typeSymlink    = '2'
	typeChar       = '3'
	typeBlock      = '4'
	typeDir        = '5'
	typeFifo       = '6'
	typeContiguous = '7'
	typeSparse     = 'S'
	typeVolume     = 'V'
	typePAX        = 'x'
	typeGlobal     = 'g'
	typeLongName   = 'L'
	typeLongLink   = 'K'
)

// Prefixes of PAX keys for attributes.
const (
	paxXattr    = "SCHILY.xattr."
	paxLibXattr = "LIBARCHIVE.xattr."
)

// header is what the headers of one entry say together.
type header struct {
	kind           byte
	name, linkname string
	mode           int64
	uid, gid       int64
	major, minor   int64
	size           int64 // bytes of data in the tar
	mtime          time.Time
	pax            pax
	old            sparseFile // of typeSparse
}

// pax is what matters of a PAX header.
type pax struct {
	path, linkpath       string
	size, uid, gid       string
	mtime                string
	xattrs               []Xattr
	major, minor         string // version of a sparse map
	sparseName, realSize string
	sparseMap            string  // version 0.1
	runs                 []int64 // version 0.0
}

func broken(what string) error {
	return fmt.Errorf("tar header: %s: %w", what, errdefs.ErrDataLoss)
}

// header reads headers up to that of an entry, and io.EOF at the archive's end.
func (r *Reader) header(h *header) error {
	var longName, longLink string
	b := &r.blk
	for first := true; ; first = false {
		err := r.block()
		if err == nil && *b == [blockSize]byte{} {
			if err = r.block(); err == nil && *b == [blockSize]byte{} {
				err = io.EOF
			} else if err == nil {
				err = broken("zeros")
			}
		}
		if err != nil {
			if !first {
				err = noData(err)
			}
			return err
		}
		if err := h.parse(b); err != nil {
			return err
		}
		switch h.kind {
		case typeGlobal, typePAX, typeLongName, typeLongLink:
		default:
			return h.complete(r, b, longName, longLink)
		}
		data, err := r.special(h.size)
		if err != nil {
			return err
		}
		switch h.kind {
		case typePAX:
			err = h.pax.parse(data)
		case typeLongName:
			longName = cString(data)
		case typeLongLink:
			longLink = cString(data)
		}
		if err != nil {
			return err
		}
	}
}

// parse reads a header block.
func (h *header) parse(b *[blockSize]byte) error {
	if !checksumFits(b) {
		return broken("checksum")
	}
	h.kind = b[156]
	h.name, h.linkname = cString(b[:100]), cString(b[157:257])
	ok := true
	num := func(f []byte) int64 {
		n, good := number(f)
		ok = ok && good
		return n
	}
	h.mode, h.uid, h.gid = num(b[100:108]), num(b[108:116]), num(b[116:124])
	h.size = num(b[124:136])
	h.mtime = time.Unix(num(b[136:148]), 0)
	ustar, gnu := string(b[257:263]) == "ustar\x00", string(b[257:265]) == "ustar  \x00"
	if ustar || gnu {
		h.major, h.minor = num(b[329:337]), num(b[337:345])
	}
	if prefix := namePrefix(b, ustar, gnu); prefix != "" {
		h.name = prefix + "/" + h.name
	}
	if !ok {
		return broken("number")
	}
	if h.size < 0 {
		return broken("negative size")
	}
	return nil
}

// namePrefix is the part of a name that is too long for its field.
func namePrefix(b *[blockSize]byte, ustar, gnu bool) string {
	switch {
	case ustar && string(b[508:512]) == "tar\x00": // star
		return cString(b[345:476])
	case ustar:
		return cString(b[345:500])
	case gnu:
		// GNU's header has access and change times there, but Go before 1.8
		// wrote prefixes.
		_, atime := number(b[345:357])
		_, ctime := number(b[357:369])
		if s := cString(b[345:500]); b[345] != 0 && !atime || b[357] != 0 && !ctime {
			if strings.IndexFunc(s, func(r rune) bool { return r >= 0x80 }) < 0 {
				return s
			}
		}
	}
	return ""
}

// complete puts into the header what those before it say.
func (h *header) complete(r *Reader, b *[blockSize]byte, longName, longLink string) error {
	p := &h.pax
	var err error
	for _, f := range []struct {
		text string
		to   *int64
	}{{p.size, &h.size}, {p.uid, &h.uid}, {p.gid, &h.gid}} {
		if f.text != "" && err == nil {
			*f.to, err = strconv.ParseInt(f.text, 10, 64)
		}
	}
	if p.mtime != "" && err == nil {
		h.mtime, err = paxTime(p.mtime)
	}
	if err != nil || h.size < 0 {
		return broken("PAX number")
	}
	h.name = cmp.Or(longName, p.path, h.name)
	h.linkname = cmp.Or(longLink, p.linkpath, h.linkname)
	switch h.kind {
	case typeOldRegular:
		h.kind = typeRegular
		if strings.HasSuffix(h.name, "/") {
			h.kind, h.size = typeDir, 0
		}
	case typeLink, typeSymlink, typeChar, typeBlock, typeDir, typeFifo:
		h.size = 0
	case typeSparse:
		return h.old.parseOld(r, b)
	}
	return nil
}

// IsTar reports whether what begins with head, of at least 512 bytes, is a tar:
// the checksum of its first header fits.
func IsTar(head []byte) bool {
	return len(head) >= blockSize && checksumFits((*[blockSize]byte)(head))
}

// checksumFits compares a header's checksum with its own, of unsigned bytes or, as
// some tars have it, of signed ones. It adds eight bytes at a time.
func checksumFits(b *[blockSize]byte) bool {
	const low, high = 0x00ff00ff00ff00ff, 0x8080808080808080
	var lanes uint64 // four sums of 128 bytes each
	negative := 0
	for i := 0; i < blockSize; i += 8 {
		x := binary.LittleEndian.Uint64(b[i:])
		lanes += x&low + x>>8&low
		negative += bits.OnesCount64(x & high)
	}
	sum := int(lanes&0xffff + lanes>>16&0xffff + lanes>>32&0xffff + lanes>>48)
	for _, c := range b[148:156] { // counted as spaces
		sum += ' ' - int(c)
		negative -= int(c >> 7)
	}
	want, ok := octal(b[148:156])
	return ok && (want == int64(sum) || want == int64(sum-negative<<8))
}

// number reads octal digits or, when the first bit is set, big-endian binary.
func number(b []byte) (int64, bool) {
	if b[0]&0x80 == 0 {
		return octal(b)
	}
	var inv byte
	if b[0]&0x40 != 0 { // a negative number -n is kept as ^(n-1)
		inv = 0xff
	}
	x := uint64((b[0] ^ inv) & 0x7f)
	for _, c := range b[1:] {
		if x>>56 > 0 {
			return 0, false
		}
		x = x<<8 | uint64(c^inv)
	}
	if x>>63 > 0 {
		return 0, false
	}
	if inv == 0xff {
		return ^int64(x), true
	}
	return int64(x), true
}

// octal reads digits with spaces and NULs around them.
func octal(b []byte) (int64, bool) {
	for len(b) > 0 && (b[0] == ' ' || b[0] == 0) {
		b = b[1:]
	}
	for len(b) > 0 && (b[len(b)-1] == ' ' || b[len(b)-1] == 0) {
		b = b[:len(b)-1]
	}
	if i := bytes.IndexByte(b, 0); i >= 0 {
		b = b[:i]
	}
	var n int64
	for _, c := range b {
		if c < '0' || c > '7' || n>>59 > 0 {
			return 0, false
		}
		n = n<<3 | int64(c-'0')
	}
	return n, true
}

func cString(b []byte) string {
	if i := bytes.IndexByte(b, 0); i >= 0 {
		b = b[:i]
	}
	return string(b)
}

// paxTime reads seconds with a fraction, which has the sign of the seconds.
func paxTime(s string) (time.Time, error) {
	whole, fraction, _ := strings.Cut(s, ".")
	sec, err := strconv.ParseInt(whole, 10, 64)
	if err != nil {
		return time.Time{}, err
	}
	nsec, digit := int64(0), int64(1e8)
	for _, c := range []byte(fraction) {
		if c < '0' || c > '9' {
			return time.Time{}, errors.New("no digit")
		}
		nsec += int64(c-'0') * digit
		digit /= 10
	}
	if strings.HasPrefix(whole, "-") {
		nsec = -nsec
	}
	return time.Unix(sec, nsec), nil
}

// parse reads the records "LENGTH KEY=VALUE\n" of a PAX header. It replaces what
// an earlier one said.
func (p *pax) parse(b []byte) error {
	*p = pax{}
	var lib []Xattr
	total := 0
	for len(b) > 0 {
		key, value, rest, ok := paxRecord(b)
		if !ok {
			return broken("PAX record")
		}
		b = rest
		switch {
		case bytes.HasPrefix(key, []byte(paxXattr)):
			p.xattrs = append(p.xattrs, Xattr{Name: string(key[len(paxXattr):]), Value: string(value)})
			total += len(key) + len(value)
		case bytes.HasPrefix(key, []byte(paxLibXattr)):
			if x, ok := libarchiveXattr(string(key[len(paxLibXattr):]), string(value)); ok {
				lib = append(lib, x)
				total += len(key) + len(value)
			}
		default:
			if !p.set(string(key), string(value)) {
				return broken("PAX value")
			}
		}
		if total > maxXattrs {
			return fmt.Errorf("attributes of more than %d bytes: %w", maxXattrs, errdefs.ErrInvalidArgument)
		}
	}
	return p.sortXattrs(lib)
}

func paxRecord(b []byte) (key, value, rest []byte, ok bool) {
	digits, _, ok := bytes.Cut(b[:min(len(b), 20)], []byte(" "))
	if !ok {
		return nil, nil, nil, false
	}
	n, err := strconv.Atoi(string(digits))
	if err != nil || n < len(digits)+3 || n > len(b) || b[n-1] != '\n' {
		return nil, nil, nil, false
	}
	key, value, ok = bytes.Cut(b[len(digits)+1:n-1], []byte("="))
	return key, value, b[n:], ok && len(key) > 0 && bytes.IndexByte(key, 0) < 0
}

// set keeps a record, or says that it makes no sense.
func (p *pax) set(key, value string) bool {
	switch key {
	case "path":
		p.path = value
		return strings.IndexByte(value, 0) < 0
	case "linkpath":
		p.linkpath = value
		return strings.IndexByte(value, 0) < 0
	case "size":
		p.size = value
	case "uid":
		p.uid = value
	case "gid":
		p.gid = value
	case "mtime":
		p.mtime = value
	default:
		if strings.HasPrefix(key, "GNU.sparse.") {
			return p.setSparse(key[len("GNU.sparse."):], value)
		}
	}
	return true
}

func (p *pax) setSparse(key, value string) bool {
	switch key {
	case "major":
		p.major = value
	case "minor":
		p.minor = value
	case "name":
		p.sparseName = value
		return strings.IndexByte(value, 0) < 0
	case "realsize", "size":
		p.realSize = value
	case "map":
		p.sparseMap = value
	case "offset", "numbytes":
		if (key == "offset") != (len(p.runs)%2 == 0) {
			return false
		}
		n, err := strconv.ParseInt(value, 10, 64)
		p.runs = append(p.runs, n)
		return err == nil
	}
	return true
}

// sortXattrs adds what libarchive says to what star says, which counts where
// both speak, and drops what overlayfs gives a meaning: a layer could redirect
// lookups with it.
func (p *pax) sortXattrs(lib []Xattr) error {
	if p.xattrs == nil && lib == nil {
		return nil
	}
	byName := func(a, b Xattr) int { return strings.Compare(a.Name, b.Name) }
	slices.Reverse(p.xattrs) // of two records the last counts
	list := append(p.xattrs, lib...)
	slices.SortStableFunc(list, byName)
	list = slices.CompactFunc(list, func(a, b Xattr) bool { return a.Name == b.Name })
	p.xattrs = slices.DeleteFunc(list, func(x Xattr) bool {
		return strings.HasPrefix(x.Name, "trusted.overlay.") || strings.HasPrefix(x.Name, "user.overlay.")
	})
	for _, x := range p.xattrs {
		if x.Name == "" || len(x.Name) > maxComponent || strings.IndexByte(x.Name, 0) >= 0 || len(x.Value) > maxXattr {
			return fmt.Errorf("attribute %.40q of %d bytes: %w", x.Name, len(x.Value), errdefs.ErrInvalidArgument)
		}
	}
	return nil
}

// libarchiveXattr decodes a URL-encoded name and a value in base64, with or
// without padding.
func libarchiveXattr(name, value string) (Xattr, bool) {
	name, err := url.PathUnescape(name)
	if err != nil {
		return Xattr{}, false
	}
	b, err := base64.RawStdEncoding.DecodeString(strings.TrimRight(value, "="))
	return Xattr{Name: name, Value: string(b)}, err == nil
}

func checkTarget(target string) error {
	if target == "" || len(target) >= maxPath || strings.IndexByte(target, 0) >= 0 {
		return fmt.Errorf("symlink target of %d bytes: %w", len(target), errdefs.ErrInvalidArgument)
	}
	return nil
}
