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
	"strconv"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"strake/internal/flock"
)

// A cache mount is a directory that steps of builds share, by its key. There may be several copies of one, for who does not want
// to share: cachemounts/<hash of the key>/<number>, with the files in data/ and what to call it in label. Who uses a copy holds
// a lock on its directory, shared or alone; who chooses one or makes one holds the lock of the directory above.

// Sharing of a cache mount by those who use it at the same time, as in a Dockerfile.
const (
	sharedCopy  = "shared"  // all use one copy
	privateCopy = "private" // each has a copy of its own
	lockedCopy  = "locked"  // they wait for each other
)

const (
	copyData  = "data"
	copyLabel = "label"
)

// copyPause is the time between two looks at a copy that somebody else uses alone.
const copyPause = 20 * time.Millisecond

// gatePatience is how long one tries to be the one who chooses a copy before one tells of waiting.
const gatePatience = 100 * time.Millisecond

// cacheMounts gives them out.
type cacheMounts struct {
	root    string // of the store
	scratch *leases
}

func cacheMountsDir(root string) string { return filepath.Join(root, "cachemounts") }

// CacheMount returns the directory of the cache mount that key names. sharing is "shared", "private" or "locked"; a new copy is
// made by fill, in a directory that exists and is empty. label is for people. What is written stays, whatever becomes of the
// process; release ends the use. It waits for who has a locked one, until ctx ends, and calls busy, which may be nil, before it does.
func (s *cacheMounts) CacheMount(ctx context.Context, key, label, sharing string, busy func(), fill func(dir string) error) (dir string, release func() error, err error) {
	if sharing != sharedCopy && sharing != privateCopy && sharing != lockedCopy {
		return "", nil, fmt.Errorf("cache mount %s: sharing %q is unknown", label, sharing)
	}
	m := s.cacheMount(key)
	m.sharing = sharing
	for {
		c, lock, err := m.find(ctx, func(final string) (*os.File, error) { return s.newCopy(ctx, final, label, fill) })
		if err == nil && lock == nil {
			err = waitCopy(ctx, &busy)
		}
		if err != nil {
			return "", nil, fmt.Errorf("cache mount %s: %w", label, err)
		}
		if lock != nil {
			use(c)
			return filepath.Join(c, copyData), func() error {
				use(c)
				return lock.Close()
			}, nil
		}
	}
}

// ReadCacheMount calls read with the directory of a copy of the cache mount that key names. It waits for one that nobody uses, as
// CacheMount does, and nobody gets one of this key until read is over. It fails with errdefs.ErrNotFound where there is none.
func (s *cacheMounts) ReadCacheMount(ctx context.Context, key, label string, busy func(), read func(dir string) error) error {
	m := s.cacheMount(key)
	for {
		found, err := m.read(ctx, read)
		if err == nil && !found {
			err = waitCopy(ctx, &busy)
		}
		if err != nil {
			return fmt.Errorf("cache mount %s: %w", label, err)
		}
		if found {
			return nil
		}
	}
}

func (s *cacheMounts) cacheMount(key string) *cacheMount {
	sum := sha256.Sum256([]byte(key))
	return &cacheMount{dir: filepath.Join(cacheMountsDir(s.root), hex.EncodeToString(sum[:]))}
}

// waitCopy waits for a copy; of the first wait it tells.
func waitCopy(ctx context.Context, busy *func()) error {
	if *busy != nil {
		(*busy)()
		*busy = nil
	}
	return sleep(ctx, copyPause)
}

// use notes when a copy was used last.
func use(path string) {
	now := time.Now()
	_ = os.Chtimes(path, now, now) // at worst it is pruned sooner
}

// cacheMount is one choice of a copy.
type cacheMount struct{ dir, sharing string }

// find returns a copy and its lock; nil: none yet.
func (m *cacheMount) find(ctx context.Context, create func(final string) (*os.File, error)) (path string, lock *os.File, err error) {
	if err := os.MkdirAll(m.dir, 0o700); err != nil {
		return "", nil, err
	}
	gate, err := m.lock(ctx)
	if err != nil || gate == nil {
		return "", nil, ignoring(errdefs.ErrUnavailable, err)
	}
	defer closing(&err, gate.Close)
	copies, last, err := m.copies()
	if err != nil {
		return "", nil, err
	}
	busy := false
	for _, how := range m.ways() {
		for _, path := range copies {
			lock, err := how(path)
			if lock != nil || err != nil && !errdefs.IsUnavailable(err) {
				return path, lock, err
			}
			busy = busy || err != nil
		}
	}
	if busy && m.sharing == lockedCopy {
		return "", nil, nil
	}
	path = filepath.Join(m.dir, strconv.Itoa(last+1))
	lock, err = create(path)
	if lock != nil && m.sharing == sharedCopy {
		err = flock.Try(lock, flock.Shared)
	}
	return path, lock, err
}

// ways are how a copy is tried for, one after the other: who shares joins others before it takes a copy that nobody uses.
func (m *cacheMount) ways() []func(path string) (*os.File, error) {
	alone := func(path string) (*os.File, error) { return flock.TryOpen(path, flock.Exclusive) }
	shared := func(path string) (*os.File, error) { return flock.TryOpen(path, flock.Shared) }
	if m.sharing != sharedCopy {
		return []func(string) (*os.File, error){alone}
	}
	join := func(path string) (*os.File, error) {
		idle, err := alone(path)
		if errdefs.IsUnavailable(err) {
			return shared(path)
		}
		if idle != nil {
			err = idle.Close()
		}
		return nil, err
	}
	return []func(string) (*os.File, error){join, shared}
}

// read calls read with a copy that nobody uses; false: there is none at the moment.
func (m *cacheMount) read(ctx context.Context, read func(dir string) error) (found bool, err error) {
	gate, err := m.lock(ctx)
	if err != nil {
		return false, ignoring(errdefs.ErrUnavailable, err)
	}
	var copies []string
	if gate != nil {
		defer closing(&err, gate.Close)
		if copies, _, err = m.copies(); err != nil {
			return false, err
		}
	}
	if len(copies) == 0 {
		return false, errdefs.ErrNotFound
	}
	for _, path := range copies {
		lock, err := flock.TryOpen(path, flock.Exclusive)
		if lock != nil {
			return true, errors.Join(read(filepath.Join(path, copyData)), lock.Close())
		}
		if err = ignoring(errdefs.ErrUnavailable, err); err != nil {
			return false, err
		}
	}
	return false, nil
}

// lock locks the directory of the copies. It returns nil when there is none, and fails with errdefs.ErrUnavailable while somebody
// fills a copy or reads one, which may take long.
func (m *cacheMount) lock(ctx context.Context) (*os.File, error) {
	brief, cancel := context.WithTimeout(ctx, gatePatience)
	defer cancel()
	gate, err := flock.Open(brief, m.dir, flock.Exclusive)
	if err != nil && brief.Err() != nil && ctx.Err() == nil {
		return nil, fmt.Errorf("%s is in use: %w", m.dir, errdefs.ErrUnavailable)
	}
	return gate, err
}

// copies lists the copies, and the highest number of one.
func (m *cacheMount) copies() (paths []string, last int, err error) {
	entries, err := readDir(m.dir)
	if err != nil {
		return nil, 0, err
	}
	var numbers []int
	for _, e := range entries {
		if n, err := strconv.Atoi(e.Name()); err == nil {
			numbers = append(numbers, n)
		}
	}
	slices.Sort(numbers)
	for _, n := range numbers {
		paths, last = append(paths, filepath.Join(m.dir, strconv.Itoa(n))), n
	}
	return paths, last, nil
}

// newCopy makes a copy, whole or not at all, and returns its lock; nil: a prune took away the directory that it was to be put in.
func (s *cacheMounts) newCopy(ctx context.Context, final, label string, fill func(dir string) error) (lock *os.File, err error) {
	made, err := s.scratch.TempDir(ctx)
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil || lock == nil {
			err = errors.Join(err, os.RemoveAll(made))
		}
	}()
	data := filepath.Join(made, copyData)
	if err := os.Mkdir(data, 0o700); err != nil {
		return nil, err
	}
	if err := fill(data); err != nil {
		return nil, err
	}
	if err := os.WriteFile(filepath.Join(made, copyLabel), []byte(label), 0o600); err != nil {
		return nil, err
	}
	lock, err = flock.TryOpen(made, flock.Exclusive)
	if err != nil || lock == nil {
		return nil, err
	}
	if err := os.Rename(made, final); err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			err = nil
		}
		return nil, errors.Join(err, lock.Close())
	}
	return lock, nil
}

// mountPaths lists what is in the directories of all cache mounts. (No pattern does: the store's root may have its characters.)
func (c *debris) mountPaths() (paths []string, err error) {
	dirs, err := readDir(cacheMountsDir(c.files.root))
	for _, dir := range dirs {
		if !dir.IsDir() || err != nil {
			continue
		}
		var copies []fs.DirEntry
		copies, err = readDir(filepath.Join(cacheMountsDir(c.files.root), dir.Name()))
		for _, e := range copies {
			paths = append(paths, filepath.Join(cacheMountsDir(c.files.root), dir.Name(), e.Name()))
		}
	}
	return paths, err
}

// readDir is os.ReadDir of a directory that may be gone: nothing is in it.
func readDir(dir string) ([]fs.DirEntry, error) {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	return entries, err
}

// cacheMounts lists the copies of all cache mounts that were measured.
func (c *debris) cacheMounts(sizes treeSizes) ([]CacheRecord, error) {
	paths, err := c.mountPaths()
	if err != nil {
		return nil, err
	}
	var list []CacheRecord
	for _, path := range paths {
		size, ok := sizes[path]
		if _, err := strconv.Atoi(filepath.Base(path)); err != nil || !ok {
			continue
		}
		free, err := idleCopy(path)
		if err != nil {
			continue // gone since
		}
		label, err := os.ReadFile(filepath.Join(path, copyLabel))
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, err
		}
		list = append(list, CacheRecord{
			ID:   mountRecord + filepath.Base(filepath.Dir(path)) + "/" + filepath.Base(path),
			Kind: KindMount, Size: size, Created: changed(filepath.Join(path, copyLabel)), Used: changed(path),
			InUse: !free, Step: string(label),
		})
	}
	return list, nil
}

// idleCopy reports whether nobody uses a copy, and does not get in the way of who is choosing one.
func idleCopy(path string) (idle bool, err error) {
	gate, err := flock.TryOpen(filepath.Dir(path), flock.Shared)
	if errdefs.IsUnavailable(err) {
		return false, nil
	}
	if err != nil || gate == nil {
		return false, err
	}
	defer closing(&err, gate.Close)
	held, err := flock.Held(path, flock.Exclusive)
	return !held, err
}

// removeEmpty removes the directory of a cache mount that has no copy, unless somebody is choosing one.
func removeEmpty(dir string) error {
	gate, err := flock.TryOpen(dir, flock.Exclusive)
	if errdefs.IsUnavailable(err) || gate == nil {
		return ignoring(errdefs.ErrUnavailable, err)
	}
	return errors.Join(ignoring(unix.ENOTEMPTY, os.Remove(dir)), gate.Close())
}

// ignoring is err, unless it is the other.
func ignoring(other, err error) error {
	if errors.Is(err, other) {
		return nil
	}
	return err
}

// mountRecord begins the ID of a cache mount's record; hash and number follow.
const mountRecord = "mount/"

// cacheMountPath is where the copy of a record is.
func (c *debris) cacheMountPath(id string) string {
	hash, number := filepath.Split(strings.TrimPrefix(id, mountRecord))
	return filepath.Join(cacheMountsDir(c.files.root), filepath.Base(hash), filepath.Base(number))
}

// deadMounts lists the copies that were not removed to their end.
func (c *debris) deadMounts() ([]stray, error) {
	paths, err := c.mountPaths()
	if err != nil {
		return nil, err
	}
	return leftovers(slices.DeleteFunc(paths, func(path string) bool { return !strings.HasSuffix(path, goneSuffix) }))
}
