package executor

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
	"golang.org/x/term"
)

// A consoleListener takes the terminal that a runtime makes for a process. The runtime could copy between that and its own streams, but
// crun ends with the process and does not look whether there is output left.
type consoleListener struct {
	path     string   // for the runtime; as that of any socket it must be short
	dir      *os.File // which path goes through
	listener *net.UnixListener
	taken    chan error
}

// listenConsole listens at a name in a directory, and calls use with the terminal that comes. The caller calls close.
func listenConsole(dir, name string, use func(console *os.File)) (*consoleListener, error) {
	if err := removeAll(filepath.Join(dir, name)); err != nil {
		return nil, fmt.Errorf("make a terminal: %w", err)
	}
	f, err := os.Open(dir)
	if err != nil {
		return nil, fmt.Errorf("make a terminal: %w", err)
	}
	l := &consoleListener{path: fmt.Sprintf("/proc/%d/fd/%d/%s", os.Getpid(), f.Fd(), name), dir: f, taken: make(chan error, 1)}
	if l.listener, err = net.ListenUnix("unix", &net.UnixAddr{Name: l.path, Net: "unix"}); err != nil {
		return nil, errors.Join(fmt.Errorf("make a terminal: %w", err), f.Close())
	}
	go func() {
		console, err := receiveConsole(l.listener)
		if err == nil {
			use(console)
		}
		l.taken <- err
	}()
	return l, nil
}

// args are the runtime's.
func (l *consoleListener) args() []string { return []string{"--console-socket", l.path} }

// close ends what listenConsole began, when the runtime has ended or has told that all is well: what it sent is taken. It fails where it
// sent nothing.
func (l *consoleListener) close() error {
	if !l.pending() {
		_ = l.listener.Close() // nobody will connect
	}
	err := <-l.taken
	_ = l.listener.Close() // what came of it is known
	_ = l.dir.Close()      // a name only
	if err != nil {
		return fmt.Errorf("make a terminal: %w", err)
	}
	return nil
}

// pending reports whether the runtime has connected and nobody has looked.
func (l *consoleListener) pending() bool {
	conn, err := l.listener.SyscallConn()
	if err != nil {
		return false
	}
	n := 0
	err = conn.Control(func(fd uintptr) { n, _ = unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, 0) })
	return err == nil && n > 0
}

// receiveConsole takes the terminal that the runtime sends.
func receiveConsole(l *net.UnixListener) (*os.File, error) {
	if err := l.SetDeadline(time.Now().Add(destroyTimeout)); err != nil {
		return nil, err
	}
	conn, err := l.AcceptUnix()
	if err != nil {
		return nil, err
	}
	defer func() { _ = conn.Close() }() // nothing is sent
	data, rights := make([]byte, 4096), make([]byte, unix.CmsgSpace(4))
	_, n, _, _, err := conn.ReadMsgUnix(data, rights)
	if err != nil {
		return nil, err
	}
	messages, err := unix.ParseSocketControlMessage(rights[:n])
	if err != nil || len(messages) != 1 {
		return nil, fmt.Errorf("%d control messages: %w", len(messages), errors.Join(err, errdefs.ErrUnknown))
	}
	fds, err := unix.ParseUnixRights(&messages[0])
	if err != nil || len(fds) != 1 {
		return nil, fmt.Errorf("%d descriptors: %w", len(fds), errors.Join(err, errdefs.ErrUnknown))
	}
	unix.CloseOnExec(fds[0])
	if err := unix.SetNonblock(fds[0], true); err != nil {
		return nil, err
	}
	return os.NewFile(uintptr(fds[0]), "console"), nil
}

// A relay copies between the terminal of a process and the streams of who runs it. An input that is a terminal itself becomes its window.
type relay struct {
	stdin  io.Reader // nil: none; one that is no terminal may block for ever and is not waited for
	stdout io.Writer // nil: discarded
	window *os.File  // stdin, if that is a terminal

	mu      sync.Mutex
	console *os.File // nil: it has not come
	size    *Size    // last told of; nil: none

	tail    *Tail
	copying sync.WaitGroup
	typing  sync.WaitGroup
	stop    *os.File    // closed when what is typed is not read any more; nil: it never was
	cooked  *term.State // of the window before
}

// join says what is joined to the terminal; without it what the process writes is discarded.
func (r *relay) join(stdin io.Reader, stdout io.Writer) {
	r.stdin, r.stdout = stdin, stdout
	if isTerminal(stdin) {
		r.window, _ = stdin.(*os.File)
	}
	r.follow()
}

// begin takes the terminal of the process.
func (r *relay) begin(console *os.File) {
	r.mu.Lock()
	r.console = console
	if r.size != nil {
		_ = SetSize(console, *r.size) // it may have ended
	}
	r.mu.Unlock()
	if r.window != nil { // raw before anything is written to it
		r.watch()
	} else if r.stdin != nil {
		go func() { _, _ = io.Copy(console, r.stdin) }() // ends with the terminal
	}
	r.tail = NewTail(console, execGrace)
	r.copying.Go(func() {
		if r.stdout != nil {
			_, _ = io.Copy(r.stdout, r.tail) // a terminal ends with EIO
		}
		_, _ = io.Copy(io.Discard, r.tail) // nobody may read it any more: the process goes on
	})
}

// watch passes on what is typed in the window, as it is typed.
func (r *relay) watch() {
	stopped, stop, err := os.Pipe()
	if err != nil {
		return // without descriptors there is no input
	}
	fd := int(r.window.Fd())
	r.stop = stop
	r.cooked, _ = term.MakeRaw(fd) // it may be gone
	r.typing.Go(func() {
		defer func() { _ = stopped.Close() }() // nothing is written
		buf := make([]byte, 4096)
		for {
			wait := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}, {Fd: int32(stopped.Fd())}}
			if _, err := unix.Poll(wait, -1); errors.Is(err, unix.EINTR) {
				continue
			} else if err != nil || wait[1].Revents != 0 {
				return
			}
			n, err := r.window.Read(buf)
			if err != nil {
				return // the window is closed; the process goes on
			}
			if _, err := r.console.Write(buf[:n]); err != nil {
				return // the process has ended
			}
		}
	})
}

// follow gives the process's terminal the size of its window, if there is one.
func (r *relay) follow() {
	if r.window == nil {
		return
	}
	if width, height, err := term.GetSize(int(r.window.Fd())); err == nil && width > 0 && height > 0 {
		r.resize(Size{Width: uint16(width), Height: uint16(height)})
	}
}

// resize tells the process of the size of its terminal.
func (r *relay) resize(size Size) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.size = &size
	if r.console != nil {
		_ = SetSize(r.console, size) // it may have ended
	}
}

// end waits until all that the process, which has ended, wrote is copied, and gives the window back as it was.
func (r *relay) end() {
	if r.console == nil {
		return
	}
	r.tail.End()
	r.copying.Wait()
	_ = r.console.Close() // nothing is buffered
	if r.stop != nil {
		_ = r.stop.Close() // nothing is written
		r.typing.Wait()
	}
	if r.cooked != nil {
		_ = term.Restore(int(r.window.Fd()), r.cooked) // it may be gone
	}
}

// connectConsole is connect of a run for a terminal that the runtime sends.
func connectConsole(x *run, cmd *exec.Cmd) (finish func(), err error) {
	var r relay
	r.join(x.spec.Stdin, x.spec.Stdout)
	var l *consoleListener
	err = x.inside(func() (err error) { // where the bundle is
		l, err = listenConsole(x.spec.Bundle, consoleSocket, r.begin)
		return err
	})
	if err != nil {
		return nil, err
	}
	cmd.Args = slices.Insert(cmd.Args, len(cmd.Args)-1, l.args()...)
	changed, ended := make(chan os.Signal, 1), make(chan struct{})
	signal.Notify(changed, unix.SIGWINCH)
	go func() {
		for {
			select {
			case <-changed:
				r.follow()
			case <-ended:
				return
			}
		}
	}()
	return func() {
		signal.Stop(changed)
		close(ended)
		_ = l.close() // where nothing came the runtime says why
		r.end()
	}, nil
}
