package archive

import (
	"fmt"
	"path"
	"strings"

	"github.com/containerd/errdefs"
)

const (
	whiteoutPrefix = ".wh."
	metadataPrefix = ".wh..wh."     // what aufs kept for itself
	opaqueMarker   = ".wh..wh..opq" // in a directory: lower layers' entries are hidden
)

// WhiteoutName is the name of the entry that hides name in lower layers.
func WhiteoutName(name string) string {
	dir, base := path.Split(name)
	return dir + whiteoutPrefix + base
}

// OpaqueName is the name of the entry that hides lower layers' entries of dir.
func OpaqueName(dir string) string { return path.Join(dir, opaqueMarker) }

// Whiteout says what an entry's name means.
type Whiteout int

// Meanings of a name.
const (
	NotWhiteout Whiteout = iota
	Hides                // the entry hides one name of lower layers
	Opaque               // the entry hides all of its directory in lower layers
	Metadata             // aufs bookkeeping, to be ignored
)

// ParseWhiteout says what a clean name means and which path it is about: the
// hidden name, the opaque directory, or the name itself. It refuses a whiteout
// that hides no proper name (".wh.", ".wh..", ".wh...") and a path below one.
func ParseWhiteout(name string) (Whiteout, string, error) {
	if !strings.Contains(name, whiteoutPrefix) {
		return NotWhiteout, name, nil
	}
	dir, base := path.Split(name)
	dir = strings.TrimSuffix(dir, "/")
	for part := range strings.SplitSeq(dir, "/") {
		if strings.HasPrefix(part, metadataPrefix) {
			return Metadata, name, nil
		}
		if strings.HasPrefix(part, whiteoutPrefix) {
			return 0, "", fmt.Errorf("%q is below a whiteout: %w", name, errdefs.ErrInvalidArgument)
		}
	}
	switch {
	case base == opaqueMarker:
		return Opaque, dir, nil
	case strings.HasPrefix(base, metadataPrefix):
		return Metadata, name, nil
	case !strings.HasPrefix(base, whiteoutPrefix):
		return NotWhiteout, name, nil
	}
	hidden := base[len(whiteoutPrefix):]
	if hidden == "" || hidden == "." || hidden == ".." {
		return 0, "", fmt.Errorf("whiteout %q hides no name: %w", name, errdefs.ErrInvalidArgument)
	}
	return Hides, path.Join(dir, hidden), nil
}
