// Package archive reads and writes layer tars.
//
// A layer is a tar as the OCI image specification describes it. An entry is one
// member of it with its name made clean: relative, without "." and "..", without
// a trailing slash; the root directory is the empty name. A whiteout is an entry
// named ".wh.NAME", which hides NAME in lower layers; an opaque marker,
// ".wh..wh..opq", hides everything below its directory in lower layers. A tree is
// what the entries of one layer come to once later entries have replaced earlier
// ones. A directory that a layer uses but does not name is implied.
//
// Every tar is hostile: one Reader bounds headers, names and attributes, and one
// Tree decides where an entry lands, for the index and for Extract alike.
package archive

import (
	"fmt"
	"strings"
	"time"

	"github.com/containerd/errdefs"
)

// File types, as in the st_mode of Linux on every operating system.
const (
	TypeMask    = 0o170000
	TypeFifo    = 0o010000
	TypeChar    = 0o020000
	TypeDir     = 0o040000
	TypeBlock   = 0o060000
	TypeRegular = 0o100000
	TypeSymlink = 0o120000
)

// Bounds on what a tar may ask for.
const (
	maxPath      = 4096      // bytes of a name or of a symlink's target
	maxComponent = 255       // bytes of one name
	maxXattr     = 1<<16 - 1 // bytes of one attribute's value
	maxXattrs    = 192 << 10 // bytes of all attributes of an entry
	maxHeader    = 1 << 20   // bytes of a header that describes the next one
	maxInodes    = 2 << 20   // files and directories of a tree
	maxImplied   = 256 << 10 // directories of a tree that no entry names
	maxSymlinks  = 40        // symlinks followed on the way to one entry
	maxFileSize  = 1 << 44   // bytes of one file, 16 TiB
)

// Xattr is one extended attribute.
type Xattr struct {
	Name  string // with its prefix, as "security.capability"
	Value string
}

// Extent is a run of a sparse file's data that lies in the tar.
type Extent struct {
	Offset int64 // in the file
	Data   int64 // in the tar
	Size   int64 // bytes
}

// Entry is one member of a layer tar.
type Entry struct {
	Name     string // clean; "" is the root directory
	Linkname string // symlink: its target as it stands; hard link: a clean name
	HardLink bool   // the entry is another name for Linkname; only Name and Linkname count
	Mode     uint32 // type and permissions, as st_mode
	UID, GID uint32
	Major    uint32 // of a device
	Minor    uint32
	ModTime  time.Time
	Size     int64   // bytes of a regular file
	Xattrs   []Xattr // sorted by name, without those that overlayfs gives a meaning

	Data    int64    // where a regular file's bytes begin in the tar; always a multiple of 512
	Sparse  bool     // the file has holes: its data is Extents, not Size bytes at Data
	Extents []Extent // ascending, not overlapping, within Size
}

// IsDir tells whether the entry is a directory.
func (e *Entry) IsDir() bool { return !e.HardLink && e.Mode&TypeMask == TypeDir }

// cleanName makes a name relative and lexically clean, as docker does: leading
// slashes fall away, ".." is resolved, and what climbs above the root is refused.
func cleanName(name string) (string, error) {
	if len(name) > maxPath {
		return "", fmt.Errorf("name of %d bytes: %w", len(name), errdefs.ErrInvalidArgument)
	}
	if short := strings.TrimSuffix(strings.TrimPrefix(name, "./"), "/"); isClean(short) {
		return short, nil
	}
	rooted := strings.HasPrefix(name, "/")
	var parts []string
	for part := range strings.SplitSeq(name, "/") {
		switch {
		case part == "" || part == ".":
		case part == ".." && len(parts) > 0:
			parts = parts[:len(parts)-1]
		case part == ".." && !rooted:
			return "", fmt.Errorf("name %q leaves the root: %w", name, errdefs.ErrInvalidArgument)
		case part == "..":
		case len(part) > maxComponent+len(whiteoutPrefix):
			return "", fmt.Errorf("name %q... is too long: %w", part[:32], errdefs.ErrInvalidArgument)
		case strings.IndexByte(part, 0) >= 0:
			return "", fmt.Errorf("name %q has a NUL: %w", name, errdefs.ErrInvalidArgument)
		default:
			parts = append(parts, part)
		}
	}
	if len(parts) == 1 {
		return parts[0], nil
	}
	return strings.Join(parts, "/"), nil
}

// isClean tells, for most names that are, that a name is clean.
func isClean(name string) bool {
	start := 0
	for i := 0; i <= len(name); i++ {
		if i < len(name) && name[i] != '/' {
			if name[i] == 0 {
				return false
			}
			continue
		}
		if i == start || name[start] == '.' || i-start > maxComponent {
			return false
		}
		start = i + 1
	}
	return true
}
