package executor

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"

	"golang.org/x/sys/unix"
)

// runc and crun begin with a copy of themselves in memory that nobody can write to, and run that instead, so that a container cannot
// change the program that is on the host's disk (CVE-2019-5736). They do not copy what is such a copy already.

// seals are those that the runtimes look for.
const seals = unix.F_SEAL_SEAL | unix.F_SEAL_SHRINK | unix.F_SEAL_GROW | unix.F_SEAL_WRITE

// sealedCopy copies a program to such a file; its name runs it, as long as it is open. It fails for scripts, which their interpreters
// would not find.
func sealedCopy(program string) (_ *os.File, err error) {
	const flags = unix.MFD_CLOEXEC | unix.MFD_ALLOW_SEALING
	fd, err := unix.MemfdCreate("runtime", flags|unix.MFD_EXEC)
	if errors.Is(err, unix.EINVAL) { // before Linux 6.3
		fd, err = unix.MemfdCreate("runtime", flags)
	}
	if err != nil {
		return nil, err
	}
	sealed := os.NewFile(uintptr(fd), fmt.Sprintf("/proc/self/fd/%d", fd))
	defer func() {
		if err != nil {
			_ = sealed.Close() // is in memory
		}
	}()
	from, err := os.Open(program)
	if err != nil {
		return nil, err
	}
	defer func() { _ = from.Close() }() // only read
	magic := make([]byte, 4)
	if _, err := from.ReadAt(magic, 0); err != nil || !bytes.Equal(magic, []byte("\x7fELF")) {
		return nil, fmt.Errorf("%s is no binary: %w", program, errors.Join(err, errors.ErrUnsupported))
	}
	if _, err := io.Copy(sealed, from); err != nil {
		return nil, err
	}
	_, err = unix.FcntlInt(uintptr(fd), unix.F_ADD_SEALS, seals)
	return sealed, err
}
