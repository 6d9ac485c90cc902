package store

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"github.com/opencontainers/go-digest"
)

// known tells the entries of a store's directory from others.
func known(entry string) bool {
	switch entry {
	case "strake.db", "strake.db-wal", "strake.db-shm", "blobs", "indexes", "ingest", "leases", "work", "rootfs", "cachemounts", "builds", "containers", "volumes", "gate", "damaged", "networks.lock", "networks.keeper", "networks.room", "userns", "scan.db", "scan.db-wal", "scan.db-shm":
		return true
	}
	return false
}

// leftovers finds what nobody works on any more.
func (l *lookout) leftovers(ctx context.Context) error {
	c, root := l.census, l.store.root
	for lease, alive := range c.alive {
		if !alive {
			l.leftover(filepath.Join("leases", lease), "its owner is dead")
		}
	}
	for _, dir := range []string{"work", "damaged"} {
		names, err := namesIn(filepath.Join(root, dir))
		if err != nil {
			return err
		}
		for _, name := range names {
			path := filepath.Join(dir, name)
			switch {
			case dir == "work" && !c.alive[name]:
				l.leftover(path, "its owner is dead")
			case dir == "damaged" && !c.live(digest.NewDigestFromEncoded(digest.SHA256, name)):
				l.leftover(path, "was set aside, and nothing needs it any more")
			}
		}
	}
	parts, err := l.store.deadParts(ctx)
	if err != nil {
		return err
	}
	for _, part := range parts {
		l.leftover("ingest "+part.ref, "its writer is dead, and no other goes on with it")
	}
	trees, err := l.store.deadTrees()
	if err != nil {
		return err
	}
	mounts, err := l.store.deadMounts()
	if err != nil {
		return err
	}
	containers, err := l.store.deadContainers(c.containers)
	if err != nil {
		return err
	}
	for _, tree := range slices.Concat(trees, mounts, containers) {
		l.leftover(strings.TrimPrefix(tree.path, root+string(filepath.Separator)), "was not made to its end, or not removed to its end")
	}
	return l.strangers()
}

// strangers finds what no store makes.
func (l *lookout) strangers() error {
	beside := func(suffixes ...string) func(string) bool {
		return func(name string) bool {
			return isHash(name) || slices.ContainsFunc(suffixes, func(suffix string) bool { return isHash(strings.TrimSuffix(name, suffix)) })
		}
	}
	trees := beside(".partial", ".gone")
	algorithm := func(name string) bool { return digest.Algorithm(name).Available() }
	places := map[string]func(string) bool{
		".": known, "blobs": algorithm, "indexes": beside(".data"), "ingest": beside(".ref"),
		filepath.Join("rootfs", "unpacked"): func(name string) bool { return name == "mnt" || trees(name) }, // mnt: of a mounter
	}
	for _, alg := range []digest.Algorithm{digest.SHA256, digest.SHA384, digest.SHA512} {
		places[filepath.Join("blobs", alg.String())] = func(name string) bool { return alg.Validate(name) == nil }
	}
	for dir, ours := range places {
		names, err := namesIn(filepath.Join(l.store.root, dir))
		if err != nil {
			return err
		}
		for _, name := range names {
			if !ours(name) {
				l.tell(Finding{Kind: KindLeftover, What: filepath.Join(dir, name), Detail: "is no file of a store", foreign: true})
			}
		}
	}
	return nil
}

// namesIn lists a directory; one that is not there is empty.
func namesIn(dir string) ([]string, error) {
	entries, err := os.ReadDir(dir)
	if err != nil && !errors.Is(err, os.ErrNotExist) && !errors.Is(err, syscall.ENOTDIR) {
		return nil, err
	}
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names, nil
}

// made reports whether an ingest is of something that is made here: a later
// process has no use for a part of it.
func made(ref string) bool {
	return strings.HasPrefix(ref, refUnpack) || strings.HasPrefix(ref, refRepair) || strings.HasPrefix(ref, refStep)
}
