// Package bakefile reads bake files as docker buildx bake does.
//
// The language is that of buildx: its own package hclparser evaluates HCL, and compose-go
// reads compose files. What a target is made of the blocks (merging, inheritance, --set,
// contexts that are targets) is made here, as package bake of docker/buildx does it.
//
// An attribute such as output is a list of entries, which are maps or comma-separated
// text; both are one here.
package bakefile

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"strake/internal/bake"
)

// Serve reads a bake.Request and writes the bake.Answer to it.
func Serve(in io.Reader, out io.Writer) error {
	var req bake.Request
	if err := json.NewDecoder(in).Decode(&req); err != nil {
		return err
	}
	a, err := answer(req)
	if err != nil {
		a = bake.Answer{Failure: explain(err, req.Files)}
	}
	return json.NewEncoder(out).Encode(a)
}

func answer(req bake.Request) (a bake.Answer, err error) {
	if len(req.Files) == 0 {
		return a, errors.New("couldn't find a bake definition")
	}
	p, err := parse(req)
	if err != nil {
		return a, err
	}
	if req.List {
		a.Listed = p.listed()
		for _, v := range p.variables {
			a.Variables = append(a.Variables, bake.Variable(*v))
		}
		return a, nil
	}
	r := &resolver{config: &p.config, granted: &granted{}}
	if r.set, err = p.newOverrides(req.Set); err != nil {
		return a, err
	}
	targets, groups, err := r.resolve(req.Targets)
	if err != nil {
		return a, err
	}
	a.Targets = map[string]bake.Target{}
	for _, name := range slices.Sorted(maps.Keys(targets)) {
		t := targets[name]
		t.withEpoch()
		where, err := t.place(req.Origin)
		if err != nil {
			return a, err
		}
		if a.Targets[name], err = t.told(where, req.Origin); err != nil {
			return a, err
		}
	}
	a.Granted = bake.Granted{Read: r.granted.read, Write: r.granted.write, Network: r.granted.network, Insecure: r.granted.insecure}
	if a.Groups, err = json.Marshal(groups); err != nil {
		return a, err
	}
	a.Print, err = printed(targets, groups)
	return a, err
}

// printed is what --print shows.
func printed(targets map[string]*target, groups map[string]*group) ([]byte, error) {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetIndent("", "  ")
	err := enc.Encode(struct {
		Group  map[string]*group  `json:"group,omitempty"`
		Target map[string]*target `json:"target"`
	}{groups, targets})
	return b.Bytes(), err
}

// told is a target as the flags of build say it.
func (t *target) told(where places, origin string) (bake.Target, error) {
	define, err := json.Marshal(t)
	if err != nil {
		return bake.Target{}, err
	}
	text := func(s *string) string {
		if s == nil {
			return ""
		}
		return *s
	}
	values := func(m map[string]*string) map[string]string {
		out := map[string]string{}
		for k, v := range m {
			if v != nil {
				out[k] = *v
			}
		}
		return out
	}
	told := bake.Target{
		Description: t.Description, Linked: t.linked,
		Origin: origin, Context: where.context, Dockerfile: where.dockerfile, Inline: text(t.DockerfileInline), Contexts: where.contexts,
		Args: values(t.Args), Labels: values(t.Labels), Tags: t.Tags, Stage: text(t.Target), Platforms: t.Platforms,
		Outputs: t.Outputs.flags(), CacheFrom: t.CacheFrom.flags(), CacheTo: t.CacheTo.flags(), Attest: t.Attest.flags(), Annotations: t.Annotations,
		Pull: t.Pull != nil && *t.Pull, NoCache: t.NoCache != nil && *t.NoCache, NoCacheFilter: t.NoCacheFilter,
		Network: text(t.NetworkMode), ShmSize: text(t.ShmSize), Secrets: t.Secrets.flags(), SSH: t.SSH.flags(),
		Ulimits: t.Ulimits, Entitlements: t.Entitlements, Resources: t.Resources.flags(),
		Call: text(t.Call), Policies: t.Policy.flags(), Define: define,
	}
	t.tellPlaces(&told)
	hosts := values(t.ExtraHosts)
	for _, name := range slices.Sorted(maps.Keys(hosts)) {
		told.ExtraHosts = append(told.ExtraHosts, name+"="+hosts[name])
	}
	return told, nil
}

// tellPlaces says what of this machine a target reads and writes.
func (t *target) tellPlaces(told *bake.Target) {
	for _, path := range append(slices.Collect(maps.Values(told.Contexts)), told.Context, told.Dockerfile) {
		if isRemote(path) {
			told.Remote = append(told.Remote, path)
		}
	}
	inOrigin := told.Origin != "" && strings.HasPrefix(told.Context, bake.OriginScheme)
	if (inOrigin || isRemote(told.Context)) && !filepath.IsAbs(told.Dockerfile) {
		told.Remote = append(told.Remote, told.Dockerfile) // it is in the context
	}
	told.Reads, told.Writes = ofLocal(t.CacheFrom, "src"), ofLocal(t.CacheTo, "dest")
	for _, out := range t.Outputs {
		if dest := out.Attrs["dest"]; dest != "" && dest != "-" {
			told.Writes = append(told.Writes, dest)
		}
		told.Deletes = told.Deletes || out.Type == "local" && out.Attrs["mode"] == "delete"
	}
	for _, s := range t.Secrets {
		_, named := os.LookupEnv(s.ID)
		switch {
		case s.File != "":
			told.Reads = append(told.Reads, s.File)
		case s.Env == "" && !named:
			told.Reads = append(told.Reads, s.ID)
		}
	}
	for _, k := range t.SSH {
		told.Reads = append(told.Reads, k.Paths...)
		told.Agent = told.Agent || len(k.Paths) == 0
	}
	told.Agent = told.Agent || len(t.SSH) == 0 && told.Context != told.Origin && bySSH(told.Context)
}

// listed are the targets and groups that are not private, in the order of their names.
func (c *config) listed() []bake.Listed {
	var list []bake.Listed
	add := func(l bake.Listed) {
		if !strings.HasPrefix(l.Name, "_") { // they are private by convention
			list = append(list, l)
		}
	}
	for _, t := range c.Targets {
		add(bake.Listed{Name: t.Name, Description: t.Description})
	}
	for _, g := range c.Groups {
		text := strings.Join(slices.Sorted(slices.Values(g.Targets)), ", ")
		if g.Description != "" && text != "" {
			text = g.Description + " (" + text + ")"
		} else if text == "" {
			text = g.Description
		}
		add(bake.Listed{Name: g.Name, Description: text, Group: true})
	}
	slices.SortStableFunc(list, func(a, b bake.Listed) int { return strings.Compare(a.Name, b.Name) })
	return list
}
