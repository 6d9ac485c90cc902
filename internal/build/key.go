package build

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"

	"strake/internal/layer"
)

// keyFormat is part of every key; a change of what inputs or layers mean
// changes it.
const keyFormat = "strake.build.2"

// keyPrefix begins every key, before its digest.
const keyPrefix = "step:"

// maxChanges bounds the changes that one Explanation lists.
const maxChanges = 20

// VariableInput begins the name of an Input that is a variable, before the variable's.
const VariableInput = "variable "

// record is the value of a cache record.
type record struct {
	Layers  []digest.Digest `json:"layers"`
	Created time.Time       `json:"created"`
	Inputs  []Input         `json:"inputs"`
	Leak    *SecretError    `json:"leak,omitempty"` // what was found in the layer; it goes nowhere else
}

// Explanation says why a step was not in the cache.
type Explanation struct {
	Step    string // the vertex's name
	Reason  string // one line
	Changes []Change
	More    int // changes beyond those listed
}

// Change is one input that differs from the slot's last record.
type Change struct {
	Input    string // such as "file src/main.go"
	From, To string // "" where there was, or is, none
	Step     string `json:",omitempty"` // whose files it sums up, where that has a name
}

// parentInput is the Input that is the chain of the vertex's parent.
const parentInput = "parent"

// source is the name of the step whose files an input of v sums up, or "".
func (v *Vertex) source(in Input) string {
	if in.Stage == 0 && in.Name != parentInput {
		return ""
	}
	from := v
	for at := in.Stage; at < len(from.Inputs); at = 0 {
		if from = from.Inputs[at]; from.Name != "" {
			return from.Name
		}
	}
	return ""
}

// cacheKey is the key of a step with these inputs, whatever bytes they have.
func cacheKey(inputs []Input) string {
	b := []byte(keyFormat + "\n")
	for _, in := range inputs {
		b = fmt.Appendf(b, "%d:%s%d:%s", len(in.Name), in.Name, len(in.Value), in.Value)
	}
	sum := sha256.Sum256(b)
	return keyPrefix + hex.EncodeToString(sum[:])
}

// chainID names a chain of layers.
func chainID(layers []digest.Digest) digest.Digest {
	if len(layers) == 0 {
		return "scratch"
	}
	id := []byte(layers[0])
	for _, l := range layers[1:] {
		sum := sha256.Sum256(append(append(id, ' '), l...))
		id = hex.AppendEncode(append(id[:0], "sha256:"...), sum[:])
	}
	return digest.Digest(id)
}

// lookup finds the record of key. A record whose layers are gone is none, and
// so is one that cannot be read: the step runs again.
func (s *Solver) lookup(ctx context.Context, key string) (*record, string, error) {
	value, err := s.opts.Store.LoadCache(ctx, key)
	if errdefs.IsNotFound(err) {
		return nil, "", nil
	}
	if err != nil {
		return nil, "", fmt.Errorf("look in the cache: %w", err)
	}
	var r record
	if json.Unmarshal(value, &r) != nil || len(r.Layers) == 0 {
		return nil, "its record cannot be read", nil //nolint:nilerr // the step runs again
	}
	for _, l := range r.Layers {
		if _, err = s.layerSize(ctx, l); err != nil {
			break
		}
	}
	if err == nil {
		err = s.hits.add(ctx, s.opts.Store, r.Layers)
	}
	if errdefs.IsNotFound(err) {
		return nil, "its layer was removed", nil
	}
	if err != nil {
		return nil, "", fmt.Errorf("look in the cache: %w", err)
	}
	return &r, "", nil
}

// layerSize is the size of a stored layer, asked once.
func (s *Solver) layerSize(ctx context.Context, id digest.Digest) (int64, error) {
	s.mu.Lock()
	size, ok := s.sizes[id]
	s.mu.Unlock()
	if ok {
		return size, nil
	}
	files, err := s.opts.Store.Layer(ctx, id)
	if err != nil {
		return 0, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.sizes[id] = files.Size
	return files.Size, nil
}

// records are the cache records of what a step made: that of its key, and the
// listings that it refers to before it.
func (r record) records(key, slot string) ([]layer.Record, error) {
	var list []layer.Record
	for _, in := range r.Inputs {
		if in.Listing != nil {
			k := listingKey(in.Value)
			list = append(list, layer.Record{Key: k, Slot: k, Value: in.Listing})
		}
	}
	b, err := json.Marshal(r)
	if err != nil {
		return nil, fmt.Errorf("make the cache record: %w", err)
	}
	if slot == "" {
		slot = key
	}
	return append(list, layer.Record{Key: key, Slot: slot, Value: b}), nil
}

// save saves the records of what was made elsewhere.
func (r record) save(ctx context.Context, store CacheStore, key, slot string) error {
	records, err := r.records(key, slot)
	for _, c := range records {
		if err == nil {
			err = store.SaveCache(ctx, c.Key, c.Slot, r.Layers, c.Value)
		}
	}
	return err
}

func listingKey(value string) string { return "listing:" + value }

// explain tells why the step missed. It compares with the last record of the
// slot; what it cannot read it does not mention.
func (s *Solver) explain(ctx context.Context, v *Vertex, inputs []Input, reason string) {
	if s.opts.Explain == nil {
		return
	}
	e := Explanation{Step: v.Name, Reason: reason}
	if e.Reason == "" {
		e.Reason = "it was not built before"
		if old, ok := s.lastInputs(ctx, v.Slot); ok {
			e.Changes = s.changes(ctx, v, old, inputs)
			e.Reason = "an input changed"
			if len(e.Changes) == 0 {
				e.Reason = "its record was removed"
			}
			if len(e.Changes) > maxChanges {
				e.More = len(e.Changes) - maxChanges
				e.Changes = e.Changes[:maxChanges]
			}
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.opts.Explain(e)
}

func (s *Solver) lastInputs(ctx context.Context, slot string) ([]Input, bool) {
	if slot == "" {
		return nil, false
	}
	value, err := s.opts.Store.LastCache(ctx, slot)
	if err != nil {
		return nil, false
	}
	var r record
	if err := json.Unmarshal(value, &r); err != nil {
		return nil, false
	}
	return r.Inputs, true
}

// changes lists the inputs that differ, files one by one.
func (s *Solver) changes(ctx context.Context, v *Vertex, old, now []Input) []Change {
	var out []Change
	was := map[string]string{}
	for _, in := range old {
		was[in.Name] = in.Value
	}
	for _, in := range now {
		from, ok := was[in.Name]
		delete(was, in.Name)
		if ok && from == in.Value {
			continue
		}
		if in.Listing != nil && ok {
			if before, err := s.opts.Store.LoadCache(ctx, listingKey(from)); err == nil {
				out = append(out, listingChanges(before, in.Listing)...)
				continue
			}
		}
		out = append(out, Change{Input: in.Name, From: from, To: in.Value, Step: v.source(in)})
	}
	for _, name := range slices.Sorted(maps.Keys(was)) {
		out = append(out, Change{Input: name, From: was[name]})
	}
	return out
}

// listingChanges compares two listings: lines of "what path", what without
// spaces.
func listingChanges(old, now []byte) []Change {
	parse := func(b []byte) map[string]string {
		m := map[string]string{}
		for line := range bytes.Lines(b) {
			what, name, _ := strings.Cut(strings.TrimSuffix(string(line), "\n"), " ")
			m[name] = what
		}
		return m
	}
	before, after := parse(old), parse(now)
	names := maps.Clone(before)
	maps.Copy(names, after)
	var out []Change
	for _, name := range slices.Sorted(maps.Keys(names)) {
		if before[name] != after[name] {
			out = append(out, Change{Input: "file " + name, From: before[name], To: after[name]})
		}
	}
	return out
}
