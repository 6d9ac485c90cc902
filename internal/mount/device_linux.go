package mount

import (
	"fmt"
	"strings"

	"golang.org/x/sys/unix"
)

// Device mounts a file system on the directory target, with the options of mount(8): those that are flags of the kernel, and others, which
// the file system gets. It is how a user's own words are mounted; what they say is the user's business.
func Device(source, target, fstype, options string) error {
	var flags uintptr
	var data []string
	for o := range strings.SplitSeq(options, ",") {
		f, unset, known := mountFlag(o)
		switch {
		case !known:
			data = append(data, o)
		case unset:
			flags &^= f
		default:
			flags |= f
		}
	}
	what := fmt.Sprintf("mount %s of type %s on %q", source, fstype, target)
	if err := unix.Mount(source, target, fstype, flags, strings.Join(data, ",")); err != nil {
		return failed(what, err)
	}
	const remount = unix.MS_BIND | unix.MS_RDONLY
	if flags&remount == remount { // a bind mount takes the others in a second step
		if err := unix.Mount("", target, "", flags|unix.MS_REMOUNT, ""); err != nil {
			return failed(what, err)
		}
	}
	return nil
}

// mountFlag is the flag that an option sets or clears.
func mountFlag(option string) (flag uintptr, unset, known bool) {
	switch option {
	case "", "defaults", "rw":
		return 0, false, true
	case "ro":
		return unix.MS_RDONLY, false, true
	case "bind":
		return unix.MS_BIND, false, true
	case "rbind":
		return unix.MS_BIND | unix.MS_REC, false, true
	}
	name, negated := strings.CutPrefix(option, "no")
	if f, ok := map[string]uintptr{
		"suid": unix.MS_NOSUID, "dev": unix.MS_NODEV, "exec": unix.MS_NOEXEC, "atime": unix.MS_NOATIME, "diratime": unix.MS_NODIRATIME,
	}[name]; ok {
		return f, !negated, true
	}
	if f, ok := map[string]uintptr{
		"sync": unix.MS_SYNCHRONOUS, "dirsync": unix.MS_DIRSYNC, "mand": unix.MS_MANDLOCK, "relatime": unix.MS_RELATIME,
		"strictatime": unix.MS_STRICTATIME,
	}[name]; ok {
		return f, negated, true
	}
	if option == "async" {
		return unix.MS_SYNCHRONOUS, true, true
	}
	return 0, false, false
}
