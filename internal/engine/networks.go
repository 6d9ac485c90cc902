package engine

import (
	"context"
	"database/sql"
	"fmt"
	"maps"
	"path/filepath"
	"slices"

	"github.com/containerd/errdefs"
	networktypes "github.com/moby/moby/api/types/network"

	"strake/internal/flock"
	"strake/internal/network"
	"strake/internal/store"
)

// Network is a network, as docker's API has it.
type Network = networktypes.Inspect

// networks are those of the store.
func networks(env *Env) *network.Networks {
	root := env.Store.Root()
	return network.New(network.Options{
		DB: env.Store.DB(), Root: root,
		Event: func(ctx context.Context, tx *sql.Tx, action string, nw networktypes.Network, container string) error {
			attributes := map[string]string{"name": nw.Name, "type": nw.Driver}
			if container != "" {
				attributes["container"] = container
			}
			return store.WriteEvent(ctx, tx, store.Event{Type: "network", Action: action, Actor: nw.ID, Attributes: attributes})
		},
		Log: func(text string) {
			if env.Log != nil {
				env.Log.Warn(text)
			}
		},
		// A container's monitor holds the lock of its directory.
		Alive: func(_ context.Context, id string) bool {
			held, err := flock.Held(filepath.Join(root, "containers", id), flock.Shared)
			return held || err != nil
		},
	})
}

// Networks lists the networks that docker's filters let pass, by name.
func Networks(ctx context.Context, env *Env, filters map[string][]string) ([]Network, error) {
	keep, err := networkFilter(filters)
	if err != nil {
		return nil, err
	}
	list, err := networks(env).List(ctx)
	if err != nil {
		return nil, err
	}
	return slices.DeleteFunc(list, func(n Network) bool { return !keep(n) }), nil
}

// networkFilter makes one test of docker's filters: values of one are alternatives,
// but all labels and all filters must hold.
func networkFilter(filters map[string][]string) (func(Network) bool, error) {
	var tests []func(Network) bool
	for _, name := range slices.Sorted(maps.Keys(filters)) {
		values := filters[name]
		var match func(n Network, v string) bool
		switch name {
		case "driver":
			match = func(n Network, v string) bool { return n.Driver == v }
		case "id":
			match = func(n Network, v string) bool { return matchText(n.ID, v) }
		case "name":
			match = func(n Network, v string) bool { return matchText(n.Name, v) }
		case "scope":
			match = func(n Network, v string) bool { return n.Scope == v }
		case "label":
			tests = append(tests, func(n Network) bool { return allLabels(n.Labels, values) })
			continue
		case "type":
			for _, v := range values {
				if v != "custom" && v != "builtin" {
					return nil, messageError{fmt.Sprintf("invalid filter: 'type'='%s'", v), errdefs.ErrInvalidArgument}
				}
			}
			match = func(n Network, v string) bool { return isPredefined(n) == (v == "builtin") }
		case "dangling":
			_, unused, err := boolFilter(filters, name)
			if err != nil {
				return nil, err
			}
			match = func(n Network, _ string) bool { return (!isPredefined(n) && len(n.Containers) == 0) == unused }
		default:
			return nil, messageError{fmt.Sprintf("invalid filter '%s'", name), errdefs.ErrInvalidArgument}
		}
		tests = append(tests, func(n Network) bool {
			return slices.ContainsFunc(values, func(v string) bool { return match(n, v) })
		})
	}
	return func(n Network) bool {
		return !slices.ContainsFunc(tests, func(test func(Network) bool) bool { return !test(n) })
	}, nil
}

func allLabels(labels map[string]string, filters []string) bool {
	return !slices.ContainsFunc(filters, func(v string) bool { return !matchLabel(labels, v) })
}

func isPredefined(n Network) bool {
	return n.Name == networktypes.NetworkBridge || n.Name == networktypes.NetworkHost || n.Name == networktypes.NetworkNone
}
