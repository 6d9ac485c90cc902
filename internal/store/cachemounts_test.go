package store

import (
	"context"
	"database/sql"
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"
)

// mounts uses cache mounts of one key.
type mounts struct {
	*testing.T
	*Store
	made int
}

func (m *mounts) use(sharing string) (dir string, release func()) {
	m.Helper()
	dir, end, err := m.CacheMount(m.Context(), "key", "label of key", sharing, nil, func(dir string) error {
		m.made++
		return os.WriteFile(filepath.Join(dir, "seed"), nil, 0o600)
	})
	if err != nil {
		m.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(dir, "seed")); err != nil {
		m.Error(err)
	}
	return dir, func() {
		if err := end(); err != nil {
			m.Error(err)
		}
	}
}

func openMounts(t *testing.T) *mounts {
	t.Helper()
	return openMountsIn(t, t.TempDir())
}

func openMountsIn(t *testing.T, root string) *mounts {
	t.Helper()
	s, err := Open(t.Context(), Options{Root: root})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return &mounts{T: t, Store: s}
}

func TestCacheMountSharing(t *testing.T) {
	m := openMounts(t)
	one, endOne := m.use("shared")
	two, endTwo := m.use("shared")
	if one != two || m.made != 1 {
		t.Errorf("shared: %s and %s, %d made", one, two, m.made)
	}
	own, endOwn := m.use("private")
	if own == one || m.made != 2 {
		t.Errorf("private: %s, %d made", own, m.made)
	}
	endOne()
	if three, end := m.use("shared"); three != two {
		t.Errorf("who shares does not join others: %s", three)
	} else {
		end()
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	told := 0
	tell := func() {
		told++
		time.AfterFunc(3*copyPause, cancel)
	}
	if _, _, err := m.CacheMount(ctx, "key", "", "locked", tell, nil); !errors.Is(err, context.Canceled) || told != 1 {
		t.Errorf("locked while all copies are in use: %v, told %d times", err, told)
	}
	endTwo()
	endOwn()
	again, end := m.use("locked")
	if again != one || m.made != 2 {
		t.Errorf("what was released is not used again: %s, %d made", again, m.made)
	}
	end()
	if _, _, err := m.CacheMount(t.Context(), "key", "", "mine", nil, nil); err == nil {
		t.Error("unknown sharing")
	}
}

// TestCacheMountCrowd: of many who lock one, one has it at a time; those who fill it see it whole.
func TestCacheMountCrowd(t *testing.T) {
	m := openMounts(t)
	var all sync.WaitGroup
	var mu sync.Mutex
	inside := 0
	for range 8 {
		all.Go(func() {
			for range 5 {
				dir, end, err := m.CacheMount(t.Context(), "crowd", "", "locked", nil, func(dir string) error {
					time.Sleep(time.Millisecond)
					return os.WriteFile(filepath.Join(dir, "seed"), []byte("whole"), 0o600)
				})
				if err != nil {
					t.Error(err)
					return
				}
				mu.Lock()
				inside++
				if b, err := os.ReadFile(filepath.Join(dir, "seed")); inside > 1 || err != nil || string(b) != "whole" {
					t.Errorf("%d at once, %q, %v", inside, b, err)
				}
				mu.Unlock()
				time.Sleep(time.Millisecond)
				mu.Lock()
				inside--
				mu.Unlock()
				if err := end(); err != nil {
					t.Error(err)
				}
			}
		})
	}
	all.Wait()
	if copies, err := filepath.Glob(filepath.Join(cacheMountsDir(m.Root()), "*", "*")); err != nil || len(copies) != 1 {
		t.Errorf("copies: %v, %v", copies, err)
	}
}

// TestCacheMountPrune: a mount in use stays; one that is not goes, with its bytes, and can be made again at once.
func TestCacheMountPrune(t *testing.T) {
	m := openMounts(t)
	_, end := m.use("shared")
	prune := func() PruneResult {
		t.Helper()
		res, err := m.Prune(t.Context(), PruneOptions{Cache: func(list []CacheRecord) []CacheRecord { return list }})
		if err != nil {
			t.Fatal(err)
		}
		return res
	}
	usage, err := m.Usage(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if len(usage.Records) != 1 || usage.Records[0].Kind != KindMount || usage.Records[0].Step != "label of key" || !usage.Records[0].InUse {
		t.Errorf("records: %+v", usage.Records)
	}
	du, err := treeSize(m.Root())
	if err != nil {
		t.Fatal(err)
	}
	if sum := usage.Images + usage.Containers + usage.Volumes + usage.Cache + usage.Undo + usage.Other; sum != du || usage.Cache < usage.Records[0].Size {
		t.Errorf("usage %+v, du says %d", usage, du)
	}
	if res := prune(); len(res.Cache) != 0 {
		t.Errorf("pruned while in use: %v", res.Cache)
	}
	end()
	if res := prune(); len(res.Cache) != 1 || res.Freed < usage.Records[0].Size {
		t.Errorf("pruned: %+v", res)
	}
	if left, err := filepath.Glob(filepath.Join(cacheMountsDir(m.Root()), "*", "*")); err != nil || len(left) > 0 {
		t.Errorf("left: %v, %v", left, err)
	}
	_, end = m.use("private")
	end()
	if m.made != 2 {
		t.Errorf("made %d times", m.made)
	}
}

// TestCVE_2024_9675: the ID of a cache mount is no path.
func TestCVE_2024_9675(t *testing.T) {
	m := openMounts(t)
	dir, end, err := m.CacheMount(t.Context(), "../../../../../etc", "../../etc", "shared", nil, func(string) error { return nil })
	if err != nil {
		t.Fatal(err)
	}
	if inside, err := filepath.Rel(cacheMountsDir(m.Root()), dir); err != nil || !filepath.IsLocal(inside) {
		t.Errorf("%s lies outside", dir)
	}
	if err := end(); err != nil {
		t.Error(err)
	}
}

// TestCacheMountRoot: the store's directory may have the characters of a pattern.
func TestCacheMountRoot(t *testing.T) {
	for _, name := range []string{"a[b", "a[1]", "a*", `a\b`} {
		t.Run(name, func(t *testing.T) {
			m := openMountsIn(t, filepath.Join(t.TempDir(), name))
			dir, end := m.use("shared")
			end()
			if err := os.Mkdir(filepath.Dir(dir)+goneSuffix, 0o700); err != nil {
				t.Fatal(err)
			}
			usage, err := m.Usage(t.Context())
			if err != nil || len(usage.Records) != 1 {
				t.Errorf("records: %v, %v", usage.Records, err)
			}
			if _, err := m.GC(t.Context()); err != nil {
				t.Error(err)
			}
			if _, err := os.Lstat(filepath.Dir(dir) + goneSuffix); !errors.Is(err, os.ErrNotExist) {
				t.Errorf("what was being removed is still there: %v", err)
			}
		})
	}
}

// TestTreesMeasuredBefore: the transaction that everybody waits for measures no directory, and takes none that was not measured.
func TestTreesMeasuredBefore(t *testing.T) {
	m := openMounts(t)
	dir, end := m.use("private")
	_, endOther := m.use("private")
	end()
	endOther()
	chain := filepath.Join(m.unpackedDir(), digest.FromString("chain").Encoded())
	if err := os.MkdirAll(chain, 0o700); err != nil {
		t.Fatal(err)
	}
	known := treeSizes{filepath.Dir(dir): 1 << 40, chain: 1 << 41}
	err := m.db.View(t.Context(), func(tx *sql.Tx) error {
		g, err := readGraph(t.Context(), tx)
		if err != nil {
			return err
		}
		list, err := m.cacheRecords(t.Context(), tx, g, known)
		if len(list) != 2 || list[0].Size+list[1].Size != 1<<40+1<<41 {
			t.Errorf("records: %+v", list)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}

// TestTreesRemovedBehindTheGate: who commits does not wait while directories are removed.
func TestTreesRemovedBehindTheGate(t *testing.T) {
	m := openMounts(t)
	dir, end := m.use("shared")
	end()
	for i := range 5_000 {
		if err := os.Mkdir(filepath.Join(dir, strconv.Itoa(i)), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	done := make(chan error, 1)
	go func() {
		_, err := m.Prune(t.Context(), PruneOptions{Cache: func(list []CacheRecord) []CacheRecord { return list }})
		done <- err
	}()
	gone := filepath.Dir(dir) + goneSuffix
	for len(done) == 0 {
		if _, err := os.Lstat(gone); err == nil {
			break
		}
		time.Sleep(time.Millisecond / 10)
	}
	gate, err := os.Open(filepath.Join(m.Root(), "gate"))
	if err != nil {
		t.Fatal(err)
	}
	if err := unix.Flock(int(gate.Fd()), unix.LOCK_SH|unix.LOCK_NB); err != nil {
		t.Errorf("the gate is shut while a directory is removed: %v", err)
	}
	if err := errors.Join(gate.Close(), <-done); err != nil {
		t.Error(err)
	}
}

// TestCacheMountDirectoryGoes: with its last copy the directory of a cache mount goes, also while others make copies of it.
func TestCacheMountDirectoryGoes(t *testing.T) {
	m := openMounts(t)
	prune := func() {
		if _, err := m.Prune(t.Context(), PruneOptions{Cache: func(list []CacheRecord) []CacheRecord { return list }}); err != nil {
			t.Error(err)
		}
	}
	var users sync.WaitGroup
	for range 4 {
		users.Go(func() {
			for range 25 {
				dir, end, err := m.CacheMount(t.Context(), "crowd", "", "shared", nil, func(dir string) error {
					return os.WriteFile(filepath.Join(dir, "seed"), nil, 0o600)
				})
				if err != nil {
					t.Error(err)
					return
				}
				if _, err := os.Lstat(filepath.Join(dir, "seed")); err != nil {
					t.Error(err)
				}
				if err := end(); err != nil {
					t.Error(err)
				}
			}
		})
	}
	done := make(chan struct{})
	go func() {
		users.Wait()
		close(done)
	}()
	for open := true; open; {
		select {
		case <-done:
			open = false
		default:
			prune()
		}
	}
	_, end := m.use("shared")
	end()
	prune()
	if left, err := os.ReadDir(cacheMountsDir(m.Root())); err != nil || len(left) > 0 {
		t.Errorf("left: %v, %v", left, err)
	}
}

// TestReadCacheMount: it is read while nobody uses it, and who comes meanwhile waits for the same copy.
func TestReadCacheMount(t *testing.T) {
	m := openMounts(t)
	absent := func(string) error { return errors.New("read") }
	if err := m.ReadCacheMount(t.Context(), "key", "", nil, absent); !errdefs.IsNotFound(err) {
		t.Errorf("of none: %v", err)
	}
	if _, err := os.Lstat(cacheMountsDir(m.Root())); err == nil {
		t.Error("looking for a cache mount makes one")
	}
	dir, end := m.use("shared")
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	told := 0
	tell := func() {
		told++
		time.AfterFunc(3*copyPause, cancel)
	}
	if err := m.ReadCacheMount(ctx, "key", "", tell, absent); !errors.Is(err, context.Canceled) || told != 1 {
		t.Errorf("while it is in use: %v, told %d times", err, told)
	}
	end()
	got := make(chan string)
	err := m.ReadCacheMount(t.Context(), "key", "", nil, func(read string) error {
		if read != dir {
			t.Errorf("reads %s, not %s", read, dir)
		}
		waits := make(chan bool)
		go func() {
			other, end, err := m.CacheMount(t.Context(), "key", "", "shared", func() { close(waits) }, nil)
			if err == nil {
				err = end()
			}
			if err != nil {
				t.Error(err)
			}
			got <- other
		}()
		<-waits
		return nil
	})
	if other := <-got; err != nil || other != dir {
		t.Errorf("who waited got %s, not %s; %v", other, dir, err)
	}
}
