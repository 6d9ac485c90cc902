package engine

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"github.com/containerd/errdefs"
	containertypes "github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/mount"
	"github.com/opencontainers/go-digest"

	"strake/internal/container"
	"strake/internal/volume"
)

// mountList collects the mounts of a container that is being made: as inspect shows them, and what was asked for, whose source is
// the volume's name.
type mountList struct {
	points []containertypes.MountPoint
	specs  []mount.Mount
	asked  map[string]bool // targets that -v, --mount and --tmpfs name: each once
	images map[string][]digest.Digest
}

func (l *mountList) add(p containertypes.MountPoint, m mount.Mount) {
	at := slices.IndexFunc(l.points, func(old containertypes.MountPoint) bool { return old.Destination == p.Destination })
	if at >= 0 { // of another container
		l.points[at], l.specs[at] = p, m
		return
	}
	l.points, l.specs = append(l.points, p), append(l.specs, m)
}

// ask notes that a target is asked for, or fails where it was.
func (l *mountList) ask(target string) error {
	if l.asked[target] {
		return invalidText("Duplicate mount point: %s", target)
	}
	l.asked[target] = true
	return nil
}

// resolveMounts decides what is mounted in a container, in docker's order: what other containers have, -v, --mount, and anonymous volumes
// for what is left of those that the image and -v declare. It makes the missing sources of -v.
func resolveMounts(ctx context.Context, env *Env, table *container.Table, c *Container) error {
	h := c.Spec.HostConfig
	l := &mountList{asked: map[string]bool{}, images: map[string][]digest.Digest{}}
	for target := range h.Tmpfs {
		if err := checkTarget(target); err != nil {
			return messageError{err.Error(), errdefs.ErrInvalidArgument}
		}
		if _, err := tmpfsOptions(strings.Split(h.Tmpfs[target], ",")); err != nil {
			return err
		}
		l.asked[path.Clean(target)] = true
	}
	for _, from := range h.VolumesFrom {
		if err := l.addFrom(ctx, table, from); err != nil {
			return err
		}
	}
	for _, bind := range h.Binds {
		if err := l.addBind(env, bind, h.VolumeDriver); err != nil {
			return err
		}
	}
	for _, m := range h.Mounts {
		if err := l.addMount(ctx, env, m); err != nil {
			return err
		}
	}
	if err := l.addAnonymous(env, c.Spec.Config.Volumes); err != nil {
		return err
	}
	c.Spec.Mounts, c.Spec.MountSpecs, c.Spec.Images = l.points, l.specs, l.images
	return nil
}

// addFrom adds the mounts of another container, without what they copied.
func (l *mountList) addFrom(ctx context.Context, table *container.Table, from string) error {
	ref, mode, _ := strings.Cut(from, ":")
	if ref == "" {
		return invalidText("volumes-from specification cannot be an empty string")
	}
	for o := range strings.SplitSeq(mode, ",") {
		if o != "" && o != "ro" && o != "rw" && o != "z" && o != "Z" {
			return invalidText("invalid mode: %s", mode)
		}
	}
	other, err := table.Get(ctx, ref)
	if err != nil {
		return err
	}
	maps.Copy(l.images, other.Spec.Images)
	for i, p := range other.Spec.Mounts {
		m := other.Spec.MountSpecs[i]
		p.RW = p.RW && !slices.Contains(strings.Split(mode, ","), "ro")
		m.ReadOnly = !p.RW
		if m.Type == mount.TypeVolume {
			options := mount.VolumeOptions{NoCopy: true}
			if m.VolumeOptions != nil {
				options.Subpath, options.DriverConfig = m.VolumeOptions.Subpath, m.VolumeOptions.DriverConfig
			}
			m.VolumeOptions = &options
		}
		l.add(p, m)
	}
	return nil
}

// addBind adds what a -v names.
func (l *mountList) addBind(env *Env, raw, driver string) error {
	m, mode, err := parseBind(raw)
	if err != nil {
		return err
	}
	if m.Type == mount.TypeVolume && driver != "" {
		if m.VolumeOptions == nil {
			m.VolumeOptions = &mount.VolumeOptions{}
		}
		m.VolumeOptions.DriverConfig = &mount.Driver{Name: driver}
	}
	if err := checkMount(m); err != nil {
		return messageError{fmt.Sprintf("invalid volume specification: '%s': %v", raw, err), errdefs.ErrInvalidArgument}
	}
	if m.Type == mount.TypeBind {
		if err := makeSource(m.Source); err != nil {
			return err
		}
	}
	return l.addResolved(env, m, mode)
}

// parseBind reads [SOURCE:]TARGET[:MODE].
func parseBind(raw string) (m mount.Mount, mode string, err error) {
	parts := strings.Split(raw, ":")
	bad := invalidText("invalid volume specification: '%s'", raw)
	switch {
	case len(parts) > 3 || parts[0] == "", len(parts) == 2 && validMode(parts[1]):
		return m, "", bad
	case len(parts) == 1:
		return mount.Mount{Type: mount.TypeVolume, Target: parts[0]}, "", nil
	case len(parts) == 3:
		mode = parts[2]
	}
	if !validMode(mode) {
		return m, "", invalidText("invalid mode: %s", mode)
	}
	m = mount.Mount{Type: mount.TypeVolume, Source: parts[0], Target: parts[1]}
	if path.IsAbs(parts[0]) {
		m.Type, m.Source, m.BindOptions = mount.TypeBind, path.Clean(parts[0]), &mount.BindOptions{}
	}
	for o := range strings.SplitSeq(mode, ",") {
		switch {
		case o == "ro":
			m.ReadOnly = true
		case o == "nocopy" && m.Type == mount.TypeVolume:
			m.VolumeOptions = &mount.VolumeOptions{NoCopy: true}
		case slices.Contains(mount.Propagations, mount.Propagation(o)):
			if m.BindOptions == nil {
				return m, "", messageError{
					fmt.Sprintf("invalid volume specification: '%s': invalid mount config for type \"volume\": field BindOptions must not be specified", raw),
					errdefs.ErrInvalidArgument,
				}
			}
			m.BindOptions.Propagation = mount.Propagation(o)
		}
	}
	return m, mode, nil
}

// validMode reports whether each word is one of a mode of -v, and none is said twice.
func validMode(mode string) bool {
	if mode == "" {
		return true
	}
	kinds := map[string]string{
		"ro": "rw", "rw": "rw", "z": "label", "Z": "label", "nocopy": "copy", "consistent": "consistency", "cached": "consistency", "delegated": "consistency",
	}
	for _, p := range mount.Propagations {
		kinds[string(p)] = "propagation"
	}
	seen := map[string]bool{}
	for o := range strings.SplitSeq(mode, ",") {
		if kinds[o] == "" || seen[kinds[o]] {
			return false
		}
		seen[kinds[o]] = true
	}
	return true
}

// makeSource makes the missing directory of a -v, as docker does.
func makeSource(source string) error {
	if err := os.MkdirAll(source, 0o755); err != nil && !isFile(source) { //nolint:gosec // as docker makes it
		return fmt.Errorf("error while creating mount source path '%s': %w", source, err)
	}
	return nil
}

// isFile reports whether something is there that is no directory.
func isFile(path string) bool {
	info, err := os.Stat(path)
	return err == nil && !info.IsDir()
}

// addMount adds what a --mount names.
func (l *mountList) addMount(ctx context.Context, env *Env, m mount.Mount) error {
	if err := checkMount(m); err != nil {
		return messageError{err.Error(), errdefs.ErrInvalidArgument}
	}
	switch m.Type {
	case mount.TypeBind:
		m.Source = path.Clean(m.Source)
		_, err := os.Stat(m.Source)
		switch {
		case err != nil && m.BindOptions != nil && m.BindOptions.CreateMountpoint:
			if err := makeSource(m.Source); err != nil {
				return err
			}
		case errors.Is(err, fs.ErrNotExist):
			return invalidText("invalid mount config for type \"bind\": bind source path does not exist: %s", m.Source)
		case err != nil:
			return invalidText("invalid mount config for type \"bind\": %v", err)
		}
	case mount.TypeImage:
		img, err := use(ctx, env, m.Source, "")
		if errdefs.IsNotFound(err) { // of which kind only the container's own image is
			return messageError{err.Error(), errdefs.ErrFailedPrecondition}
		}
		if err != nil {
			return err
		}
		config, err := readConfig(ctx, env, img)
		if err != nil {
			return err
		}
		if err := l.addResolved(env, m, ""); err != nil {
			return err
		}
		// Whatever its name stands for later.
		at := slices.IndexFunc(l.points, func(p containertypes.MountPoint) bool { return p.Destination == path.Clean(m.Target) })
		l.specs[at].Source = img.ID.String()
		l.images[img.ID.String()] = config.RootFS.DiffIDs
		return nil
	}
	return l.addResolved(env, m, "")
}

// checkMount refuses an impossible mount.
func checkMount(m mount.Mount) error {
	bad := func(err error) error { return fmt.Errorf("invalid mount config for type %q: %w", string(m.Type), err) }
	if m.Target == "" {
		return bad(errors.New("field Target must not be empty"))
	}
	if err := checkTarget(m.Target); err != nil {
		return bad(err)
	}
	subpath := ""
	switch m.Type {
	case mount.TypeBind:
		switch {
		case m.Source == "":
			return bad(errors.New("field Source must not be empty"))
		case !path.IsAbs(m.Source):
			return bad(fmt.Errorf("invalid mount path: '%s' mount path must be absolute", m.Source))
		case m.BindOptions != nil && m.BindOptions.Propagation != "" && !slices.Contains(mount.Propagations, m.BindOptions.Propagation):
			return bad(fmt.Errorf("invalid propagation mode: %s", m.BindOptions.Propagation))
		}
	case mount.TypeVolume:
		if m.VolumeOptions != nil {
			subpath = m.VolumeOptions.Subpath
		}
		switch {
		case subpath != "" && m.Source == "":
			return bad(errors.New("must not set Subpath when using anonymous volumes"))
		case m.ReadOnly && m.Source == "":
			return bad(errors.New("must not set ReadOnly mode when using anonymous volumes"))
		}
	case mount.TypeTmpfs:
		if m.Source != "" {
			return bad(errors.New("field Source must not be specified"))
		}
	case mount.TypeImage:
		if m.Source == "" {
			return bad(errors.New("field Source must not be empty"))
		}
		if m.ImageOptions != nil {
			subpath = m.ImageOptions.Subpath
		}
	default:
		return bad(errors.New("mount type unknown"))
	}
	if subpath != "" && !filepath.IsLocal(subpath) {
		return bad(errors.New("subpath must be a relative path within the volume"))
	}
	return nil
}

func checkTarget(target string) error {
	switch {
	case path.Clean(target) == "/":
		return errors.New("invalid specification: destination can't be '/'")
	case !path.IsAbs(target):
		return fmt.Errorf("invalid mount path: '%s' mount path must be absolute", target)
	}
	return nil
}

// addResolved adds a mount that was checked; a volume without a name gets one.
func (l *mountList) addResolved(env *Env, m mount.Mount, mode string) error {
	m.Target = path.Clean(m.Target)
	if err := l.ask(m.Target); err != nil {
		return err
	}
	p := containertypes.MountPoint{Type: m.Type, Source: m.Source, Destination: m.Target, Mode: mode, RW: !m.ReadOnly}
	switch m.Type {
	case mount.TypeBind:
		if p.Propagation = mount.PropagationRPrivate; m.BindOptions != nil && m.BindOptions.Propagation != "" {
			p.Propagation = m.BindOptions.Propagation
		}
	case mount.TypeVolume:
		v := volume.Volume{Name: m.Source}
		if v.Name == "" {
			var err error
			if v, err = volume.Anonymous(); err != nil {
				return err
			}
			labels := v.Labels
			if m.VolumeOptions == nil {
				m.VolumeOptions = &mount.VolumeOptions{}
			}
			for key, value := range m.VolumeOptions.Labels {
				labels[key] = value
			}
			m.VolumeOptions.Labels = labels
		}
		if err := volume.CheckName(v.Name); err != nil {
			return err
		}
		if m.VolumeOptions != nil && m.VolumeOptions.DriverConfig != nil {
			if err := volume.CheckDriver(v.Name, m.VolumeOptions.DriverConfig.Name); err != nil {
				return err
			}
		}
		m.Source = v.Name
		p.Name, p.Source, p.Driver, p.Mode = v.Name, volumes(env).Path(v.Name), volume.Driver, cmp.Or(mode, "z")
	}
	l.add(p, m)
	return nil
}

// addAnonymous adds volumes for the places that nothing else is mounted on.
func (l *mountList) addAnonymous(env *Env, declared map[string]struct{}) error {
	targets := make([]string, 0, len(declared))
	for target := range declared {
		targets = append(targets, target)
	}
	slices.Sort(targets)
	for _, target := range targets {
		m, _, err := parseBind(target)
		if err != nil {
			return err
		}
		if err := checkMount(m); err != nil {
			return messageError{fmt.Sprintf("invalid volume specification: '%s': %v", target, err), errdefs.ErrInvalidArgument}
		}
		clean := path.Clean(m.Target)
		if l.asked[clean] || slices.ContainsFunc(l.points, func(p containertypes.MountPoint) bool { return p.Destination == clean }) {
			continue
		}
		if err := l.addResolved(env, m, ""); err != nil {
			return err
		}
		l.points[len(l.points)-1].Mode = ""
	}
	return nil
}
