package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/opencontainers/go-digest"
)

// freeing is what the plans for a removal free: the one that reads only what the
// removed rows reach, and the one that reads all, as far as they reach. Nothing
// is changed.
func freeing(t *testing.T, s *Store, ref string) (scoped, whole []digest.Digest) {
	t.Helper()
	dead := func(g *graph) []digest.Digest {
		p := &plan{}
		p.unneeded(g, disk{s.root})
		slices.Sort(p.dead)
		return p.dead
	}
	err := s.db.Rehearse(t.Context(), func(tx *sql.Tx) error {
		f, err := find(t.Context(), tx, ref)
		if err != nil {
			return err
		}
		r := &removal{files: s.contents, tx: tx, undo: &entry{}, opts: RemoveOptions{Ref: ref, Force: true}}
		if err := errors.Join(r.remove(t.Context(), f), r.end(t.Context())); err != nil {
			return err
		}
		part, err := readGraph(t.Context(), tx, r.undo.digests()...)
		if err != nil {
			return err
		}
		g, err := readGraph(t.Context(), tx)
		if err != nil {
			return err
		}
		scoped = dead(part)
		whole = slices.DeleteFunc(dead(g), func(d digest.Digest) bool {
			_, within := part.nodes[d.String()]
			return !within
		})
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return scoped, whole
}

// Removing an image frees the same whether the plan reads only what the image
// reaches or everything: beside other images, names, indexes, cache records,
// leases and what undo keeps. Where nothing needed a blob before either, the small
// plan may leave what it needs to the next prune, and never takes more.
func TestScopedPlan(t *testing.T) {
	for seed := range uint64(6) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			r := rand.New(rand.NewPCG(seed, 2))
			opts := Options{Root: t.TempDir(), UndoWindow: 1 << 40}
			s := openWith(t, opts)
			randomStore(t, s, r)
			for i := range 3 {
				m := newMulti(t, fmt.Sprint("multi", i%2), "linux/amd64", "linux/arm64")
				m.add(t, s, fmt.Sprintf("docker.io/library/multi:%d", i), []string{"linux/amd64", "linux/arm64"}[:1+r.IntN(2)]...)
			}
			s = again(t, s, opts)
			clean := seed%2 == 0
			if clean {
				if _, err := s.GC(t.Context()); err != nil {
					t.Fatal(err)
				}
			}
			for range 12 {
				list, err := s.Images(t.Context())
				if err != nil {
					t.Fatal(err)
				}
				if len(list) == 0 {
					break
				}
				img := list[r.IntN(len(list))]
				ref := img.ID.String()
				if len(img.Names) > 0 && r.IntN(2) == 0 {
					ref = img.Names[0]
				}
				scoped, whole := freeing(t, s, ref)
				switch {
				case clean:
					if diff := cmp.Diff(whole, scoped); diff != "" {
						t.Fatalf("rmi %s: whole (-) and scoped (+): %s", ref, diff)
					}
				case slices.ContainsFunc(scoped, func(d digest.Digest) bool { return !slices.Contains(whole, d) }):
					t.Fatalf("rmi %s frees %s, which is needed", ref, scoped)
				}
				s.change(t.Context(), t, r, ref)
			}
		})
	}
}

// change removes an image, for good or not, or has it used.
func (s *Store) change(ctx context.Context, t *testing.T, r *rand.Rand, ref string) {
	t.Helper()
	var err error
	if r.IntN(3) == 0 {
		_, err = s.Use(ctx, ref)
	} else {
		_, err = s.Remove(ctx, RemoveOptions{Ref: ref, Force: true, Now: r.IntN(2) == 0})
	}
	if err != nil {
		t.Fatal(err)
	}
}
