package build

import (
	"cmp"
	"slices"

	"strake/internal/executor"
)

// Needs is what the commands of builds use that is neither a file nor a variable.
type Needs struct {
	Secrets, Agents []Need // by ID, each once
	Network         bool   // a command has the network
}

// Need is a secret or an agent.
type Need struct {
	ID       string // of the default agent "default"
	Optional bool   // no command fails without it
}

// Add adds what a definition needs, of steps in the cache too.
func (n *Needs) Add(def *Definition) { n.add(def.Root, map[*Vertex]bool{}) }

func (n *Needs) add(v *Vertex, seen map[*Vertex]bool) {
	if seen[v] {
		return
	}
	seen[v] = true
	for _, in := range v.Inputs {
		n.add(in, seen)
	}
	run, ok := v.Op.(*Run)
	if !ok {
		return
	}
	n.Network = n.Network || run.Network != executor.NetworkNone
	for _, m := range run.Mounts {
		switch m.Type {
		case MountSecret:
			n.Secrets = merge(n.Secrets, Need{m.ID, !m.Required})
		case MountSSH:
			n.Agents = merge(n.Agents, Need{cmp.Or(m.ID, "default"), !m.Required})
		}
	}
}

func merge(list []Need, with Need) []Need {
	at, found := slices.BinarySearchFunc(list, with, func(a, b Need) int { return cmp.Compare(a.ID, b.ID) })
	if !found {
		return slices.Insert(list, at, with)
	}
	list[at].Optional = list[at].Optional && with.Optional
	return list
}
