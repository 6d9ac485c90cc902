package bakefile

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"
	"strconv"
	"strings"
)

// override is a value of --set.
type override struct {
	value  string
	values []string
	append bool
}

// overrides are those of each target, by attribute.
type overrides map[string]map[string]override

// listed are the attributes of --set that are lists.
var listed = []string{"output", "cache-to", "cache-from", "tags", "platform", "secrets", "ssh", "attest", "entitlements", "annotations", "policy", "no-cache-filter", "ulimits"}

func (c *config) newOverrides(given []string) (overrides, error) {
	all := overrides{}
	for _, text := range given {
		key, value, hasValue := strings.Cut(text, "=")
		name, more := strings.CutSuffix(key, "+")
		keys := strings.SplitN(name, ".", 3)
		if len(keys) < 2 {
			return nil, fmt.Errorf("invalid override key %s, expected target.name", name)
		}
		if !hasValue && keys[1] != "args" {
			return nil, fmt.Errorf("invalid override %s, expected target.name=value", text)
		}
		names, err := c.expand(keys[0])
		if err != nil {
			return nil, err
		}
		attr := strings.Join(keys[1:], ".")
		for _, name := range names {
			o := all[name][attr]
			switch {
			case slices.Contains(listed, keys[1]):
				o.append, o.values = more, append(o.values, value)
			case len(keys) != 3 && slices.Contains([]string{"resources", "secret"}, keys[1]):
				return nil, fmt.Errorf("invalid key %s, %s requires name", key, keys[1])
			case len(keys) != 3 && slices.Contains([]string{"args", "contexts"}, keys[1]):
				return nil, fmt.Errorf("invalid key %s, contexts requires name", key)
			case more && slices.Contains([]string{"resources", "secret"}, keys[1]):
				return nil, fmt.Errorf("invalid key %s, %s does not support append", key, keys[1])
			case !hasValue && environment():
				var set bool
				if o.value, set = os.LookupEnv(keys[2]); !set {
					continue
				}
			default:
				o.value = value
			}
			if all[name] == nil {
				all[name] = map[string]override{}
			}
			all[name][attr] = o
		}
	}
	return all, nil
}

// granted are what the command line named itself, and so allows.
type granted struct {
	read, write []string
	network     bool
	insecure    bool
}

// apply changes a target as --set says.
func (t *target) apply(set map[string]override, ent *granted) error {
	named := map[string]override{} // secrets
	mine := map[string]bool{}
	last := func(key string) int { // push and load are about the outputs that there are
		return map[string]int{"push": 1, "load": 2}[key]
	}
	order := func(a, b string) int { return cmp.Or(cmp.Compare(last(a), last(b)), strings.Compare(a, b)) }
	for _, key := range slices.SortedFunc(maps.Keys(set), order) {
		o := set[key]
		attr, name, has := strings.Cut(key, ".")
		var err error
		switch attr {
		case "args", "contexts", "labels", "extra-hosts", "resources", "secret":
			if !has {
				return fmt.Errorf("invalid format for %s, expecting %s.<name>=<value>", attr, attr)
			}
			if attr == "secret" {
				named[name] = o
				mine[name] = true
			} else {
				err = t.setNamed(attr, name, o.value)
			}
		case "secrets":
			err = t.setSecrets(o, mine)
		case "cache-from", "cache-to", "output", "ssh", "attest", "policy":
			err = t.setEntries(attr, o, ent)
		case "tags", "platform", "no-cache-filter", "ulimits", "entitlements", "annotations":
			t.setLists(attr, o, ent)
		case "no-cache", "pull", "push", "load":
			err = t.setBool(attr, o.value)
		default:
			err = t.setText(attr, o.value)
		}
		if err != nil {
			return err
		}
	}
	for id, o := range named {
		if err := t.setSecret(id, o.value); err != nil {
			return err
		}
	}
	for _, s := range t.Secrets {
		if mine[s.ID] && s.File != "" {
			ent.read = append(ent.read, s.File)
		}
	}
	return nil
}

func (t *target) setText(attr, value string) error {
	fields := map[string]**string{
		"context": &t.Context, "dockerfile": &t.Dockerfile, "target": &t.Target, "call": &t.Call, "shm-size": &t.ShmSize, "network": &t.NetworkMode,
	}
	field, ok := fields[attr]
	if !ok {
		return fmt.Errorf("unknown key: %s", attr)
	}
	*field = &value
	return nil
}

func (t *target) setNamed(attr, name, value string) error {
	switch attr {
	case "args":
		put(&t.Args, map[string]*string{name: &value})
	case "labels":
		put(&t.Labels, map[string]*string{name: &value})
	case "extra-hosts":
		put(&t.ExtraHosts, map[string]*string{name: &value})
	case "contexts":
		if t.Contexts == nil {
			t.Contexts = map[string]string{}
		}
		t.Contexts[name] = value
	case "resources":
		if t.Resources == nil {
			t.Resources = &resources{}
		}
		return t.Resources.set(name, value)
	}
	return nil
}

func (t *target) setLists(attr string, o override, ent *granted) {
	switch attr {
	case "tags":
		t.Tags = o.list(t.Tags)
	case "platform":
		t.Platforms = o.list(t.Platforms)
	case "no-cache-filter":
		t.NoCacheFilter = o.list(t.NoCacheFilter)
	case "ulimits":
		t.Ulimits = o.list(t.Ulimits)
	case "annotations":
		t.Annotations = append(t.Annotations, o.values...)
	case "entitlements":
		t.Entitlements = append(t.Entitlements, o.values...)
		ent.network = ent.network || slices.Contains(o.values, "network.host")
		ent.insecure = ent.insecure || slices.Contains(o.values, "security.insecure")
	}
}

// list is a list as it becomes.
func (o override) list(was []string) []string {
	if o.append {
		return append(was, o.values...)
	}
	return o.values
}

func (t *target) setEntries(attr string, o override, ent *granted) (err error) {
	switch attr {
	case "cache-from":
		var list caches
		if list, err = parseCaches(o.values); o.append {
			list = t.CacheFrom.merge(list)
		}
		t.CacheFrom = list
		ent.read = append(ent.read, ofLocal(list, "src")...)
	case "cache-to":
		var list caches
		if list, err = parseCaches(o.values); o.append {
			list = t.CacheTo.merge(list)
		}
		t.CacheTo = list
		ent.write = append(ent.write, ofLocal(list, "dest")...)
	case "output":
		var list outputs
		if list, err = parseOutputs(o.values); o.append {
			list = t.Outputs.merge(list)
		}
		t.Outputs = list
		for _, out := range list {
			if dest := out.Attrs["dest"]; dest != "" {
				ent.write = append(ent.write, dest)
			}
		}
	case "ssh":
		list := parseSSHs(o.values)
		if o.append {
			list = t.SSH.merge(list)
		}
		t.SSH = list
		for _, k := range list {
			ent.read = append(ent.read, k.Paths...)
		}
	case "attest":
		var list attests
		list, err = parseAttests(o.values)
		t.Attest = t.Attest.merge(list)
	case "policy":
		if !o.append {
			t.Policy = nil
		}
		for _, text := range o.values {
			p, perr := parsePolicy(text)
			t.Policy, err = append(t.Policy, p), errors.Join(err, perr)
		}
	}
	return err
}

func ofLocal(list caches, attr string) (paths []string) {
	for _, c := range list {
		if path, ok := c.Attrs[attr]; ok && c.Type == "local" {
			paths = append(paths, path)
		}
	}
	return paths
}

func (t *target) setSecrets(o override, mine map[string]bool) error {
	list, err := parseSecrets(o.values)
	if err != nil {
		return fmt.Errorf("invalid value for outputs: %w", err)
	}
	for _, s := range list {
		mine[s.ID] = true
	}
	if o.append {
		list = t.Secrets.merge(list)
	}
	t.Secrets = list
	return nil
}

// setSecret says where a secret comes from that the target declares.
func (t *target) setSecret(id, value string) error {
	for _, s := range t.Secrets {
		if s.ID != id {
			continue
		}
		next, err := parseSecret(value)
		if err != nil {
			return err
		}
		if next.ID != "" && next.ID != id {
			return fmt.Errorf("secret override id %q does not match declared secret %q", next.ID, id)
		}
		s.Env, s.File = next.Env, next.File
		return nil
	}
	return fmt.Errorf("secret %q must be declared before it can be overridden", id)
}

func (t *target) setBool(attr, value string) error {
	b, err := strconv.ParseBool(value)
	if err != nil {
		return fmt.Errorf("invalid value %s for boolean key %s", value, attr)
	}
	switch attr {
	case "no-cache":
		t.NoCache = &b
	case "pull":
		t.Pull = &b
	case "push":
		t.Outputs = t.Outputs.push(b)
	case "load":
		t.Outputs = t.Outputs.load(b)
	}
	return nil
}

// push has the outputs push or not.
func (o outputs) push(push bool) outputs {
	if !push {
		for i := 0; i < len(o); {
			if o[i].Type == "registry" {
				o[i] = o[len(o)-1]
				o = o[:len(o)-1]
				continue
			}
			if o[i].Type == "image" {
				o[i].Attrs["push"] = "false"
			}
			i++
		}
		return o
	}
	only := true // there is nothing but what goes to the store
	for _, out := range o {
		only = only && out.Type == "docker"
		if out.Type == "image" {
			out.Attrs["push"] = "true"
		}
	}
	if only {
		o = append(o, &entry{Type: "image", Attrs: map[string]string{"push": "true"}})
	}
	return o
}

// load adds the store, unless the result goes to files.
func (o outputs) load(load bool) outputs {
	if !load {
		return o
	}
	for _, out := range o {
		switch out.Type {
		case "docker":
			if out.Attrs["dest"] == "" {
				return o
			}
		case "image", "registry", "oci":
		default:
			return o
		}
	}
	return append(o, &entry{Type: "docker", Attrs: map[string]string{}})
}
