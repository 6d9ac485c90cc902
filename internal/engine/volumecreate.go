package engine

import (
	"context"

	"strake/internal/volume"
)

// VolumeOptions say what volume to make.
type VolumeOptions struct {
	Name    string // "" is made up: the volume is an anonymous one
	Driver  string // local, also ""
	Labels  map[string]string
	Options map[string]string // type, device and o, as of mount(8)
}

// CreateVolume makes a volume and returns its name; one that is there already stays as it is.
func CreateVolume(ctx context.Context, env *Env, opts VolumeOptions) (name string, err error) {
	v := volume.Volume{Name: opts.Name, Labels: opts.Labels, Options: opts.Options}
	if v.Name == "" {
		if v, err = volume.Anonymous(); err != nil {
			return "", err
		}
		for key, value := range opts.Labels {
			v.Labels[key] = value
		}
		v.Options = opts.Options
	}
	if err := volume.CheckDriver(v.Name, opts.Driver); err != nil {
		return "", err
	}
	return v.Name, volumes(env).Create(ctx, v)
}
