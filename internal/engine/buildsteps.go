package engine

import (
	"fmt"
	"strings"

	"strake/internal/attest"
	"strake/internal/build"
	"strake/internal/executor"
)

// stepList is the graph of a build as provenance tells it: inputs before what uses them.
type stepList struct {
	list []attest.Step
	at   map[*build.Vertex]string
	more map[string]string // what the graph has no vertex for, by identifier
}

// buildSteps lists the steps of what was built.
func buildSteps(root *build.Vertex) []attest.Step {
	l := &stepList{at: map[*build.Vertex]string{}, more: map[string]string{}}
	l.vertex(root)
	return l.list
}

func (l *stepList) add(op attest.Op, lines []int, inputs ...string) string {
	s := attest.Step{ID: fmt.Sprintf("step%d", len(l.list)), Op: op, Lines: lines, Inputs: inputs}
	l.list = append(l.list, s)
	return s.ID + ":0"
}

// source is a step that takes something from elsewhere.
func (l *stepList) source(identifier string, attrs map[string]string) string {
	if at, ok := l.more[identifier]; ok {
		return at
	}
	var op attest.Op
	op.Op.Source = &attest.SourceOp{Identifier: identifier, Attrs: attrs}
	l.more[identifier] = l.add(op, nil)
	return l.more[identifier]
}

// vertex lists v and what it needs, each once; "" is nothing.
func (l *stepList) vertex(v *build.Vertex) string {
	if at, ok := l.at[v]; ok {
		return at
	}
	var in stepInputs
	for _, from := range v.Inputs {
		in.number = append(in.number, in.add(l.vertex(from)))
	}
	var op attest.Op
	at := ""
	switch from := v.Op.(type) {
	case *build.Base:
		if _, ref, ok := strings.Cut(v.Name, "FROM "); ok && len(from.Layers) > 0 {
			at = l.source("docker-image://"+ref, nil)
		}
	case *build.Git:
		at = l.source("git://"+strings.TrimPrefix(strings.TrimPrefix(from.URI(), "https://"), "git://"), nil)
	case *build.Run:
		op.Op.Exec, op.Platform = l.exec(from, &in), attest.NewStepPlatform(from.Platform)
		at = l.add(op, v.Lines, in.list...)
	case *build.Copy:
		op.Op.File = l.copied(from, &in)
		at = l.add(op, v.Lines, in.list...)
	case *build.Mkdir:
		var made attest.FileAction
		made.Input, made.Secondary, made.Action.Mkdir = in.number[0], -1, &attest.FileMake{Path: from.Path}
		op.Op.File = &attest.FileOp{Actions: []attest.FileAction{made}}
		at = l.add(op, v.Lines, in.list...)
	default:
		op.Op.Merge = &struct{}{}
		at = l.add(op, v.Lines, in.list...)
	}
	l.at[v] = at
	return at
}

// stepInputs are the inputs of a step: those of its vertex, of which nothing is none, and others.
type stepInputs struct {
	list   []string
	number []int // in list, of the vertex's inputs; -1: nothing
}

// add returns the number of an input; "" is nothing.
func (in *stepInputs) add(at string) int {
	if at == "" {
		return -1
	}
	in.list = append(in.list, at)
	return len(in.list) - 1
}

// localContext is where the files of the build context are from.
const localContext = "local://context"

func (l *stepList) exec(r *build.Run, in *stepInputs) *attest.ExecOp {
	e := &attest.ExecOp{}
	e.Meta.Args, e.Meta.Cwd, e.Meta.User = append([]string(nil), r.Args...), r.Cwd, r.User
	if r.Network == executor.NetworkNone {
		e.Network = attest.NetworkNone
	}
	if r.Insecure {
		e.Security = attest.SecurityInsecure
	}
	for _, name := range r.Devices {
		e.CDIDevices = append(e.CDIDevices, attest.ID{Name: name})
	}
	e.Mounts = []attest.ExecMount{{Input: in.number[0], Dest: "/"}}
	for _, m := range r.Mounts {
		if m.Env != "" {
			e.SecretEnv = append(e.SecretEnv, attest.ID{ID: m.ID, Name: m.Env})
		}
		if m.Target == "" {
			continue
		}
		mount := attest.ExecMount{Input: -1, Selector: m.Source, Dest: m.Target, Readonly: m.ReadOnly}
		id := &attest.ID{ID: m.ID}
		switch m.Type {
		case build.MountBind:
			mount.Input = in.number[m.Stage]
			if m.Stage == 0 {
				mount.Input = in.add(l.source(localContext, nil))
			}
		case build.MountCache:
			if m.Stage > 0 {
				mount.Input = in.number[m.Stage]
			}
			mount.Type, mount.Cache = attest.MountCache, id
		case build.MountTmpfs:
			mount.Type = attest.MountTmpfs
		case build.MountSecret:
			mount.Type, mount.Secret = attest.MountSecret, id
		case build.MountSSH:
			mount.Type, mount.SSH = attest.MountSSH, id
		}
		e.Mounts = append(e.Mounts, mount)
	}
	return e
}

func (l *stepList) copied(c *build.Copy, in *stepInputs) *attest.FileOp {
	f := &attest.FileOp{}
	for _, s := range c.Sources {
		a := attest.FileAction{Input: in.number[0], Secondary: -1, Output: -1}
		path := s.Path
		switch {
		case s.Inline != nil:
			a.Action.Mkfile = &attest.FileMake{Path: strings.TrimSuffix(c.Dest, "/") + "/" + s.Inline.Name}
			f.Actions = append(f.Actions, a)
			continue
		case s.URL != nil:
			attrs := map[string]string{"http.filename": s.URL.Name}
			if s.URL.Checksum != "" {
				attrs["http.checksum"] = s.URL.Checksum.String()
			}
			a.Secondary, path = in.add(l.source(s.URL.Address, attrs)), "/"+s.URL.Name
		case s.Stage == 0:
			a.Secondary = in.add(l.source(localContext, nil))
		default:
			a.Secondary = in.number[s.Stage]
		}
		a.Action.Copy = &attest.FileCopy{Src: path, Dest: c.Dest}
		f.Actions = append(f.Actions, a)
	}
	for i := range f.Actions[1:] {
		f.Actions[i+1].Input = len(in.list) + i // what the one before made
	}
	f.Actions[len(f.Actions)-1].Output = 0
	return f
}
