package bakefile

import (
	"fmt"
	"maps"
	"path"
	"slices"
	"strings"
)

func (c *config) find(name string) *target {
	i := slices.IndexFunc(c.Targets, func(t *target) bool { return t.Name == name })
	if i < 0 {
		return nil
	}
	return c.Targets[i]
}

func (c *config) findGroup(name string) *group {
	i := slices.IndexFunc(c.Groups, func(g *group) bool { return g.Name == name })
	if i < 0 {
		return nil
	}
	return c.Groups[i]
}

// match are the groups and targets that a pattern of the command line means.
func (c *config) match(pattern string) ([]string, error) {
	if !strings.ContainsAny(pattern, "*?[]") {
		return []string{pattern}, nil
	}
	var names []string
	for _, g := range c.Groups {
		if ok, err := path.Match(pattern, g.Name); ok && err == nil {
			names = append(names, g.Name)
		}
	}
	for _, t := range c.Targets {
		if ok, err := path.Match(pattern, t.Name); ok && err == nil {
			names = append(names, t.Name)
		}
	}
	if len(names) == 0 {
		return nil, fmt.Errorf("could not find any target matching %q", pattern)
	}
	return names, nil
}

// expand are the targets that a pattern of --set means.
func (c *config) expand(pattern string) ([]string, error) {
	if c.find(pattern) != nil {
		return []string{pattern}, nil
	}
	var names []string
	for _, t := range c.Targets {
		ok, err := path.Match(pattern, t.Name)
		if err != nil {
			return nil, fmt.Errorf("could not match targets with '%s': %w", pattern, err)
		}
		if ok {
			names = append(names, t.Name)
		}
	}
	if len(names) == 0 {
		return nil, fmt.Errorf("could not find any target matching '%s'", pattern)
	}
	return names, nil
}

// members are the targets of a group, and the groups that are in it.
type members struct{ targets, groups []string }

// group resolves a name; that of a target is a group of its own.
func (c *config) group(name string, seen map[string]members) members {
	if m, ok := seen[name]; ok {
		return m
	}
	g := c.findGroup(name)
	if g == nil {
		return members{targets: []string{name}}
	}
	seen[name] = members{}
	m := members{groups: []string{name}}
	for _, t := range g.Targets {
		in := c.group(t, seen)
		if len(in.targets) == 0 {
			in.targets = []string{t}
		}
		m.targets, m.groups = append(m.targets, in.targets...), append(m.groups, in.groups...)
	}
	seen[name] = m
	return m
}

// resolver makes targets what they are with what they inherit, and with --set.
type resolver struct {
	*config
	set     overrides
	granted *granted
}

// inherited is a target with what it inherits; one that is being made, for it inherits
// itself, is nil.
func (r *resolver) inherited(name string, made map[string]*target) (*target, error) {
	if t, ok := made[name]; ok {
		return t, nil
	}
	made[name] = nil
	own := r.find(name)
	if own == nil {
		return nil, fmt.Errorf("failed to find target %s", name)
	}
	from := &target{}
	for _, parent := range own.Inherits {
		t, err := r.inherited(parent, made)
		if err != nil {
			return nil, err
		}
		if t != nil {
			from.Merge(t)
		}
	}
	all := &target{}
	all.Merge(from)
	all.Merge(own)
	all.Name = name
	if err := all.apply(r.set[name], r.granted); err != nil {
		return nil, err
	}
	all.normalize()
	made[name] = all
	return all, nil
}

// target is a target as it is built.
func (r *resolver) target(name string) (*target, error) {
	t, err := r.inherited(name, map[string]*target{})
	if err != nil {
		return nil, err
	}
	t.Inherits = nil
	if t.Context == nil {
		at := "."
		if t.base.use {
			at = under(*t.base.implied, at)
		}
		t.Context = &at
	}
	if t.Dockerfile == nil || *t.Dockerfile == "" {
		file := "Dockerfile"
		t.Dockerfile = &file
	}
	return t, nil
}

// resolve makes what is to be built of the names of the command line.
func (r *resolver) resolve(names []string) (map[string]*target, map[string]*group, error) {
	var wanted []string
	for _, name := range names {
		matched, err := r.match(sanitize(name))
		if err != nil {
			return nil, nil, err
		}
		wanted = append(wanted, matched...)
	}
	wanted = dedup(wanted)
	targets, groups := map[string]*target{}, map[string]*group{}
	for _, name := range wanted {
		in := r.group(name, map[string]members{})
		for _, one := range dedup(in.targets) {
			t, err := r.target(one)
			if err != nil {
				return nil, nil, err
			}
			targets[one] = t
		}
		for _, one := range in.groups {
			groups[one] = r.findGroup(one)
		}
	}
	groupDefault(groups, wanted)
	for _, name := range slices.Sorted(maps.Keys(targets)) {
		if err := r.link(name, targets[name], targets, nil); err != nil {
			return nil, nil, err
		}
	}
	return targets, groups, nil
}

// groupDefault has the default group hold all that was asked for.
func groupDefault(groups map[string]*group, wanted []string) {
	for _, name := range wanted {
		if _, ok := groups["default"]; ok && name == "default" {
			continue
		}
		if _, ok := groups["default"]; !ok {
			groups["default"] = &group{Name: "default"}
		}
		groups["default"].Targets = append(groups["default"].Targets, name)
	}
	if g, ok := groups["default"]; ok {
		g.Targets = dedup(g.Targets)
		slices.Sort(g.Targets)
	}
}

// link adds the targets that are contexts of others.
func (r *resolver) link(name string, t *target, all map[string]*target, above []string) error {
	above = append(slices.Clone(above), name)
	for _, key := range slices.Sorted(maps.Keys(t.Contexts)) {
		of, ok := strings.CutPrefix(t.Contexts[key], "target:")
		switch {
		case !ok:
			continue
		case of == name:
			return fmt.Errorf("target %s cannot link to itself", of)
		case slices.Contains(above, of):
			return fmt.Errorf("infinite loop from %s to %s", name, of)
		}
		other, ok := all[of]
		if !ok {
			var err error
			if other, err = r.target(of); err != nil {
				return err
			}
			other.Outputs, other.linked = outputs{{Type: "cacheonly", Attrs: map[string]string{}}}, true
			all[of] = other
		}
		if err := r.link(of, other, all, above); err != nil {
			return err
		}
		for _, e := range other.Entitlements {
			if !slices.Contains(t.Entitlements, e) {
				t.Entitlements = append(t.Entitlements, e)
			}
		}
		if len(t.Platforms) > 1 && len(other.Platforms) > 1 {
			for _, p := range t.Platforms {
				if !slices.Contains(other.Platforms, p) {
					return fmt.Errorf("target %s can't be used by %s because its platforms %v are not a subset of %v", of, name, t.Platforms, other.Platforms)
				}
			}
		}
	}
	return nil
}
