package build

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"strconv"
	"strings"

	"github.com/moby/sys/user"
)

// maxUserFile bounds /etc/passwd and /etc/group of an image, in bytes.
const maxUserFile = 10 << 20

// maxID is the largest owner that a file can have.
const maxID = 1<<31 - 1

type owner struct{ uid, gid int }

// resolveOwner resolves "user[:group]" against the stage's own files, as
// BuildKit does: a numeric user is its own group, a name that is not found is
// root.
func resolveOwner(t tree, spec string) (owner, error) {
	var o owner
	name, group, hasGroup := strings.Cut(spec, ":")
	if id, numeric, err := parseID(name); err != nil {
		return o, fmt.Errorf("invalid user %q: %w", spec, err)
	} else if numeric {
		o.uid, o.gid = id, id
	} else if name != "" {
		err := readUserFile(t, "/etc/passwd", func(r io.Reader) error {
			users, err := user.ParsePasswdFilter(r, func(u user.User) bool { return u.Name == name })
			if len(users) > 0 {
				o.uid, o.gid = users[0].Uid, users[0].Gid
			}
			return err
		})
		if err != nil {
			return o, err
		}
	}
	if !hasGroup || group == "" {
		return o, nil
	}
	if id, numeric, err := parseID(group); err != nil {
		return o, fmt.Errorf("invalid group %q: %w", spec, err)
	} else if numeric {
		o.gid = id
		return o, nil
	}
	return o, readUserFile(t, "/etc/group", func(r io.Reader) error {
		groups, err := user.ParseGroupFilter(r, func(g user.Group) bool { return g.Name == group })
		if len(groups) > 0 {
			o.gid = groups[0].Gid
		}
		return err
	})
}

// parseID reads a numeric ID; it is an error when it is a number but no ID.
func parseID(s string) (id int, numeric bool, err error) {
	if s == "" || strings.Trim(s, "0123456789") != "" {
		return 0, false, nil
	}
	n, err := strconv.ParseUint(s, 10, 32)
	if err != nil || n > maxID {
		return 0, true, fmt.Errorf("%s is out of range", s)
	}
	return int(n), true, nil
}

// readUserFile reads a file of the stage, symlinks followed inside it. One that
// is missing or no regular file has no users.
func readUserFile(t tree, name string, fn func(io.Reader) error) (err error) {
	resolved, err := follow(t.lstat, name)
	if err != nil {
		return fmt.Errorf("read %s: %w", name, err)
	}
	n, err := t.lstat(resolved)
	if errors.Is(err, fs.ErrNotExist) || err == nil && !n.mode.IsRegular() {
		return nil
	}
	if err == nil && n.size > maxUserFile {
		err = fmt.Errorf("larger than %d bytes", maxUserFile)
	}
	if err != nil {
		return fmt.Errorf("read %s: %w", name, err)
	}
	f, err := t.open(resolved)
	if err != nil {
		return fmt.Errorf("read %s: %w", name, err)
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	if err := fn(io.LimitReader(f, maxUserFile)); err != nil {
		return fmt.Errorf("read %s: %w", name, err)
	}
	return nil
}
