package container

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"time"

	"github.com/containerd/errdefs"
	"github.com/docker/go-units"
)

// maxLine is where docker cuts long lines of a log.
const maxLine = 16 << 10

// A Log is a container's log in docker's json-file format: a JSON object a line, with the text, the stream and the time. It is
// safe for concurrent use.
type Log struct {
	mu       sync.Mutex
	path     string
	file     *os.File
	size     int64
	torn     bool  // the file ends within an entry
	maxSize  int64 // 0: any
	maxFiles int
	attrs    json.RawMessage
	buf      bytes.Buffer
}

// logEntry is a line of the file.
type logEntry struct {
	Log    string          `json:"log"`
	Stream string          `json:"stream"`
	Attrs  json.RawMessage `json:"attrs,omitempty"`
	Time   time.Time       `json:"time"`
}

// LogPath is where the log of a container is.
func (t *Table) LogPath(id string) string { return filepath.Join(t.Path(id), id+"-json.log") }

// OpenLog opens the log of a container for writing; nil where it keeps none.
func (t *Table) OpenLog(c *Container) (*Log, error) {
	config := c.Spec.HostConfig.LogConfig
	if config.Type == "none" {
		return nil, nil
	}
	maxSize, maxFiles, err := ParseLogOptions(config.Config)
	if err != nil {
		return nil, err
	}
	l := &Log{path: t.LogPath(c.ID), maxSize: maxSize, maxFiles: maxFiles}
	if l.file, err = openLog(l.path, os.O_APPEND); err != nil {
		return nil, err
	}
	info, err := l.file.Stat()
	if err != nil {
		return nil, errors.Join(err, l.file.Close())
	}
	if l.size = info.Size(); l.size > 0 {
		last := make([]byte, 1)
		if _, err := l.file.ReadAt(last, l.size-1); err != nil {
			return nil, errors.Join(fmt.Errorf("open log: %w", err), l.file.Close())
		}
		l.torn = last[0] != '\n'
	}
	return l, nil
}

// ParseLogOptions reads what docker's json-file takes: how large a file gets, 0 for any size, and how many there are. It fails with
// errdefs.ErrInvalidArgument.
func ParseLogOptions(options map[string]string) (maxSize int64, maxFiles int, err error) {
	maxFiles = 1
	if text := options["max-size"]; text != "" && text != "-1" { // docker's default, which is unlimited
		if maxSize, err = units.FromHumanSize(text); err == nil && maxSize <= 0 {
			err = errors.New("must be a positive number")
		}
		if err != nil {
			return 0, 0, errorText{"log option max-size: " + err.Error(), errdefs.ErrInvalidArgument}
		}
	}
	if text := options["max-file"]; text != "" {
		if maxFiles, err = strconv.Atoi(text); err == nil && maxFiles < 1 {
			err = errors.New("cannot be less than 1")
		}
		if err != nil {
			return 0, 0, errorText{"log option max-file: " + err.Error(), errdefs.ErrInvalidArgument}
		}
	}
	return maxSize, maxFiles, nil
}

func openLog(path string, flags int) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|flags, 0o600)
	if err != nil {
		return nil, fmt.Errorf("open log: %w", err)
	}
	return f, nil
}

// Close closes the file.
func (l *Log) Close() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.file.Close()
}

// add writes one entry, to the old file where a new one cannot be begun.
func (l *Log) add(stream string, text []byte, at time.Time) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.buf.Reset()
	enc := json.NewEncoder(&l.buf)
	enc.SetEscapeHTML(true) // as docker's files have it
	if err := enc.Encode(logEntry{string(text), stream, l.attrs, at.UTC()}); err != nil {
		return err
	}
	var rotateErr error
	if l.maxSize > 0 && l.size > 0 && l.size+int64(l.buf.Len()) > l.maxSize {
		rotateErr = l.rotate()
	}
	entry := l.buf.Bytes()
	if l.torn {
		entry = append([]byte{'\n'}, entry...)
	}
	n, err := l.file.Write(entry)
	if n > 0 {
		l.size += int64(n)
		l.torn = entry[n-1] != '\n'
	}
	return errors.Join(rotateErr, err)
}

// rotate begins a new file; the older ones are path.1, path.2 and so on. Where it fails the old file is written on.
func (l *Log) rotate() error {
	fresh, err := openLog(l.path+".new", os.O_APPEND|os.O_TRUNC)
	if err != nil {
		return err
	}
	for n := l.maxFiles - 1; n > 0 && err == nil; n-- {
		from := l.path
		if n > 1 {
			from = fmt.Sprintf("%s.%d", l.path, n-1)
		}
		if renameErr := os.Rename(from, fmt.Sprintf("%s.%d", l.path, n)); !errors.Is(renameErr, os.ErrNotExist) {
			err = renameErr
		}
	}
	if err == nil {
		err = os.Rename(fresh.Name(), l.path)
	}
	if err != nil {
		return errors.Join(err, fresh.Close())
	}
	old := l.file
	l.file, l.size, l.torn = fresh, 0, false
	return old.Close()
}

// stream writes what a stream of a process says, line by line.
type stream struct {
	log  *Log
	name string
	part []byte // of a line that has not ended
}

func (s *stream) write(data []byte) error {
	if s.log == nil {
		return nil
	}
	at := time.Now()
	for len(data) > 0 {
		n := bytes.IndexByte(data, '\n') + 1
		end := n > 0
		if !end {
			n = len(data)
		}
		if room := maxLine - len(s.part); n > room {
			n, end = room, true
		}
		s.part = append(s.part, data[:n]...)
		data = data[n:]
		if end || len(s.part) == maxLine {
			if err := s.flush(at); err != nil {
				return err
			}
		}
	}
	return nil
}

// flush writes what was said of a line so far.
func (s *stream) flush(at time.Time) error {
	if s.log == nil || len(s.part) == 0 {
		return nil
	}
	err := s.log.add(s.name, s.part, at)
	s.part = s.part[:0]
	return err
}
