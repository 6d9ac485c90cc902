package mount

import (
	"errors"
	"fmt"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

// EROFS mounts the EROFS image index read-only on the directory target; its file data lies in the image itself and in devices,
// in the order of its device table. Images and devices are regular files: the kernel reads them directly (Linux 6.12), through
// loop devices before, which vanish with the mount.
func EROFS(index string, devices []string, target string) error {
	err := erofs(index, devices, target)
	if !errors.Is(err, unix.ENOTBLK) && !errors.Is(err, unix.EINVAL) {
		return err
	}
	loopErr := erofsOnLoops(index, devices, target)
	if loopErr != nil {
		return errors.Join(err, loopErr)
	}
	return nil
}

// erofs mounts an image from files or block devices.
func erofs(index string, devices []string, target string) error {
	settings := []setting{{"source", index}, {"ro", ""}}
	for _, d := range devices {
		settings = append(settings, setting{"device", d})
	}
	attrs := unix.MOUNT_ATTR_RDONLY | unix.MOUNT_ATTR_NODEV | unix.MOUNT_ATTR_NOSUID
	return mountNew("erofs", settings, attrs, target)
}

// OverlayOptions are the parts of an overlay.
type OverlayOptions struct {
	Lower     []string // directories, the top one first: one at least, two where there is no Upper
	Upper     string   // directory that takes what is written; "" makes the overlay read-only
	Work      string   // empty directory on the file system of Upper, which the kernel uses
	UserXattr bool     // keep overlay attributes in user.overlay.*, as a mount in a user namespace must
	Volatile  bool     // never sync Upper: for an upper directory that is thrown away after a crash
}

// Overlay mounts the union of o's directories on the directory target. Redirects and metadata-only copies are off: Upper holds
// whole files and directories, and such attributes in a lower directory are not followed.
func Overlay(o OverlayOptions, target string) error {
	if len(o.Lower) == 0 {
		return fmt.Errorf("mount overlay on %q: no lower directory: %w", target, errdefs.ErrInvalidArgument)
	}
	settings := []setting{{"source", "overlay"}}
	for _, dir := range o.Lower {
		settings = append(settings, setting{"lowerdir+", dir})
	}
	settings = append(settings, o.settings()...)
	attrs := 0
	if o.Upper == "" {
		attrs = unix.MOUNT_ATTR_RDONLY
	}
	err := mountNew("overlay", settings, attrs, target)
	if errors.Is(err, unix.EINVAL) {
		if oldErr := o.mountOld(target); oldErr != nil {
			return errors.Join(err, oldErr)
		}
		return nil
	}
	return err
}

// settings returns the options other than the lower directories.
func (o OverlayOptions) settings() []setting {
	s := []setting{{"redirect_dir", "nofollow"}, {"metacopy", "off"}, {"index", "off"}}
	if o.UserXattr {
		s = []setting{{"userxattr", ""}}
	}
	if o.Upper != "" {
		s = append(s, setting{"upperdir", o.Upper}, setting{"workdir", o.Work})
		if o.Volatile {
			s = append(s, setting{"volatile", ""})
		}
	}
	return s
}

// mountOld mounts by mount(2), for kernels before 6.7 that do not know lowerdir+. Its options are limited to a page.
func (o OverlayOptions) mountOld(target string) error {
	escape := strings.NewReplacer(`\`, `\\`, ":", `\:`, ",", `\,`)
	escaped := make([]string, len(o.Lower))
	for i, dir := range o.Lower {
		escaped[i] = escape.Replace(dir)
	}
	options := []string{"lowerdir=" + strings.Join(escaped, ":")}
	for _, s := range o.settings() {
		option := s.key
		if s.value != "" {
			option += "=" + strings.ReplaceAll(strings.ReplaceAll(s.value, `\`, `\\`), ",", `\,`)
		}
		options = append(options, option)
	}
	data := strings.Join(options, ",")
	what := fmt.Sprintf("mount overlay of %d directories on %q by mount(2)", len(o.Lower), target)
	if len(data) >= unix.Getpagesize() {
		return fmt.Errorf("%s: options exceed a page: %w", what, errdefs.ErrNotImplemented)
	}
	flags := uintptr(0)
	if o.Upper == "" {
		flags = unix.MS_RDONLY
	}
	if err := unix.Mount("overlay", target, "overlay", flags, data); err != nil {
		return failed(what, err)
	}
	return nil
}

// Bind shows the file or directory source at target, which exists and is of the same kind. A final symbolic link in target is
// not followed. Mounts below source are not shown.
func Bind(source, target string, readOnly bool) error {
	what := fmt.Sprintf("bind %q to %q", source, target)
	tree, err := unix.OpenTree(unix.AT_FDCWD, source, unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC)
	if err != nil {
		return failed(what, err)
	}
	defer func() { _ = unix.Close(tree) }() // the mount, if any, does not need it
	return attachAs(tree, readOnly, what, target)
}

// BindIn shows the file or directory that name leads to inside of the directory root at target, which does not exist and is made
// of the same kind. Symbolic links in name are resolved as if root were the root directory, and what was found is what is shown:
// nothing that others do to root meanwhile leads out of it. Mounts below are not shown.
func BindIn(root, name, target string, readOnly bool) error {
	what := fmt.Sprintf("bind %q of %q", name, root)
	dir, err := unix.Open(root, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return failed(what, err)
	}
	defer func() { _ = unix.Close(dir) }() // a path only
	found, err := unix.Openat2(dir, filepath.Join(".", name), &unix.OpenHow{
		Flags: unix.O_PATH | unix.O_CLOEXEC, Resolve: unix.RESOLVE_IN_ROOT | unix.RESOLVE_NO_MAGICLINKS,
	})
	if err != nil {
		return failed(what, err)
	}
	defer func() { _ = unix.Close(found) }() // a path only
	var st unix.Stat_t
	if err := unix.Fstat(found, &st); err != nil {
		return failed(what, err)
	}
	if st.Mode&unix.S_IFMT == unix.S_IFDIR {
		err = unix.Mkdir(target, 0o700)
	} else {
		err = unix.Mknod(target, unix.S_IFREG|0o600, 0)
	}
	if err != nil {
		return failed(what, err)
	}
	tree, err := unix.OpenTree(found, "", unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC|unix.AT_EMPTY_PATH)
	if err != nil {
		return failed(what, err)
	}
	defer func() { _ = unix.Close(tree) }() // the mount, if any, does not need it
	return attachAs(tree, readOnly, what, target)
}

// attachAs attaches a detached mount, read-only if so asked.
func attachAs(tree int, readOnly bool, what, target string) error {
	if readOnly {
		attr := &unix.MountAttr{Attr_set: unix.MOUNT_ATTR_RDONLY}
		if err := unix.MountSetattr(tree, "", unix.AT_EMPTY_PATH, attr); err != nil {
			return failed(what+" read-only", err)
		}
	}
	return attach(tree, what, target)
}

// TmpfsOptions describe a tmpfs. The zero value is one of the kernel's size that only root may enter.
type TmpfsOptions struct {
	Size int64  // bytes; 0 = half of the memory
	Mode uint32 // permissions of its root; 0 = 0700
}

// Tmpfs mounts an empty file system in memory on the directory target.
func Tmpfs(o TmpfsOptions, target string) error {
	if o.Mode == 0 {
		o.Mode = 0o700
	}
	settings := []setting{{"source", "tmpfs"}, {"mode", strconv.FormatUint(uint64(o.Mode), 8)}}
	if o.Size > 0 {
		settings = append(settings, setting{"size", strconv.FormatInt(o.Size, 10)})
	}
	return mountNew("tmpfs", settings, unix.MOUNT_ATTR_NODEV|unix.MOUNT_ATTR_NOSUID, target)
}

// Unmount takes the top mount away from target, at once from the tree and for good when its last user is gone.
func Unmount(target string) error {
	if err := unix.Unmount(target, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW); err != nil {
		return failed(fmt.Sprintf("unmount %q", target), err)
	}
	return nil
}

// A setting is one option of a file system; a flag if it has no value.
type setting struct{ key, value string }

// mountNew makes a new instance of the file system fstype and puts it on target.
func mountNew(fstype string, settings []setting, attrs int, target string) error {
	what := fmt.Sprintf("mount %s on %q", fstype, target)
	fs, err := unix.Fsopen(fstype, unix.FSOPEN_CLOEXEC)
	if err != nil {
		return failed(what, err)
	}
	defer func() { _ = unix.Close(fs) }() // the mount, if any, does not need it
	for _, s := range settings {
		if s.value == "" {
			err = unix.FsconfigSetFlag(fs, s.key)
		} else {
			err = unix.FsconfigSetString(fs, s.key, s.value)
		}
		if err != nil {
			return failed(fmt.Sprintf("%s: set %s=%q", what, s.key, s.value), withLog(fs, err))
		}
	}
	if err := unix.FsconfigCreate(fs); err != nil {
		return failed(what, withLog(fs, err))
	}
	tree, err := unix.Fsmount(fs, unix.FSMOUNT_CLOEXEC, attrs)
	if err != nil {
		return failed(what, withLog(fs, err))
	}
	defer func() { _ = unix.Close(tree) }() // the mount, if any, does not need it
	return attach(tree, what, target)
}

// attach puts a detached mount on target.
func attach(tree int, what, target string) error {
	if err := unix.MoveMount(tree, "", unix.AT_FDCWD, filepath.Clean(target), unix.MOVE_MOUNT_F_EMPTY_PATH); err != nil {
		return failed(what, err)
	}
	return nil
}

// withLog adds what the kernel says about err in the message log of a file system context.
func withLog(fs int, err error) error {
	buf := make([]byte, 512)
	for range 8 {
		n, readErr := unix.Read(fs, buf)
		if readErr != nil || n <= 0 {
			break
		}
		err = fmt.Errorf("%w (%s)", err, strings.TrimSpace(string(buf[:n])))
	}
	return err
}

// kindOf returns the errdefs kind of the kernel's answer, nil if none says more than the answer itself.
func kindOf(err error) error {
	switch {
	case errors.Is(err, unix.EPERM), errors.Is(err, unix.EACCES):
		return errdefs.ErrPermissionDenied
	case errors.Is(err, unix.ENOSYS), errors.Is(err, unix.ENODEV), errors.Is(err, unix.EOPNOTSUPP):
		return errdefs.ErrNotImplemented
	case errors.Is(err, unix.ENOENT):
		return errdefs.ErrNotFound
	}
	return nil
}
