package cli

import (
	"encoding/csv"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/docker/go-units"
	"github.com/moby/moby/api/types/mount"
)

// parseMount reads the KEY=VALUE list of --mount.
func parseMount(v string) (mount.Mount, error) {
	m := mount.Mount{Type: mount.TypeVolume}
	if v = strings.TrimSpace(v); v == "" {
		return m, errors.New("value is empty")
	}
	fields, err := csv.NewReader(strings.NewReader(v)).Read()
	if err != nil {
		return m, err
	}
	for _, field := range fields {
		key, value, set := strings.Cut(field, "=")
		switch trimmed := strings.TrimSpace(value); {
		case strings.TrimSpace(key) != key:
			return m, fmt.Errorf("invalid option '%s' in '%s': option should not have whitespace", strings.TrimSpace(key), field)
		case set && trimmed == "":
			return m, fmt.Errorf("invalid value for '%s': value is empty", key)
		case trimmed != value:
			return m, fmt.Errorf("invalid value for '%s' in '%s': value should not have whitespace", key, field)
		}
		o := mountOption{strings.ToLower(key), value, field, set}
		if err := o.read(&m); err != nil {
			return m, err
		}
	}
	return m, checkMount(m)
}

// mountOption is one KEY=VALUE of --mount.
type mountOption struct {
	key, value, field string
	set               bool // there was a =
}

// errForeign says that a key belongs to another kind of mount.
var errForeign = errors.New("unknown option")

func (o mountOption) read(m *mount.Mount) (err error) {
	if !o.set {
		switch o.key {
		case "readonly", "ro", "volume-nocopy", "bind-nonrecursive", "bind-create-src":
		default:
			return fmt.Errorf("invalid field '%s' must be a key=value pair", o.field)
		}
	}
	kind, _, _ := strings.Cut(o.key, "-")
	switch kind {
	case "bind":
		err = o.readBind(m)
	case "volume":
		err = o.readVolume(m)
	case "tmpfs":
		err = o.readTmpfs(m)
	default:
		err = o.readCommon(m)
	}
	if errors.Is(err, errForeign) {
		return fmt.Errorf("unknown option '%s' in '%s'", o.key, o.field)
	}
	return err
}

func (o mountOption) readCommon(m *mount.Mount) (err error) {
	switch o.key {
	case "type":
		m.Type = mount.Type(strings.ToLower(o.value))
	case "source", "src":
		m.Source = o.value
		if strings.HasPrefix(o.value, ".") {
			m.Source, err = filepath.Abs(o.value)
		}
	case "target", "dst", "destination":
		m.Target = o.value
	case "readonly", "ro":
		m.ReadOnly, err = o.truth()
	case "consistency":
		m.Consistency = mount.Consistency(strings.ToLower(o.value))
	case "image-subpath":
		m.ImageOptions = &mount.ImageOptions{Subpath: o.value}
	default:
		return errForeign
	}
	return err
}

func (o mountOption) readBind(m *mount.Mount) (err error) {
	if m.BindOptions == nil {
		m.BindOptions = &mount.BindOptions{}
	}
	b := m.BindOptions
	switch o.key {
	case "bind-propagation":
		b.Propagation = mount.Propagation(strings.ToLower(o.value))
	case "bind-nonrecursive":
		return errors.New("bind-nonrecursive is deprecated, use bind-recursive=disabled instead")
	case "bind-recursive":
		switch o.value {
		case "enabled":
		case "disabled":
			b.NonRecursive = true
		case "writable":
			b.ReadOnlyNonRecursive = true
		case "readonly":
			b.ReadOnlyForceRecursive = true
		default:
			return fmt.Errorf(`invalid value for %s: %s (must be "enabled", "disabled", "writable", or "readonly")`, o.key, o.value)
		}
	case "bind-create-src":
		b.CreateMountpoint, err = o.truth()
	default:
		return errForeign
	}
	return err
}

func (o mountOption) readVolume(m *mount.Mount) (err error) {
	if m.VolumeOptions == nil {
		m.VolumeOptions = &mount.VolumeOptions{}
	}
	options := m.VolumeOptions
	driver := func() *mount.Driver {
		if options.DriverConfig == nil {
			options.DriverConfig = &mount.Driver{}
		}
		return options.DriverConfig
	}
	switch o.key {
	case "volume-subpath":
		options.Subpath = o.value
	case "volume-nocopy":
		options.NoCopy, err = o.truth()
	case "volume-label":
		options.Labels = o.addTo(options.Labels)
	case "volume-driver":
		driver().Name = o.value
	case "volume-opt":
		driver().Options = o.addTo(driver().Options)
	default:
		return errForeign
	}
	return err
}

func (o mountOption) readTmpfs(m *mount.Mount) error {
	if m.TmpfsOptions == nil {
		m.TmpfsOptions = &mount.TmpfsOptions{}
	}
	var err error
	switch o.key {
	case "tmpfs-size":
		m.TmpfsOptions.SizeBytes, err = units.RAMInBytes(o.value)
	case "tmpfs-mode":
		var mode uint64
		mode, err = strconv.ParseUint(o.value, 8, 32)
		m.TmpfsOptions.Mode = os.FileMode(mode)
	default:
		return errForeign
	}
	if err != nil {
		return fmt.Errorf("invalid value for %s: %s", o.key, o.value)
	}
	return nil
}

func (o mountOption) truth() (bool, error) {
	switch {
	case !o.set, o.value == "1", o.value == "true":
		return true, nil
	case o.value == "0", o.value == "false":
		return false, nil
	}
	return false, fmt.Errorf(`invalid value for '%s': invalid boolean value (%q): must be one of "true", "1", "false", or "0" (default "true")`,
		o.key, o.value)
}

// addTo adds a value that is KEY=VALUE itself.
func (o mountOption) addTo(m map[string]string) map[string]string {
	key, value, _ := strings.Cut(o.value, "=")
	if key == "" {
		return m
	}
	if m == nil {
		m = map[string]string{}
	}
	m[key] = value
	return m
}

// checkMount refuses options that do not go together.
func checkMount(m mount.Mount) error {
	for _, options := range []struct {
		kind  mount.Type
		given bool
	}{
		{mount.TypeBind, m.BindOptions != nil},
		{mount.TypeVolume, m.VolumeOptions != nil},
		{mount.TypeImage, m.ImageOptions != nil},
		{mount.TypeTmpfs, m.TmpfsOptions != nil},
	} {
		if options.given && options.kind != m.Type {
			return fmt.Errorf("cannot mix '%s-*' options with mount type '%s'", options.kind, m.Type)
		}
	}
	b := m.BindOptions
	switch {
	case b == nil:
	case b.ReadOnlyNonRecursive && !m.ReadOnly:
		return errors.New("option 'bind-recursive=writable' requires 'readonly' to be specified in conjunction")
	case b.ReadOnlyForceRecursive && !m.ReadOnly:
		return errors.New("option 'bind-recursive=readonly' requires 'readonly' to be specified in conjunction")
	case b.ReadOnlyForceRecursive && b.Propagation != mount.PropagationRPrivate:
		return errors.New("option 'bind-recursive=readonly' requires 'bind-propagation=rprivate' to be specified in conjunction")
	}
	return nil
}

// readVolumes takes -v apart: a path alone is a place for an anonymous volume, anything else a bind, whose source is made absolute.
func (f *containerFlags) readVolumes() error {
	f.config.Volumes = map[string]struct{}{}
	seen := map[string]bool{}
	for _, v := range f.volumes {
		if v == "" {
			return errors.New("invalid empty volume spec")
		}
		parts := strings.Split(v, ":")
		for i, part := range parts {
			switch {
			case part == "" && len(v) > 2:
				return fmt.Errorf("invalid spec: %s: empty section between colons", v)
			case i > 2:
				return fmt.Errorf("invalid spec: %s: too many colons", v)
			}
		}
		if len(parts) == 1 || len(v) <= 2 {
			f.config.Volumes[v] = struct{}{}
			continue
		}
		if strings.HasPrefix(parts[0], ".") {
			if full, err := filepath.Abs(parts[0]); err == nil {
				v = full + ":" + strings.Join(parts[1:], ":")
			}
		}
		if !seen[v] {
			f.host.Binds = append(f.host.Binds, v)
		}
		seen[v] = true
	}
	return nil
}
