package store

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"strake/internal/flock"
)

// BuildJournal is the file that tells of a build while that goes on: what was written
// to it is there when the process dies. Its lock says that the build's process lives.
// It is for one goroutine at a time.
type BuildJournal struct {
	path string // without its ending
	f    *os.File
}

// BeginBuild makes the journal of a build. SaveBuild and RemoveBuild remove it; the
// caller closes it.
func (b *builds) BeginBuild(id string) (*BuildJournal, error) {
	j := &BuildJournal{path: filepath.Join(b.dir(), id)}
	err := os.MkdirAll(b.dir(), 0o700)
	if err == nil {
		err = j.Restart(nil)
	}
	if err != nil {
		return nil, fmt.Errorf("journal of the build: %w", err)
	}
	return j, nil
}

// Write adds p to the journal, with one write.
func (j *BuildJournal) Write(p []byte) (int, error) { return j.f.Write(p) }

// Restart has the journal hold p alone. Whoever reads it finds what was there, or p.
func (j *BuildJournal) Restart(p []byte) (err error) {
	f, err := os.OpenFile(j.path+".new", os.O_RDWR|os.O_CREATE|os.O_TRUNC|os.O_APPEND, 0o600)
	if err != nil {
		return err
	}
	if err = flock.Try(f, flock.Exclusive); err == nil {
		_, err = f.Write(p)
	}
	if err == nil {
		err = os.Rename(j.path+".new", j.path+".live")
	}
	if err != nil {
		return errors.Join(err, f.Close())
	}
	before := j.f
	if j.f = f; before != nil {
		return before.Close()
	}
	return nil
}

// Close ends the build as if its process had died; what was written stays.
func (j *BuildJournal) Close() error { return j.f.Close() }

// UnfinishedBuild is a build that has a journal and no record.
type UnfinishedBuild struct {
	ID      string
	Running bool      // else its process died
	Time    time.Time // of the last write
}

// UnfinishedBuilds lists the builds that go on, or whose process died, that whose
// journal was written to last first.
func (b *builds) UnfinishedBuilds(ctx context.Context) (list []UnfinishedBuild, err error) {
	all, err := b.list()
	for _, k := range all {
		if k.live && err == nil {
			u := UnfinishedBuild{ID: k.id, Time: k.time}
			u.Running, err = b.running(k)
			list = append(list, u)
		}
	}
	if err = errors.Join(err, ctx.Err()); err != nil {
		return nil, fmt.Errorf("history of builds: %w", err)
	}
	return list, nil
}

// OpenBuildJournal opens the journal of a build; nil where it has none, or none any
// more. The caller closes it.
func (b *builds) OpenBuildJournal(id string) (io.ReadCloser, error) {
	f, err := os.Open(filepath.Join(b.dir(), id+".live"))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("journal of build %s: %w", id, err)
	}
	return f, nil
}
