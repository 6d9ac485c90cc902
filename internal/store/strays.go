package store

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"

	"strake/internal/content"
	"strake/internal/flock"
)

// partialAge is how long an unfinished download is kept for its next attempt.
const partialAge = 7 * 24 * time.Hour

// stray is a file or a directory that no row names and nobody works on: what a
// process left that died between file and row.
type stray struct {
	path  string
	ref   string // of an unfinished blob, which has a lock beside it
	tree  bool   // an extracted chain or a cache mount, which somebody may be about to use
	build string // whose record it is, with its log
	size  int64  // bytes on disk
}

// debris finds what dead processes left, and what can be made again.
type debris struct{ files *contents }

func (c *debris) builds() *builds { return &builds{c.files.root} }

// strays lists the files beside the graph that can go: blobs and indexes without
// a row or a lease, and parts that nobody writes and nobody can use. The caller
// holds the gate alone: commits make files before rows.
func (c *debris) strays(ctx context.Context, g *graph) ([]stray, error) {
	var list []stray
	leased := map[node]bool{}
	for _, r := range g.roots {
		leased[r.node] = leased[r.node] || r.kind == rootLease
	}
	known := func(dgst digest.Digest, rows map[node]bool) bool {
		n, ok := g.nodes[dgst.String()]
		return ok && (rows[n] || leased[n])
	}
	err := c.files.blobs.Walk(ctx, func(info content.Info) error {
		if !known(info.Digest, g.blobs) {
			path := c.files.blobs.Path(info.Digest)
			list = append(list, stray{path: path, size: allocated(path)})
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	entries, err := os.ReadDir(filepath.Join(c.files.root, "indexes"))
	if err != nil {
		return nil, err
	}
	for _, e := range entries {
		if !isHash(strings.TrimSuffix(e.Name(), ".data")) {
			continue // it is not ours
		}
		id := digest.NewDigestFromEncoded(digest.SHA256, strings.TrimSuffix(e.Name(), ".data"))
		if !known(id, g.layers) {
			path := filepath.Join(c.files.root, "indexes", e.Name())
			list = append(list, stray{path: path, size: allocated(path)})
		}
	}
	parts, err := c.deadParts(ctx)
	if err != nil {
		return nil, err
	}
	trees, err := c.deadTrees()
	if err != nil {
		return nil, err
	}
	mounts, err := c.deadMounts()
	if err != nil {
		return nil, err
	}
	rows := map[string]bool{}
	for _, r := range g.roots {
		rows[r.owner] = rows[r.owner] || r.kind == rootContainer
	}
	containers, err := c.deadContainers(rows)
	return slices.Concat(list, parts, trees, mounts, containers), err
}

// deadParts lists the unfinished blobs that are of no use: tars that were being
// made, and downloads that were not taken up again for long.
func (c *debris) deadParts(ctx context.Context) ([]stray, error) {
	ingests, err := c.files.blobs.Ingests(ctx)
	if err != nil {
		return nil, err
	}
	var list []stray
	for _, in := range ingests {
		if in.Held || !made(in.Ref) && time.Since(in.ModTime) < partialAge {
			continue
		}
		sum := sha256.Sum256([]byte(in.Ref))
		path := filepath.Join(c.files.root, "ingest", hex.EncodeToString(sum[:]))
		if _, err := os.Lstat(path + ".ref"); err != nil {
			path = filepath.Join(c.files.root, "ingest", in.Ref) // the ref was lost in a crash
		}
		list = append(list, stray{path: path, ref: in.Ref, size: allocated(path) + allocated(path+".ref")})
	}
	return list, nil
}

// removeTree removes an extracted chain or a cache mount, unless somebody uses
// it: first its name, so that nobody finds half of it.
func removeTree(path string) (err error) {
	f, err := flock.TryOpen(path, flock.Exclusive)
	if errdefs.IsUnavailable(err) || f == nil && err == nil {
		return nil
	}
	if err != nil {
		return err
	}
	defer closing(&err, f.Close)
	gone := path + goneSuffix
	if err := os.RemoveAll(gone); err != nil { // another of this name, which somebody has not done with
		return err
	}
	if err := os.Rename(path, gone); err != nil {
		return err
	}
	return os.RemoveAll(gone)
}

// goneSuffix ends the name of what is being removed.
const goneSuffix = ".gone"

// unpackedDir is where package rootfs keeps extracted chains.
func (c *debris) unpackedDir() string { return filepath.Join(c.files.root, "rootfs", "unpacked") }

// deadTrees lists the chains that were not extracted to their end, or not
// removed to theirs.
func (c *debris) deadTrees() ([]stray, error) {
	entries, err := readDir(c.unpackedDir())
	if err != nil {
		return nil, err
	}
	var paths []string
	for _, e := range entries {
		if !isHash(e.Name()) && (strings.HasSuffix(e.Name(), ".partial") || strings.HasSuffix(e.Name(), goneSuffix)) {
			paths = append(paths, filepath.Join(c.unpackedDir(), e.Name()))
		}
	}
	return leftovers(paths)
}

// leftovers lists those of paths that nobody has locked: what their users left
// when they died.
func leftovers(paths []string) ([]stray, error) {
	var list []stray
	for _, path := range paths {
		if held, err := flock.Held(path, flock.Exclusive); err != nil || held {
			continue // gone since, or in use
		}
		size, err := treeSize(path)
		if err != nil {
			return nil, err
		}
		list = append(list, stray{path: path, size: size})
	}
	return list, nil
}

// isHash reports whether a name is a sha256 in hex, as those of indexes,
// unfinished blobs and extracted chains are.
func isHash(name string) bool {
	return len(name) == hex.EncodedLen(sha256.Size) && strings.Trim(name, "0123456789abcdef") == ""
}

// treeSize is how many bytes a directory takes on disk, with all that is in it.
func treeSize(dir string) (int64, error) {
	sizes, err := walkSizes(dir, func(string, fs.FileInfo) string { return "" })
	return sizes[""], err
}

// walkSizes adds up the bytes on disk of all files under dir, dir included, by
// the class that classify gives each. A file with several names counts once,
// as du counts.
func walkSizes(dir string, classify func(path string, info fs.FileInfo) string) (map[string]int64, error) {
	type inode struct{ dev, ino uint64 }
	sizes, seen := map[string]int64{}, map[inode]bool{}
	err := filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) {
			return nil // gone since
		}
		if err != nil {
			return err
		}
		info, err := e.Info()
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err != nil {
			return err
		}
		if dev, ino, links := identity(info); links > 1 && !info.IsDir() {
			if seen[inode{dev, ino}] {
				return nil
			}
			seen[inode{dev, ino}] = true
		}
		sizes[classify(path, info)] += blocks(info)
		return nil
	})
	if err != nil {
		return sizes, fmt.Errorf("measure %s: %w", dir, err)
	}
	return sizes, nil
}
