//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// volumeSize is the apparent size of a volume's sparse backing file.
const volumeSize = 6 << 30

// A volume is the file system that one session's store lives on.
type volume struct {
	root string
	dir  *os.File
	// base is the session's directory: everything mounted below it goes when the volume closes.
	base string
}

// newVolume makes a volume under base: a fresh ext4 on a loop device, or a plain directory.
func newVolume(ctx context.Context, base string, fresh bool) (*volume, error) {
	v := &volume{root: filepath.Join(base, "v"), base: base}
	if err := os.Mkdir(v.root, 0o700); err != nil {
		return nil, err
	}
	if fresh {
		if err := mountFresh(ctx, filepath.Join(base, "img"), v.root); err != nil {
			return nil, errors.Join(err, unmountBelow(base))
		}
	}
	var err error
	if v.dir, err = os.Open(v.root); err != nil {
		return nil, errors.Join(err, unmountBelow(base))
	}
	return v, nil
}

func mountFresh(ctx context.Context, image, root string) error {
	if err := os.WriteFile(image, nil, 0o600); err != nil {
		return err
	}
	if err := os.Truncate(image, volumeSize); err != nil {
		return err
	}
	if err := runQuiet(ctx, "mkfs.ext4", "-q", "-F", "-E", "lazy_itable_init=1,lazy_journal_init=1", image); err != nil {
		return err
	}
	return runQuiet(ctx, "mount", "-o", "loop,noinit_itable", image, root)
}

// sync writes the volume's data and metadata back.
func (v *volume) sync() error {
	if err := unix.Syncfs(int(v.dir.Fd())); err != nil {
		return fmt.Errorf("syncfs %s: %w", v.root, err)
	}
	return nil
}

// Close unmounts everything below the session's directory; the loop device goes with its mount.
func (v *volume) Close() error {
	return errors.Join(v.dir.Close(), unmountBelow(v.base))
}

// unmountBelow detaches every mount under dir, the last mounted first.
func unmountBelow(dir string) error {
	b, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return err
	}
	var points []string
	for line := range strings.Lines(string(b)) {
		if f := strings.Fields(line); len(f) > 4 && strings.HasPrefix(f[4], dir+"/") {
			points = append(points, f[4])
		}
	}
	var errs []error
	for _, p := range slices.Backward(points) {
		if err := syscall.Unmount(p, syscall.MNT_DETACH); err != nil && !errors.Is(err, syscall.EINVAL) {
			errs = append(errs, fmt.Errorf("unmount %s: %w", p, err))
		}
	}
	return errors.Join(errs...)
}

// diskUsage is the allocated size of a tree on one file system, each inode once, as du counts.
func diskUsage(root string) (int64, error) {
	var total int64
	seen := map[uint64]bool{}
	var top syscall.Stat_t
	if err := syscall.Lstat(root, &top); err != nil {
		return 0, err
	}
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		var st syscall.Stat_t
		if err == nil {
			err = syscall.Lstat(path, &st)
		}
		switch {
		case errors.Is(err, fs.ErrNotExist): // a daemon's temporary file
			return nil
		case err != nil:
			return err
		case st.Dev != top.Dev && d.IsDir():
			return fs.SkipDir
		case st.Dev != top.Dev:
			return nil
		}
		if !seen[st.Ino] {
			seen[st.Ino] = true
			total += st.Blocks * 512
		}
		return nil
	})
	return total, err
}

// runQuiet runs a command and puts its output into the error.
func runQuiet(ctx context.Context, name string, args ...string) error {
	out, err := exec.CommandContext(ctx, name, args...).CombinedOutput() // #nosec G204 -- fixed commands
	if err != nil {
		return fmt.Errorf("%s %s: %w: %s", name, strings.Join(args, " "), err, lastLines(string(out)))
	}
	return nil
}
