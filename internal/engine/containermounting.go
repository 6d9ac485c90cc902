package engine

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	containertypes "github.com/moby/moby/api/types/container"
	mounttypes "github.com/moby/moby/api/types/mount"
	"github.com/opencontainers/go-digest"

	"strake/internal/container"
	"strake/internal/executor"
	"strake/internal/mount"
	"strake/internal/rootfs"
	"strake/internal/store"
	"strake/internal/volume"
)

// stagingSize bounds the file system in memory that has nothing but places for mounts.
const stagingSize = 1 << 20

// mounting makes the sources of a container's mounts in its mount namespace.
type mounting struct {
	env     *Env
	ns      *mount.Namespace
	rootfs  string
	staging string // directory in which parts of volumes and images are mounted
	images  map[string][]digest.Digest
	undo    []func() error
}

// mountAll adds a container's mounts to spec, whose root file system is mounted in ns: it mounts volumes and images, and fills
// volumes that are empty. What it returns undoes what the end of ns does not.
func mountAll(ctx context.Context, env *Env, table *container.Table, c *Container, spec *executor.Spec) (undo func() error, err error) {
	m := &mounting{env: env, ns: spec.NS, rootfs: spec.Rootfs, staging: inDir(table, c, "mounts"), images: c.Spec.Images}
	undo = func() error {
		slices.Reverse(m.undo)
		var failed []error
		for _, f := range m.undo {
			failed = append(failed, f())
		}
		return errors.Join(failed...)
	}
	for i, p := range c.Spec.Mounts {
		out, err := m.mount(ctx, i, p, c.Spec.MountSpecs[i])
		if err != nil {
			return nil, errors.Join(err, undo())
		}
		spec.Mounts = append(spec.Mounts, out)
	}
	if err := m.memory(ctx, table, c, spec); err != nil {
		return nil, errors.Join(err, undo())
	}
	for target, options := range c.Spec.HostConfig.Tmpfs {
		list, err := tmpfsOptions(strings.Split(options, ","))
		if err != nil {
			return nil, errors.Join(err, undo())
		}
		spec.Mounts = append(spec.Mounts, executor.Mount{Type: "tmpfs", Source: "tmpfs", Target: target, Options: list, Stays: true})
	}
	slices.SortStableFunc(spec.Mounts, func(a, b executor.Mount) int { // outer ones first
		return strings.Count(filepath.Clean(a.Target), "/") - strings.Count(filepath.Clean(b.Target), "/")
	})
	return undo, nil
}

// memory shows the shared memory of the container whose IPC namespace this one is in.
func (m *mounting) memory(ctx context.Context, table *container.Table, c *Container, spec *executor.Spec) error {
	mode := c.Spec.HostConfig.IpcMode
	if !mode.IsContainer() {
		return nil
	}
	other, err := table.Get(ctx, mode.Container())
	if err != nil {
		return err
	}
	place, err := m.place(len(c.Spec.Mounts))
	if err != nil {
		return err
	}
	err = m.ns.Do(func() error {
		if err := os.Mkdir(place, 0o700); err != nil {
			return fmt.Errorf("share memory: %w", err)
		}
		return mount.BindOf(other.State.Pid, "/dev/shm", place)
	})
	if err == nil {
		err = stillRuns(ctx, table, other)
	}
	spec.Mounts = append(spec.Mounts, executor.Mount{Type: "bind", Source: place, Target: "/dev/shm", Options: []string{"rbind", "rprivate"}})
	return err
}

// mount makes the source of the i-th mount.
func (m *mounting) mount(ctx context.Context, i int, p containertypes.MountPoint, spec mounttypes.Mount) (executor.Mount, error) {
	out := executor.Mount{Type: "bind", Source: p.Source, Target: p.Destination, Options: []string{"rbind"}, Stays: true}
	var err error
	switch spec.Type {
	case mounttypes.TypeTmpfs:
		var options []string
		if spec.ReadOnly {
			options = append(options, "ro")
		}
		if o := spec.TmpfsOptions; o != nil {
			if o.Mode != 0 {
				options = append(options, fmt.Sprintf("mode=%o", o.Mode))
			}
			if o.SizeBytes != 0 {
				options = append(options, fmt.Sprintf("size=%d", o.SizeBytes))
			}
		}
		options, err = tmpfsOptions(options)
		return executor.Mount{Type: "tmpfs", Source: "tmpfs", Target: p.Destination, Options: options, Stays: true}, err
	case mounttypes.TypeVolume:
		out.Source, err = m.volume(ctx, i, spec)
	case mounttypes.TypeImage:
		out.Source, err = m.image(ctx, i, spec)
	case mounttypes.TypeBind:
		out.Options = append(out.Options[:0], bindOptions(spec)...)
	}
	if !p.RW && !slices.Contains(out.Options, "rro") {
		out.Options = append(out.Options, "ro")
	}
	if p.Propagation != "" {
		out.Options = append(out.Options, string(p.Propagation))
	} else {
		out.Options = append(out.Options, "rprivate")
	}
	return out, err
}

func bindOptions(spec mounttypes.Mount) []string {
	o := spec.BindOptions
	switch {
	case o != nil && o.NonRecursive:
		return []string{"bind"}
	case o != nil && o.ReadOnlyForceRecursive:
		return []string{"rbind", "rro"}
	}
	return []string{"rbind"}
}

// place returns a path for the i-th mount in the staging directory, which it mounts first.
func (m *mounting) place(i int) (string, error) {
	if len(m.undo) == 0 {
		if err := os.MkdirAll(m.staging, 0o700); err != nil {
			return "", fmt.Errorf("make container's mounts: %w", err)
		}
		if err := m.ns.Do(func() error { return mount.Tmpfs(mount.TmpfsOptions{Size: stagingSize}, m.staging) }); err != nil {
			return "", err
		}
		m.undo = append(m.undo, func() error {
			return errors.Join(m.ns.Do(func() error { return mount.Unmount(m.staging) }), os.Remove(m.staging))
		})
	}
	return filepath.Join(m.staging, fmt.Sprint(i)), nil
}

// volume returns where the files of a volume are, with what is mounted on it and what the image has there.
func (m *mounting) volume(ctx context.Context, i int, spec mounttypes.Mount) (string, error) {
	table := volumes(m.env)
	v, err := table.Get(ctx, spec.Source)
	if err != nil {
		return "", err
	}
	if err := table.Make(v.Name); err != nil {
		return "", err
	}
	device, err := v.Device(ctx)
	if err != nil {
		return "", err
	}
	subpath := ""
	noCopy := false
	if o := spec.VolumeOptions; o != nil {
		subpath, noCopy = o.Subpath, o.NoCopy
	}
	var filler *volume.Filler
	err = m.ns.Do(func() error {
		if err := table.Mount(v.Name, device); err != nil || noCopy || subpath != "" {
			return err
		}
		filler, err = table.Filler(v.Name, m.rootfs, spec.Target)
		return err
	})
	if err != nil {
		return "", err
	}
	if filler != nil {
		if err := errors.Join(filler.Fill(ctx), filler.Close()); err != nil {
			return "", err
		}
	}
	if subpath == "" {
		return table.Path(v.Name), nil
	}
	place, err := m.place(i)
	if err != nil {
		return "", err
	}
	return place, m.ns.Do(func() error { return table.BindSubpath(v.Name, subpath, place) })
}

// image mounts an image, which nobody can write to, and returns where its files are.
func (m *mounting) image(ctx context.Context, i int, spec mounttypes.Mount) (string, error) {
	files, err := chainFiles(ctx, m.env, m.images[spec.Source])
	if err != nil {
		return "", err
	}
	place, err := m.place(i)
	if err != nil {
		return "", err
	}
	root := place + ".image"
	if err := m.ns.Do(func() error { return os.Mkdir(root, 0o755) }); err != nil { //nolint:gosec // in a closed directory
		return "", fmt.Errorf("mount image %s: %w", spec.Source, err)
	}
	mounter, err := rootfs.Choose(ctx, mounterOptions(m.env, m.ns))
	if err != nil {
		return "", err
	}
	mounted, err := mounter.Mount(ctx, rootfs.MountOptions{Layers: files, Target: root})
	if err != nil {
		return "", err
	}
	m.undo = append(m.undo, mounted.Close)
	if spec.ImageOptions == nil || spec.ImageOptions.Subpath == "" {
		return root, nil
	}
	return place, m.ns.Do(func() error { return mount.BindIn(root, spec.ImageOptions.Subpath, place, true) })
}

// tmpfsOptions are docker's defaults for a tmpfs with options, of which the last counts.
func tmpfsOptions(options []string) ([]string, error) {
	merged := []string{"noexec", "nosuid", "nodev", "rprivate"}
	for _, o := range options {
		if o == "" || o == "defaults" {
			continue
		}
		key, _, isValue := strings.Cut(o, "=")
		opposite := "no" + o
		if rest, ok := strings.CutPrefix(o, "no"); ok {
			opposite = rest
		}
		switch o {
		case "ro":
			opposite = "rw"
		case "rw":
			opposite = "ro"
		case "suid", "nosuid", "dev", "nodev", "exec", "noexec", "sync", "async", "dirsync", "remount", "mand", "nomand", "atime", "noatime",
			"diratime", "nodiratime", "bind", "rbind", "unbindable", "runbindable", "private", "rprivate", "shared", "rshared", "slave", "rslave",
			"relatime", "norelatime", "strictatime", "nostrictatime":
		default:
			if !isValue || !slices.Contains([]string{"mode", "uid", "gid", "size", "nr_inodes", "nr_blocks", "mpol"}, key) {
				return nil, invalidText("invalid tmpfs option %q", strings.SplitN(o, "=", 2))
			}
		}
		merged = slices.DeleteFunc(merged, func(old string) bool {
			return old == o || old == opposite || isValue && strings.HasPrefix(old, key+"=")
		})
		merged = append(merged, o)
	}
	return merged, nil
}

// recordMounts makes, in the transaction that makes a container, the rows of its volumes, and of the images that it mounts.
func recordMounts(ctx context.Context, env *Env, tx *sql.Tx, c *Container) error {
	table := volumes(env)
	for i, p := range c.Spec.Mounts {
		if p.Type == mounttypes.TypeImage {
			if err := store.MountImage(ctx, tx, c.ID, digest.Digest(c.Spec.MountSpecs[i].Source)); err != nil {
				return err
			}
		}
		if p.Type != mounttypes.TypeVolume {
			continue
		}
		v := volume.Volume{Name: p.Name}
		if o := c.Spec.MountSpecs[i].VolumeOptions; o != nil {
			v.Labels = o.Labels
			if o.DriverConfig != nil {
				v.Options = o.DriverConfig.Options
			}
		}
		if err := errors.Join(table.Insert(ctx, tx, v), table.Use(ctx, tx, p.Name, c.ID)); err != nil {
			return err
		}
	}
	return nil
}

// removeAnonymous removes the anonymous volumes of a container that is gone, but those that others use.
func removeAnonymous(ctx context.Context, env *Env, c *Container) error {
	var failed []error
	for _, p := range c.Spec.Mounts {
		if p.Type != mounttypes.TypeVolume {
			continue
		}
		v, err := volumes(env).Get(ctx, p.Name)
		if err != nil || !v.IsAnonymous() || len(v.Users) > 0 {
			continue // gone, or named
		}
		failed = append(failed, volumes(env).Remove(ctx, p.Name))
	}
	return errors.Join(failed...)
}
