package engine

import (
	"bytes"
	"fmt"
)

// The most that is kept of what steps print, in bytes: of a step the beginning and
// the end, of a build the steps that ended last.
const (
	maxStepLog  = 2 << 20
	maxBuildLog = 16 << 20
)

// stepLog keeps what a step prints: all of it, or its first and its last half of
// maxStepLog.
type stepLog struct {
	head, tail []byte
	printed    int
}

// Write is io.Writer's.
func (l *stepLog) Write(b []byte) (int, error) {
	const half = maxStepLog / 2
	n := len(b)
	l.printed += n
	room := min(n, half-len(l.head))
	l.head, b = append(l.head, b[:room]...), b[room:]
	l.tail = append(l.tail, b[max(0, len(b)-half):]...)
	if len(l.tail) > 2*half {
		l.tail = append([]byte(nil), l.tail[len(l.tail)-half:]...)
	}
	return n, nil
}

// drop forgets what was kept.
func (l *stepLog) drop() { l.head, l.tail = nil, nil }

// size is about how much is kept.
func (l *stepLog) size() int { return len(l.head) + min(len(l.tail), maxStepLog/2) }

// text is what is kept, in whole lines, and says where something is left out.
func (l *stepLog) text() (text []byte, cut bool) {
	tail := l.tail[max(0, len(l.tail)-maxStepLog/2):]
	lost := l.printed - len(l.head) - len(tail)
	if lost == 0 {
		return append(l.head, tail...), false
	}
	if _, lines, ok := bytes.Cut(tail, []byte("\n")); ok {
		lost, tail = lost+len(tail)-len(lines), lines
	}
	head := l.head
	if end := bytes.LastIndexByte(head, '\n') + 1; end > 0 {
		lost, head = lost+len(head)-end, head[:end]
	}
	return append(fmt.Appendf(head[:len(head):len(head)], "[%d bytes of the output were not kept]\n", lost), tail...), true
}
