package build

import (
	"errors"
	"fmt"
	"io/fs"
	"strconv"

	mode "github.com/tonistiigi/dchapes-mode"

	"strake/internal/archive"
)

// Chmod changes permissions as the --chmod of COPY and ADD does. The umask has
// no part in it.
type Chmod struct {
	bits uint32    // of an octal mode
	set  *mode.Set // of a symbolic one; nil: bits
}

// ParseMode reads what chmod(1) takes: an octal number up to 07777, or symbolic
// clauses such as "u=rwX,go=rX".
func ParseMode(s string) (*Chmod, error) {
	notOctal := fmt.Errorf("invalid chmod parameter: '%v'. it should be octal string and between 0 and 07777", s)
	if n, err := strconv.ParseUint(s, 8, 32); err == nil {
		if n > 0o7777 {
			return nil, notOctal
		}
		return &Chmod{bits: uint32(n)}, nil
	}
	set, err := mode.Parse(s)
	if number := new(strconv.NumError); errors.As(err, &number) {
		return nil, notOctal
	}
	if err != nil {
		return nil, fmt.Errorf("invalid chmod parameter: '%v': %w", s, err)
	}
	return &Chmod{set: &set}, nil
}

// apply is m with the change made to it.
func (c *Chmod) apply(m fs.FileMode) fs.FileMode {
	if c.set != nil {
		return c.set.Apply(m)
	}
	return m.Type() | archive.FileMode(c.bits)
}

// parents is the mode of a directory that is made for what is copied.
func (c *Chmod) parents() fs.FileMode {
	if c == nil || c.set != nil {
		return 0o755
	}
	return fs.FileMode(c.bits & 0o777)
}

func toBits(m fs.FileMode) uint32 {
	bits := uint32(m.Perm())
	if m&fs.ModeSetuid != 0 {
		bits |= 0o4000
	}
	if m&fs.ModeSetgid != 0 {
		bits |= 0o2000
	}
	if m&fs.ModeSticky != 0 {
		bits |= 0o1000
	}
	return bits
}
