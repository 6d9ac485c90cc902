package store

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/containerd/errdefs"

	"strake/internal/flock"
)

// Bounds of the history of builds; what is over them goes, the oldest first, when
// so many are over, or with a big one: to look at them all is a good part of what
// a build takes that finds every step.
const (
	maxBuilds     = 100
	maxBuildBytes = 128 << 20
	spareBuilds   = 20
	bigBuild      = 1 << 20
)

// builds keeps what was built: a file builds/<id>.json for each build, and
// <id>.log, with what its steps printed; before those, <id>.live, its journal while it
// goes on, which stays of a build whose process died. Losing the last of them to a loss
// of power costs nothing that is needed, so nothing here waits for the disk.
type builds struct{ root string }

func (b *builds) dir() string { return filepath.Join(b.root, "builds") }

// SaveBuild keeps the record of a build, and its log unless that is empty, removes
// its journal, and old builds that are too many. id is a file name. The record appears
// whole or not at all.
func (b *builds) SaveBuild(ctx context.Context, id string, value, log []byte) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	path := filepath.Join(b.dir(), id)
	err := os.MkdirAll(b.dir(), 0o700)
	if err == nil && len(log) > 0 {
		err = os.WriteFile(path+".log", log, 0o600)
	}
	if err == nil {
		err = os.WriteFile(path+".new", value, 0o600)
	}
	if err == nil {
		err = os.Rename(path+".new", path+".json")
	}
	if err == nil {
		err = remove(path + ".live")
	}
	if err != nil {
		return errors.Join(fmt.Errorf("keep the record of the build: %w", err), b.RemoveBuild(id))
	}
	entries, err := readDir(b.dir())
	if err != nil {
		return fmt.Errorf("history of builds: %w", err)
	}
	records := 0
	for _, e := range entries {
		if strings.HasSuffix(e.Name(), ".json") {
			records++
		}
	}
	if records > maxBuilds+spareBuilds || len(value)+len(log) > bigBuild {
		return b.trim()
	}
	return nil
}

// Builds are the records of the builds, the newest first.
func (b *builds) Builds(ctx context.Context) (values [][]byte, err error) {
	ids, err := b.ids()
	for _, id := range ids {
		if err == nil {
			err = ctx.Err()
		}
		if err != nil {
			break
		}
		value, readErr := os.ReadFile(filepath.Join(b.dir(), id+".json"))
		if errors.Is(readErr, fs.ErrNotExist) {
			continue // removed since
		}
		values, err = append(values, value), readErr
	}
	if err != nil {
		return nil, fmt.Errorf("history of builds: %w", err)
	}
	return values, nil
}

// BuildLog is the log of a build; empty where it has none.
func (b *builds) BuildLog(id string) ([]byte, error) {
	log, err := os.ReadFile(filepath.Join(b.dir(), id+".log"))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("log of build %s: %w", id, err)
	}
	return log, nil
}

// RemoveBuild removes what is kept of a build, the record first.
func (b *builds) RemoveBuild(id string) error {
	if id == "" || filepath.Base(id) != id {
		return fmt.Errorf("build %q: %w", id, errdefs.ErrInvalidArgument)
	}
	for _, end := range []string{".json", ".live", ".log", ".new"} {
		if err := remove(filepath.Join(b.dir(), id+end)); err != nil {
			return fmt.Errorf("remove the record of the build: %w", err)
		}
	}
	return nil
}

// remove removes a file that may not be there.
func remove(path string) error {
	if err := os.Remove(path); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// kept is what is kept of one build.
type kept struct {
	id     string
	time   time.Time // when the record was made; the newest file's where there is none
	bytes  int64
	disk   int64 // bytes that they take
	record bool
	live   bool // it has a journal and no record
}

// list lists the builds, the newest first.
func (b *builds) list() ([]kept, error) {
	entries, err := readDir(b.dir())
	if err != nil {
		return nil, err
	}
	byID := map[string]*kept{}
	for _, e := range entries {
		info, err := e.Info()
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, err
		}
		end := filepath.Ext(e.Name())
		id := strings.TrimSuffix(e.Name(), end)
		if byID[id] == nil {
			byID[id] = &kept{id: id}
		}
		k := byID[id]
		k.bytes, k.disk = k.bytes+info.Size(), k.disk+blocks(info)
		if end == ".json" || !k.record {
			k.time, k.record = info.ModTime(), end == ".json"
		}
		k.live = !k.record && (k.live || end == ".live")
	}
	list := make([]kept, 0, len(byID))
	for _, k := range byID {
		list = append(list, *k)
	}
	slices.SortFunc(list, func(x, y kept) int { return y.time.Compare(x.time) })
	return list, nil
}

func (b *builds) ids() (ids []string, err error) {
	list, err := b.list()
	for _, k := range list {
		if k.record {
			ids = append(ids, k.id)
		}
	}
	return ids, err
}

// finished lists the builds that have a record, or a journal and no process, the oldest first.
func (b *builds) finished() ([]kept, error) {
	list, err := b.list()
	over := list[:0]
	for _, k := range list {
		running, heldErr := b.running(k)
		if !running && (k.record || k.live) {
			over = append(over, k)
		}
		err = errors.Join(err, heldErr)
	}
	slices.Reverse(over)
	return over, err
}

// running reports whether the process of a build lives.
func (b *builds) running(k kept) (bool, error) {
	if !k.live {
		return false, nil
	}
	return flock.Held(filepath.Join(b.dir(), k.id+".live"), flock.Shared)
}

// trim removes what is over the bounds, and what a build left that died while its
// record was made.
func (b *builds) trim() error {
	list, err := b.list()
	if err != nil {
		return fmt.Errorf("history of builds: %w", err)
	}
	var count int
	var bytes int64
	for _, k := range list {
		running, err := b.running(k)
		if err != nil {
			return fmt.Errorf("history of builds: %w", err)
		}
		if running {
			continue
		}
		over := !k.record && !k.live && time.Since(k.time) > time.Hour
		if !over {
			count, bytes = count+1, bytes+k.bytes
			over = count > maxBuilds || count > 1 && bytes > maxBuildBytes
		}
		if over {
			if err := b.RemoveBuild(k.id); err != nil {
				return err
			}
		}
	}
	return nil
}
