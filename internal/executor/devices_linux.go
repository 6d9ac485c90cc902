package executor

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/containerd/errdefs"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"tags.cncf.io/container-device-interface/pkg/cdi"
)

// DeviceDirs are where the specifications are, which are the administrator's.
func DeviceDirs() []string { return slices.Clone(cdi.DefaultSpecDirs) }

// openDevices reads the specifications.
func openDevices() (*cdi.Cache, error) {
	return cdi.NewCache(cdi.WithAutoRefresh(false))
}

// Devices lists the devices of this machine, sorted by name, and why some specifications could not be read.
func Devices() (list []Device, broken error) {
	cache, err := openDevices()
	if err != nil {
		return nil, err
	}
	for _, name := range cache.ListDevices() {
		if d := cache.GetDevice(name); d != nil {
			list = append(list, Device{Name: name, annotations: merged(d.GetSpec().Annotations, d.Annotations)})
		}
	}
	for _, path := range sortedPaths(cache.GetErrors()) {
		broken = errors.Join(broken, fmt.Errorf("%s: %w", path, errors.Join(cache.GetErrors()[path]...)))
	}
	return list, broken
}

func sortedPaths(m map[string][]error) []string {
	var paths []string
	for path := range m {
		paths = append(paths, path)
	}
	slices.Sort(paths)
	return paths
}

// inject gives the container of config its devices.
func inject(config *specs.Spec, names []string) error {
	if len(names) == 0 {
		return nil
	}
	cache, err := openDevices()
	if err != nil {
		return err
	}
	if missing, err := cache.InjectDevices(config, names...); err != nil {
		if len(missing) > 0 {
			return fmt.Errorf("devices that are not registered: %s: %w", strings.Join(missing, ", "), errdefs.ErrNotFound)
		}
		return fmt.Errorf("devices %s: %w", strings.Join(names, ", "), err)
	}
	return nil
}

// deviceMounts are the mounts that come with devices.
func deviceMounts(names []string) ([]Mount, error) {
	var alone specs.Spec
	if err := inject(&alone, names); err != nil {
		return nil, err
	}
	var mounts []Mount
	for _, m := range alone.Mounts {
		mounts = append(mounts, Mount{Type: m.Type, Source: m.Source, Target: m.Destination, Options: m.Options})
	}
	return mounts, nil
}
