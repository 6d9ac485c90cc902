package executor

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"sync"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

// A terminal is a pseudo terminal for a caller who has none.
type terminal struct {
	master, slave *os.File
	copying       sync.WaitGroup
}

// isTerminal reports whether a stream is a terminal.
func isTerminal(stream any) bool {
	f, ok := stream.(*os.File)
	if !ok || f == nil {
		return false
	}
	_, err := unix.IoctlGetTermios(int(f.Fd()), unix.TCGETS)
	return err == nil
}

// OpenTerminal makes a pseudo terminal: what is written to one end is read from the other, as by a user and by a program.
func OpenTerminal() (user, program *os.File, err error) {
	t, err := openTerminal()
	if err != nil {
		return nil, nil, err
	}
	return t.master, t.slave, nil
}

// CheckStream refuses a file that a process in a container must not be given, as it could open it again by /proc/self/fd and do more
// than was meant: all but pipes and /dev/null, and with terminal the program's end of a pseudo terminal.
func CheckStream(f *os.File, terminal bool) error {
	conn, err := f.SyscallConn()
	if err != nil {
		return err
	}
	var st unix.Stat_t
	var statErr error
	err = conn.Control(func(fd uintptr) { statErr = unix.Fstat(int(fd), &st) })
	if err = errors.Join(err, statErr); err != nil {
		return fmt.Errorf("look at a stream: %w", err)
	}
	const firstSlave, lastSlave = 136, 143 // devices of pseudo terminals
	major, isDevice := unix.Major(st.Rdev), st.Mode&unix.S_IFMT == unix.S_IFCHR
	switch {
	case st.Mode&unix.S_IFMT == unix.S_IFIFO, isDevice && st.Rdev == unix.Mkdev(1, 3):
		return nil
	case terminal && isDevice && major >= firstSlave && major <= lastSlave:
		return nil
	}
	return fmt.Errorf("a stream that is neither a pipe nor a terminal made for it: %w", errdefs.ErrPermissionDenied)
}

// openTerminal makes a pseudo terminal.
func openTerminal() (*terminal, error) {
	master, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		return nil, fmt.Errorf("open a terminal: %w", err)
	}
	slave, err := openSlave(master)
	if err != nil {
		_ = master.Close() // of no use
		return nil, fmt.Errorf("open a terminal: %w", err)
	}
	return &terminal{master: master, slave: slave}, nil
}

// openSlave unlocks and opens the other side of a pseudo terminal.
func openSlave(master *os.File) (*os.File, error) {
	fd := int(master.Fd())
	if err := unix.IoctlSetPointerInt(fd, unix.TIOCSPTLCK, 0); err != nil {
		return nil, err
	}
	n, err := unix.IoctlGetInt(fd, unix.TIOCGPTN)
	if err != nil {
		return nil, err
	}
	return os.OpenFile("/dev/pts/"+strconv.Itoa(n), os.O_RDWR|unix.O_NOCTTY, 0)
}

// join copies between the terminal and the caller's streams. The input may block for ever and is not waited for.
func (t *terminal) join(stdin io.Reader, stdout io.Writer) {
	if stdin != nil {
		go func() { _, _ = io.Copy(t.master, stdin) }() // ends with the terminal
	}
	if stdout == nil {
		stdout = io.Discard
	}
	t.copying.Go(func() { _, _ = io.Copy(stdout, t.master) }) // a terminal ends with EIO
}

// close ends the terminal when everything written to it has been copied.
func (t *terminal) close() {
	_ = t.slave.Close() // the runtime's copy is closed too: the reader sees the end
	t.copying.Wait()
	_ = t.master.Close() // nothing is buffered
}
