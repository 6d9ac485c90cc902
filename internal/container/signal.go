package container

import (
	"fmt"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

// ParseSignal reads a signal's number or name, with SIG or without, as docker does.
func ParseSignal(text string) (syscall.Signal, error) {
	if n, err := strconv.Atoi(text); err == nil {
		if n <= 0 || n > 64 {
			return 0, errorText{"Invalid signal: " + text, errdefs.ErrInvalidArgument}
		}
		return syscall.Signal(n), nil
	}
	name := strings.TrimPrefix(strings.ToUpper(text), "SIG")
	if s := unix.SignalNum("SIG" + name); s != 0 {
		return s, nil
	}
	for begin, base := range map[string]int{"RTMIN+": 34, "RTMAX-": 64} {
		if rest, ok := strings.CutPrefix(name, begin); ok {
			n, err := strconv.Atoi(rest)
			if base == 64 {
				n = -n
			}
			if err == nil && base+n >= 34 && base+n <= 64 {
				return syscall.Signal(base + n), nil
			}
		}
	}
	switch name {
	case "RTMIN":
		return 34, nil
	case "RTMAX":
		return 64, nil
	}
	return 0, errorText{fmt.Sprintf("Invalid signal: %s", text), errdefs.ErrInvalidArgument}
}

// StopSignal is the signal that stops a container.
func StopSignal(c *Container) syscall.Signal {
	if s, err := ParseSignal(c.Spec.Config.StopSignal); err == nil {
		return s
	}
	return syscall.SIGTERM
}

// StopTimeout is how long a container has after that signal; negative is for ever.
func StopTimeout(c *Container) time.Duration {
	if t := c.Spec.Config.StopTimeout; t != nil {
		return time.Duration(*t) * time.Second
	}
	return 10 * time.Second
}
