package container

import (
	"bufio"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/containerd/errdefs"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"strake/internal/executor"
)

// What goes over a monitor's socket is frames: the kind, three zero bytes, the length (big endian) and so many bytes, as in
// docker's streams. A connection begins with a request; what follows depends on that.
const (
	frameStdin   byte = iota // to the process; an empty one is the end
	frameStdout              // of the process
	frameStderr              // of the process
	frameRequest             // a Request as JSON, the first frame of a connection
	frameReply               // a Reply as JSON
	frameResize              // an executor.Size as JSON, of the attached terminal
)

// maxFrame bounds a frame. Streams are cut into smaller ones.
const maxFrame = 4 << 20

// Operations of a Request.
const (
	OpAttach = "attach" // streams until the process ends: the reply is its exit
	OpWait   = "wait"   // the reply is the exit of the container, after all restarts
	OpSignal = "signal"
	OpStop   = "stop" // a signal, and after a time SIGKILL; the reply comes when it is over
	OpPause  = "pause"
	OpResume = "unpause"
	OpExec   = "exec"
	OpReload = "reload" // the record was changed
	OpUpdate = "update" // change the limits
	OpDrop   = "drop"   // give up clients that do not read what there is for them

	opLaunch = "launch" // look after a container: what a monitor that was started ahead is told first, with two files
)

// Request is what a client asks of a monitor.
type Request struct {
	Op      string
	ID      string // launch
	Stdin   bool   // attach
	Output  bool   // attach
	Signal  int
	Timeout time.Duration      // of stop; negative is for ever
	Remove  bool               // of stop: nothing of the container is needed any more
	Exec    *executor.ExecSpec `json:",omitempty"` // its files go with the request
	Size    *executor.Size     `json:",omitempty"` // of the terminal

	Resources *specs.LinuxResources `json:",omitempty"` // update
}

// Reply is what a monitor answers.
type Reply struct {
	Started bool   // the container was started; more will come
	Code    int    // the exit code, or docker's for a container that could not be started
	Error   string // what failed; "" if nothing did
	Kind    string // of the error: that of errdefs
}

// kinds are the kinds of errors that are told apart over the socket.
var kinds = map[string]error{
	"not found": errdefs.ErrNotFound, "conflict": errdefs.ErrConflict, "invalid": errdefs.ErrInvalidArgument,
	"permission": errdefs.ErrPermissionDenied, "precondition": errdefs.ErrFailedPrecondition, "unavailable": errdefs.ErrUnavailable,
}

// failure is the reply for an error.
func failure(err error) Reply {
	r := Reply{Error: err.Error()}
	if start, ok := errors.AsType[*executor.StartError](err); ok {
		r.Code, r.Error = start.Code, start.Message
	}
	for name, kind := range kinds {
		if errors.Is(err, kind) {
			r.Kind = name
		}
	}
	return r
}

// Err is the error of a reply, nil where there is none.
func (r Reply) Err() error {
	if r.Error == "" {
		return nil
	}
	kind := kinds[r.Kind]
	if kind == nil {
		kind = errdefs.ErrUnknown
	}
	if r.Code == 0 {
		return errorText{r.Error, kind}
	}
	return &executor.StartError{Code: r.Code, Message: r.Error, Err: kind}
}

// A Conn is one end of a connection to a monitor. One goroutine may read while others write.
type Conn struct {
	conn  *net.UnixConn
	in    *bufio.Reader
	mu    sync.Mutex // held while a frame is written
	files []*os.File // that came with what was read
}

func newConn(c *net.UnixConn) *Conn {
	conn := &Conn{conn: c}
	conn.in = bufio.NewReaderSize(readerFunc(conn.receive), 64<<10)
	return conn
}

type readerFunc func([]byte) (int, error)

func (f readerFunc) Read(p []byte) (int, error) { return f(p) }

// receive reads bytes, and takes the files that come with them.
func (c *Conn) receive(p []byte) (int, error) {
	rights := make([]byte, unix.CmsgSpace(3*4))
	n, oobn, _, _, err := c.conn.ReadMsgUnix(p, rights)
	if err != nil {
		return max(n, 0), err
	}
	if n == 0 {
		return 0, io.EOF
	}
	messages, err := unix.ParseSocketControlMessage(rights[:oobn])
	if err != nil {
		return n, err
	}
	for i := range messages {
		fds, err := unix.ParseUnixRights(&messages[i])
		if err != nil {
			return n, err
		}
		for _, fd := range fds {
			unix.CloseOnExec(fd)
			c.files = append(c.files, os.NewFile(uintptr(fd), "passed"))
		}
	}
	return n, nil
}

// takeFiles hands over the files that came so far.
func (c *Conn) takeFiles() []*os.File {
	files := c.files
	c.files = nil
	return files
}

// Close ends the connection.
func (c *Conn) Close() error { return c.conn.Close() }

// write sends one frame, with files.
func (c *Conn) write(kind byte, data []byte, files ...*os.File) error {
	frame := make([]byte, 8, 8+len(data))
	frame[0] = kind
	binary.BigEndian.PutUint32(frame[4:], uint32(len(data)))
	frame = append(frame, data...)
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(files) == 0 {
		_, err := c.conn.Write(frame)
		return err
	}
	fds := make([]int, len(files))
	for i, f := range files {
		fds[i] = int(f.Fd())
	}
	n, _, err := c.conn.WriteMsgUnix(frame, unix.UnixRights(fds...), nil)
	if err == nil && n < len(frame) {
		_, err = c.conn.Write(frame[n:])
	}
	return err
}

func (c *Conn) writeJSON(kind byte, v any, files ...*os.File) error {
	b, err := json.Marshal(v)
	if err != nil {
		return err
	}
	return c.write(kind, b, files...)
}

// read receives one frame; io.EOF is the end.
func (c *Conn) read() (kind byte, data []byte, err error) {
	var header [8]byte
	if _, err := io.ReadFull(c.in, header[:]); err != nil {
		return 0, nil, err
	}
	n := binary.BigEndian.Uint32(header[4:])
	if n > maxFrame {
		return 0, nil, fmt.Errorf("a frame of %d bytes: %w", n, errdefs.ErrOutOfRange)
	}
	data = make([]byte, n)
	_, err = io.ReadFull(c.in, data)
	return header[0], data, err
}

// socketName is the name of a monitor's socket in the container's directory.
const socketName = "monitor.sock"

// shortPath is a path of a file in a directory that a socket's address has room for. It is good until done is called.
func shortPath(dir, name string) (path string, done func(), err error) {
	f, err := os.OpenFile(dir, unix.O_PATH|unix.O_DIRECTORY, 0)
	if err != nil {
		return "", nil, err
	}
	return filepath.Join(fmt.Sprintf("/proc/self/fd/%d", f.Fd()), name), func() { _ = f.Close() }, nil
}

// Pair makes a connection whose other end can be given to a process that is started.
func Pair() (own *Conn, other *os.File, err error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, fmt.Errorf("make a connection: %w", err)
	}
	mine := os.NewFile(uintptr(fds[0]), "own")
	other = os.NewFile(uintptr(fds[1]), "monitor")
	own, err = FileConn(mine)
	if err != nil {
		return nil, nil, errors.Join(err, other.Close())
	}
	return own, other, nil
}

// FileConn makes a Conn of a socket, which it closes.
func FileConn(f *os.File) (*Conn, error) {
	c, err := net.FileConn(f)
	if err = errors.Join(err, f.Close()); err != nil {
		return nil, fmt.Errorf("make a connection: %w", err)
	}
	u, ok := c.(*net.UnixConn)
	if !ok {
		return nil, fmt.Errorf("make a connection of a %T: %w", c, errors.Join(errdefs.ErrInvalidArgument, c.Close()))
	}
	return newConn(u), nil
}
