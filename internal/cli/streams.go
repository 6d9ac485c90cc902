package cli

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"golang.org/x/term"

	"strake/internal/engine"
)

const detachKeysHelp = "Override the key sequence for detaching a container"

// attachOptions say what of ours is joined to a container.
type attachOptions struct {
	tty, stdin bool
	keys       string // that detach; "" is the configured ones
	signals    bool   // pass signals on
}

// attached are our streams, ready to be joined to a container.
type attached struct {
	streams engine.Streams
	size    *engine.Size
	undo    []func()
}

// restore makes the terminal what it was.
func (a *attached) restore() {
	for _, undo := range a.undo {
		undo()
	}
}

// attach readies our streams. Where the container has a terminal, ours becomes its window.
func (s *session) attach(opts attachOptions) (*attached, error) {
	a := &attached{streams: engine.Streams{Stdout: s.Out, Stderr: s.Err}}
	if opts.stdin {
		a.streams.Stdin = s.In
	}
	if opts.signals {
		signals := make(chan os.Signal, 16)
		a.streams.Signals = signals
		signal.Notify(signals, syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP, syscall.SIGQUIT, syscall.SIGUSR1, syscall.SIGUSR2)
		a.undo = append(a.undo, func() { signal.Stop(signals) })
	}
	if !opts.tty {
		return a, nil
	}
	if opts.stdin {
		keys, err := parseDetachKeys(opts.keys)
		if err != nil {
			return nil, err
		}
		detached := make(chan struct{})
		a.streams.Stdin = &keyReader{in: s.In, keys: keys, pressed: func() { close(detached) }}
		a.streams.Detached = detached
	}
	if fd, ok := terminalFD(s.In); ok && opts.stdin {
		old, err := term.MakeRaw(fd)
		if err != nil {
			return nil, fmt.Errorf("use the terminal: %w", err)
		}
		a.undo = append(a.undo, func() { _ = term.Restore(fd, old) }) // it may be gone
	}
	if fd, ok := terminalFD(s.Out); ok {
		a.watchSize(fd)
	}
	return a, nil
}

// watchSize passes the size of the terminal on, and its changes.
func (a *attached) watchSize(fd int) {
	look := func() (engine.Size, bool) {
		width, height, err := term.GetSize(fd)
		return engine.Size{Width: uint16(width), Height: uint16(height)}, err == nil && width > 0 && height > 0
	}
	if size, ok := look(); ok {
		a.size = &size
	}
	changed, sizes, done := make(chan os.Signal, 1), make(chan engine.Size), make(chan struct{})
	a.streams.Resize = sizes
	signal.Notify(changed, syscall.SIGWINCH)
	a.undo = append(a.undo, func() {
		signal.Stop(changed)
		close(done)
	})
	go func() {
		for {
			select {
			case <-done:
				return
			case <-changed:
			}
			size, ok := look()
			if !ok {
				continue
			}
			select {
			case <-done:
				return
			case sizes <- size:
			}
		}
	}()
}

// defaultDetachKeys are docker's.
const defaultDetachKeys = "ctrl-p,ctrl-q"

// parseDetachKeys reads a sequence of keys: letters, or ctrl- and one of a-z, @, [, \, ], ^, _.
func parseDetachKeys(text string) ([]byte, error) {
	if text == "" {
		text = defaultDetachKeys
	}
	var keys []byte
	for _, key := range strings.Split(text, ",") {
		letter, ctrl := strings.CutPrefix(key, "ctrl-")
		switch {
		case !ctrl && len(key) == 1:
			keys = append(keys, key[0])
		case ctrl && len(letter) == 1 && letter[0] >= 'a' && letter[0] <= 'z':
			keys = append(keys, letter[0]-'a'+1)
		case ctrl && letter == "@":
			keys = append(keys, 0)
		case ctrl && len(letter) == 1 && strings.Contains(`[\]^_`, letter):
			keys = append(keys, letter[0]-'['+27)
		default:
			return nil, fmt.Errorf("invalid detach keys (%s): Unknown character: '%s'", text, key)
		}
	}
	return keys, nil
}

// keyReader reads what is typed until a sequence of keys is.
type keyReader struct {
	in      io.Reader
	keys    []byte
	seen    int    // of keys
	held    []byte // typed, and not yet given
	pressed func() // called once
}

// Read implements io.Reader.
func (k *keyReader) Read(p []byte) (int, error) {
	if len(k.held) > 0 {
		n := copy(p, k.held)
		k.held = k.held[n:]
		return n, nil
	}
	buf := make([]byte, len(p))
	n, err := k.in.Read(buf)
	var out []byte
	for _, b := range buf[:n] {
		if b == k.keys[k.seen] {
			if k.seen++; k.seen == len(k.keys) {
				k.pressed()
				return 0, io.EOF
			}
			continue
		}
		out = append(out, k.keys[:k.seen]...)
		if k.seen = 0; b == k.keys[0] {
			k.seen = 1
			continue
		}
		out = append(out, b)
	}
	if err != nil && !errors.Is(err, io.EOF) {
		err = io.EOF
	}
	k.held = out
	if len(out) == 0 {
		return 0, err
	}
	n = copy(p, out)
	k.held = out[n:]
	return n, nil
}
