package executor

import "os"

// ExecSpec says what to run in a container that runs.
type ExecSpec struct {
	Args       []string
	Env        []string // KEY=value, added to the container's
	Cwd        string   // "" = the container's
	User       string   // "" = the container's
	Terminal   bool     // Stdin is the terminal; where it is none the process gets one that nobody looks at
	Privileged bool     // all capabilities of the caller

	Stdin, Stdout, Stderr *os.File // nil = empty, discarded
}

// Size is that of a terminal, in characters.
type Size struct{ Width, Height uint16 }

// Exit says how the process of a container ended.
type Exit struct {
	Code      int  // 128 + n if signal n ended it
	OOMKilled bool // the kernel killed a process of the container for want of memory
}

// Names of files in a bundle.
const (
	pidFile       = "pid"
	consoleSocket = "console"
)
