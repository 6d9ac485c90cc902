package container

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/containerd/errdefs"
)

// LogLine is a line of a log, or a part of a long one.
type LogLine struct {
	Text   string
	Stream string // stdout or stderr
	Time   time.Time
	Attrs  map[string]string // of labels and variables that the log was told to keep
}

// LogOptions say what to read of a log.
type LogOptions struct {
	Tail         int       // at most so many of the last lines; negative is all
	Since, Until time.Time // zero is any
	Follow       bool      // wait for more until the container has ended
	Each         func(LogLine) error
}

// pollLog is how often a log that is followed is looked at.
const pollLog = 20 * time.Millisecond

// ReadLog reads a container's log, the oldest line first.
func (t *Table) ReadLog(ctx context.Context, c *Container, o LogOptions) error {
	if c.Spec.HostConfig.LogConfig.Type == "none" {
		return errorText{"configured logging driver does not support reading", errdefs.ErrNotImplemented}
	}
	r := &logReader{table: t, container: c, options: o}
	err := r.read(ctx)
	if r.file != nil {
		err = errors.Join(err, r.file.Close())
	}
	if errors.Is(err, errUntil) {
		err = nil
	}
	if err != nil {
		return fmt.Errorf("read log: %w", err)
	}
	return nil
}

// errUntil says that the lines from here on are later than was asked for.
var errUntil = errors.New("until")

type logReader struct {
	table     *Table
	container *Container
	options   LogOptions
	file      *os.File // the one that is written to
	lines     *bufio.Reader
	part      []byte // of a line that is being written
}

func (r *logReader) read(ctx context.Context) error {
	path := r.table.LogPath(r.container.ID)
	older, err := r.older(path)
	if err != nil {
		return err
	}
	if err := r.open(path); err != nil {
		return errors.Join(err, closeAll(older))
	}
	var tail [][]byte
	keep := func(line []byte) error {
		if r.options.Tail < 0 {
			return r.give(line)
		}
		if tail = append(tail, bytes.Clone(line)); len(tail) > 2*r.options.Tail+1000 {
			tail = append([][]byte{}, tail[len(tail)-r.options.Tail:]...)
		}
		return nil
	}
	for _, f := range older {
		err = errors.Join(err, eachLine(bufio.NewReaderSize(f, 64<<10), &[]byte{}, keep))
	}
	if err := errors.Join(err, closeAll(older)); err != nil {
		return err
	}
	if r.file != nil {
		if err := eachLine(r.lines, &r.part, keep); err != nil {
			return err
		}
	}
	for _, line := range tail[max(0, len(tail)-max(r.options.Tail, 0)):] {
		if err := r.give(line); err != nil {
			return err
		}
	}
	if !r.options.Follow {
		return nil
	}
	return r.follow(ctx, path)
}

// older opens the files that were written before, the oldest first.
func (r *logReader) older(path string) (files []*os.File, err error) {
	for n := 1; ; n++ {
		f, err := os.Open(fmt.Sprintf("%s.%d", path, n))
		if errors.Is(err, os.ErrNotExist) {
			return files, nil
		}
		if err != nil {
			return nil, errors.Join(err, closeAll(files))
		}
		files = append([]*os.File{f}, files...)
	}
}

func closeAll(files []*os.File) (err error) {
	for _, f := range files {
		err = errors.Join(err, f.Close())
	}
	return err
}

// open opens the file that is written to, which may not be there yet.
func (r *logReader) open(path string) error {
	f, err := os.Open(path)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	r.file, r.lines, r.part = f, bufio.NewReaderSize(f, 64<<10), nil
	return nil
}

// eachLine calls fn for each whole line; what was read of the last one stays in part.
func eachLine(lines *bufio.Reader, part *[]byte, fn func([]byte) error) error {
	for {
		line, err := lines.ReadSlice('\n')
		if errors.Is(err, bufio.ErrBufferFull) {
			*part = append(*part, line...)
			continue
		}
		if errors.Is(err, io.EOF) {
			*part = append(*part, line...)
			return nil
		}
		if err != nil {
			return err
		}
		if len(*part) > 0 {
			line = append(*part, line...)
			*part = (*part)[:0]
		}
		if err := fn(line); err != nil {
			return err
		}
	}
}

// give tells of a line, if it is of the time that was asked for. One that cannot be read is passed over: a crash may cut one short.
func (r *logReader) give(line []byte) error {
	var e struct {
		logEntry
		Attrs map[string]string `json:"attrs"`
	}
	if err := json.Unmarshal(line, &e); err != nil {
		return nil //nolint:nilerr // see above
	}
	if e.Time.Before(r.options.Since) {
		return nil
	}
	if !r.options.Until.IsZero() && e.Time.After(r.options.Until) {
		return errUntil
	}
	return r.options.Each(LogLine{Text: e.Log, Stream: e.Stream, Time: e.Time, Attrs: e.Attrs})
}

// follow reads on until the container has ended.
func (r *logReader) follow(ctx context.Context, path string) error {
	until := r.options.Until
	ended := r.awaitEnd(ctx)
	for {
		over := false
		select {
		case <-ended:
			over = true
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-time.After(pollLog):
		}
		if err := r.more(path); err != nil {
			return err
		}
		if over || !until.IsZero() && time.Now().After(until) {
			return nil
		}
	}
}

// awaitEnd returns a channel that is closed when the container has ended.
func (r *logReader) awaitEnd(ctx context.Context) <-chan struct{} {
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		if r.container.State.Running() {
			_, _ = r.table.Call(ctx, r.container.ID, Request{Op: OpWait}) // however it ended
		}
	}()
	return ended
}

// more reads what was written since, and goes on in the next file where there is one.
func (r *logReader) more(path string) error {
	for {
		if r.file == nil {
			if err := r.open(path); err != nil || r.file == nil {
				return err
			}
		}
		// Before the old file is read to its end: nothing is written to it after the rename.
		current, err := os.Stat(path)
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
		own, err := r.file.Stat()
		if err != nil {
			return err
		}
		if err := eachLine(r.lines, &r.part, r.give); err != nil {
			return err
		}
		if current == nil || os.SameFile(current, own) {
			return nil
		}
		if err := r.file.Close(); err != nil {
			return err
		}
		r.file = nil
	}
}
