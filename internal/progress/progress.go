// Package progress shows what a long operation is doing.
//
// An operation is made of steps; a step begins, prints log lines, moves items
// (files, layers: so many bytes of so many), and ends: done, found in the
// cache, failed or canceled. Producers tell all of it as Events; a Display
// shows them: Plain as lines, TTY as a table that is redrawn, RawJSON as BuildKit's
// objects, Quiet not at all.
package progress

import "time"

// State is what an Event tells of its step.
type State int

// States.
const (
	Started  State = iota
	Logged         // Log holds output of the step
	Moved          // Item tells of one thing that the step moves
	Warned         // Log holds a warning
	Cached         // final: the result was there already
	Done           // final
	Failed         // final: Err says why
	Canceled       // final: stopped because something else failed
)

// Final reports whether no event of the step comes after s.
func (s State) Final() bool { return s >= Cached }

// Event is one thing that happened to one step.
type Event struct {
	ID    string // the step; the same in all its events
	Name  string // the step's name, in all its events
	State State
	Time  time.Time
	Log   []byte // Logged: any part of the output, not line by line
	Item  Item   // Moved
	Err   error  // Failed

	Inputs  []string // Started: the steps whose results it uses
	Warning *Warning // Warned: more of it, or nil
}

// Warning is a warning about a file, of no step where the event has no ID.
type Warning struct {
	Detail, URL string
	File        string
	Lines       [][2]int // first and last of each place
}

// Item is one thing that a step moves or makes.
type Item struct {
	ID             string // as shown, such as "transferring context:"
	Current, Total int64  // bytes; 0: not known
	Done           bool
}
