package executor

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"

	"github.com/containerd/errdefs"
)

// maxLog bounds what is read of a runtime's log.
const maxLog = 1 << 20

// runcFailed begins what runc says, in its log and on stderr, when a container cannot be started.
const runcFailed = "runc run failed: "

// crunFaults begin what crun says, in its log and on stderr, when the command of a container cannot be executed.
func crunFaults() []string {
	return []string{"executable file `", "open executable", "exec container process"}
}

// commandFault puts a message of crunFaults in the words that runc has for it, and docker thereby; others it leaves alone.
func commandFault(message, command string) string {
	lower := strings.ToLower(message)
	if !slices.ContainsFunc(crunFaults(), func(begin string) bool { return strings.HasPrefix(lower, begin) }) {
		return message
	}
	why := "executable file not found in $PATH"
	switch {
	case !strings.Contains(lower, "no such file or directory"):
		_, why, _ = strings.Cut(lower, ": ")
		why = strings.Replace(why, "operation not permitted", "permission denied", 1)
	case strings.Contains(command, "/"):
		why = "stat " + command + ": no such file or directory"
	}
	return fmt.Sprintf("crun run failed: unable to start container process: exec: %q: %s", command, why)
}

// readFault returns the message by which the runtime told in its JSON log that it could not start the container; "" if it
// started it.
func readFault(log string) (string, error) {
	f, err := os.Open(log)
	if os.IsNotExist(err) {
		return "", nil
	}
	if err != nil {
		return "", fmt.Errorf("read the runtime's log: %w", err)
	}
	defer func() { _ = f.Close() }() // only read
	lines := bufio.NewScanner(io.LimitReader(f, maxLog))
	lines.Buffer(nil, maxLog)
	last := ""
	for lines.Scan() {
		var line struct{ Level, Msg string }
		if json.Unmarshal(lines.Bytes(), &line) == nil && (line.Level == "error" || line.Level == "fatal") {
			last = line.Msg
		}
	}
	if err := lines.Err(); err != nil {
		return "", fmt.Errorf("read the runtime's log: %w", err)
	}
	return last, nil
}

// newStartError classifies a runtime's message as docker does.
func newStartError(message string) *StartError {
	e := &StartError{Code: CodeFailed, Message: message, Err: errdefs.ErrUnknown}
	has := func(texts ...string) bool {
		for _, text := range texts {
			if strings.Contains(strings.ToLower(message), text) {
				return true
			}
		}
		return false
	}
	switch {
	case has("executable file not found", "no such file or directory"):
		e.Code, e.Err = CodeNotFound, errdefs.ErrNotFound
	case has("permission denied", "is a directory", "open executable"):
		e.Code, e.Err = CodeNotExecutable, errdefs.ErrPermissionDenied
	}
	return e
}

// faultFilter passes on what the process writes to stderr, without the line that the runtime itself adds when it cannot start the
// process: the StartError has it. It holds such a line back until it is followed by more or End decides.
type faultFilter struct {
	w      io.Writer
	faults []string // how such a line begins
	line   []byte   // begun, and so far like one of faults; or complete and like it
	mid    bool     // in the middle of a line that was passed on
}

// Write implements io.Writer.
func (f *faultFilter) Write(p []byte) (int, error) {
	for rest := p; len(rest) > 0; {
		n := bytes.IndexByte(rest, '\n') + 1
		if n == 0 {
			n = len(rest)
		}
		if err := f.add(rest[:n]); err != nil {
			return len(p) - len(rest), err
		}
		rest = rest[n:]
	}
	return len(p), nil
}

// add takes a line or a part of one.
func (f *faultFilter) add(part []byte) error {
	if bytes.HasSuffix(f.line, []byte("\n")) || len(f.line)+len(part) > maxLog {
		if err := f.flush(); err != nil {
			return err
		}
	}
	if !f.mid {
		f.line = append(f.line, part...)
		if slices.ContainsFunc(f.faults, func(fault string) bool {
			n := min(len(f.line), len(fault))
			return string(f.line[:n]) == fault[:n]
		}) {
			return nil
		}
		part, f.line = f.line, nil
	}
	f.mid = part[len(part)-1] != '\n'
	_, err := f.w.Write(part)
	return err
}

// flush passes on the line that is held back.
func (f *faultFilter) flush() error {
	line := f.line
	if len(line) == 0 {
		return nil
	}
	f.line, f.mid = nil, line[len(line)-1] != '\n'
	_, err := f.w.Write(line)
	return err
}

// End ends the stream; a line held back is dropped if it is the runtime's.
func (f *faultFilter) End(started bool) error {
	if !started {
		f.line = nil
	}
	return f.flush()
}
