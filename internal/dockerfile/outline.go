package dockerfile

import (
	"cmp"
	"context"
	"maps"
	"slices"
	"strings"

	"github.com/moby/buildkit/frontend/dockerfile/instructions"
	"github.com/moby/buildkit/frontend/dockerfile/parser"
)

// outline is what a stage takes: arguments, secrets and keys.
type outline struct {
	all     map[string]argInfo // ARGs by name
	used    map[string]bool
	secrets map[string]mountInfo
	ssh     map[string]mountInfo
}

// argInfo is an ARG.
type argInfo struct {
	value string
	doc   string
	at    []parser.Range
	deps  map[string]struct{} // the arguments that its default names
}

// mountInfo is a secret or a key that RUN mounts.
type mountInfo struct {
	required bool
	at       []parser.Range
}

// newOutline begins a stage that is FROM what the arguments named.
func newOutline(globals map[string]argInfo, named map[string]struct{}) outline {
	o := outline{all: map[string]argInfo{}, used: map[string]bool{}, secrets: map[string]mountInfo{}, ssh: map[string]mountInfo{}}
	maps.Copy(o.all, globals)
	o.use(named)
	return o
}

func (o *outline) use(names map[string]struct{}) {
	for name := range names {
		o.used[name] = true
	}
}

// declare adds an ARG of the stage. An inherited one is described where it is
// first declared.
func (o *outline) declare(a instructions.KeyValuePairOptional, at []parser.Range, inherited bool) {
	o.used[a.Key] = true
	if !inherited {
		o.all[a.Key] = argInfo{value: a.ValueString(), doc: a.DocComment, at: at}
	}
}

// mounts adds the secrets and keys of a RUN.
func (o *outline) mounts(in *instructions.RunCommand) {
	for _, m := range instructions.GetMounts(in) {
		id, list := m.CacheID, o.secrets
		switch m.Type {
		case instructions.MountTypeSecret:
			if id == "" {
				id = m.Source
			}
			if id == "" {
				id = m.Target[strings.LastIndexByte(m.Target, '/')+1:]
			}
		case instructions.MountTypeSSH:
			list = o.ssh
			if id == "" {
				id = "default"
			}
		default:
			continue
		}
		if _, ok := list[id]; !ok {
			list[id] = mountInfo{required: m.Required, at: in.Location()}
		}
	}
}

// Outline is what a target takes.
type Outline struct {
	Name        string          `json:"name,omitempty"`
	Description string          `json:"description,omitempty"`
	Args        []OutlineArg    `json:"args,omitempty"`
	Secrets     []OutlineSecret `json:"secrets,omitempty"`
	SSH         []OutlineSecret `json:"ssh,omitempty"`
	Sources     [][]byte        `json:"sources,omitempty"`
}

// OutlineArg is a build argument with the value that it has.
type OutlineArg struct {
	Name        string    `json:"name"`
	Description string    `json:"description,omitempty"`
	Value       string    `json:"value,omitempty"`
	Location    *Location `json:"location,omitempty"`
}

// OutlineSecret is a secret, or a key of an SSH agent.
type OutlineSecret struct {
	Name     string    `json:"name"`
	Required bool      `json:"required,omitempty"`
	Location *Location `json:"location,omitempty"`
}

// GetOutline says what the target takes.
func GetOutline(ctx context.Context, f *File, opts Options) (Outline, error) {
	_, target, err := compile(ctx, f, opts)
	if err != nil {
		return Outline{}, err
	}
	out := Outline{Name: target.Name, Description: target.DocComment, Sources: [][]byte{f.source}}
	for _, s := range target.needed() {
		s.outline.addTo(&out)
	}
	slices.SortStableFunc(out.Args, func(a, b OutlineArg) int {
		return cmp.Or(a.Location.compare(b.Location), strings.Compare(a.Name, b.Name))
	})
	byPlace := func(a, b OutlineSecret) int { return a.Location.compare(b.Location) }
	slices.SortStableFunc(out.Secrets, byPlace)
	slices.SortStableFunc(out.SSH, byPlace)
	return out, nil
}

// needed are the stage and those that it needs, each once.
func (s *stage) needed() []*stage {
	seen, list := map[*stage]bool{}, []*stage{}
	var visit func(s *stage)
	visit = func(s *stage) {
		if s == nil || seen[s] {
			return
		}
		seen[s] = true
		list = append(list, s)
		visit(s.base)
		for _, d := range s.deps {
			visit(d)
		}
	}
	visit(s)
	return list
}

// addTo adds to an outline what is not yet in it.
func (o *outline) addTo(out *Outline) {
	used := map[string]bool{}
	var use func(name string)
	use = func(name string) {
		if !used[name] {
			used[name] = true
			for dep := range o.all[name].deps {
				use(dep)
			}
		}
	}
	for name := range o.used {
		use(name)
	}
	for name := range used {
		a, ok := o.all[name]
		if ok && !slices.ContainsFunc(out.Args, func(have OutlineArg) bool { return have.Name == name }) {
			out.Args = append(out.Args, OutlineArg{Name: name, Description: a.doc, Value: a.value, Location: newLocation(a.at)})
		}
	}
	out.Secrets = addMounts(out.Secrets, o.secrets)
	out.SSH = addMounts(out.SSH, o.ssh)
}

func addMounts(list []OutlineSecret, more map[string]mountInfo) []OutlineSecret {
	for _, name := range slices.Sorted(maps.Keys(more)) {
		if !slices.ContainsFunc(list, func(have OutlineSecret) bool { return have.Name == name }) {
			list = append(list, OutlineSecret{Name: name, Required: more[name].required, Location: newLocation(more[name].at)})
		}
	}
	return list
}
