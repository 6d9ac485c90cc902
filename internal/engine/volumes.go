package engine

import (
	"context"
	"database/sql"
	"fmt"
	"regexp"
	"slices"

	"github.com/containerd/errdefs"
	volumetypes "github.com/moby/moby/api/types/volume"

	"strake/internal/store"
	"strake/internal/volume"
)

// volumes are those of the store.
func volumes(env *Env) *volume.Table {
	return &volume.Table{
		DB: env.Store.DB(), Root: env.Store.Root(),
		Event: func(ctx context.Context, tx *sql.Tx, action, name string) error {
			return store.WriteEvent(ctx, tx, store.Event{
				Type: "volume", Action: action, Actor: name, Attributes: map[string]string{"driver": volume.Driver},
			})
		},
	}
}

// Volumes lists the volumes that filters choose, by name: dangling, driver, label and name, as docker's. UsageData tells how many
// containers use one, and not its size.
func Volumes(ctx context.Context, env *Env, filters map[string][]string) ([]volumetypes.Volume, error) {
	test, err := volumeFilter(filters, "dangling", "driver", "label", "name")
	if err != nil {
		return nil, err
	}
	list, err := volumes(env).List(ctx)
	if err != nil {
		return nil, err
	}
	out := []volumetypes.Volume{}
	for _, v := range list {
		if test(&v) {
			api := v.API(env.Store.Root())
			api.UsageData = &volumetypes.UsageData{RefCount: int64(len(v.Users)), Size: -1}
			out = append(out, api)
		}
	}
	return out, nil
}

// volumeFilter makes one test of filters: any value of a filter will do, but all labels must fit.
func volumeFilter(filters map[string][]string, known ...string) (func(*volume.Volume) bool, error) {
	var tests []func(*volume.Volume) bool
	for name, values := range filters {
		if !slices.Contains(known, name) {
			return nil, messageError{fmt.Sprintf("invalid filter '%s'", name), errdefs.ErrInvalidArgument}
		}
		switch name {
		case "dangling":
			want, err := parseFlag(values[0])
			if err != nil || len(values) > 1 {
				return nil, messageError{fmt.Sprintf("invalid filter 'dangling=%s'", values), errdefs.ErrInvalidArgument}
			}
			tests = append(tests, func(v *volume.Volume) bool { return (len(v.Users) == 0) == want })
		case "driver":
			tests = append(tests, func(*volume.Volume) bool { return slices.Contains(values, volume.Driver) })
		case "name":
			tests = append(tests, func(v *volume.Volume) bool {
				return slices.ContainsFunc(values, func(pattern string) bool {
					ok, err := regexp.MatchString(pattern, v.Name)
					return v.Name == pattern || err == nil && ok
				})
			})
		case "label", "label!":
			want := name == "label"
			for _, value := range values {
				tests = append(tests, func(v *volume.Volume) bool { return matchLabel(v.Labels, value) == want })
			}
		}
	}
	return func(v *volume.Volume) bool {
		return !slices.ContainsFunc(tests, func(test func(*volume.Volume) bool) bool { return !test(v) })
	}, nil
}
