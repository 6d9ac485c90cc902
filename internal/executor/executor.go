// Package executor runs one process in a container: a root file system, a specification of the process, and an OCI runtime
// (runc or crun) that puts the two together.
//
// A bundle is the directory that the runtime reads: config.json and the files that are mounted over /etc/hosts, /etc/hostname
// and /etc/resolv.conf. A stub is an empty file or directory that is made in the root file system for something to be mounted
// on; stubs that were made for a run are taken away after it. The owner of a container is the process that runs it: containers
// do not outlive their owner.
package executor

import (
	"context"
	"fmt"
	"io"
	"os"

	"strake/internal/mount"
)

// Executor runs processes in containers.
type Executor interface {
	// Run runs the process of spec and returns its exit code, 128 + n if signal n ended it. A container that could not be
	// started gives a *StartError. Cancelling ctx kills every process of the container; the error is then ctx's cause. When
	// Run returns nothing of the container is left but what its process wrote to Rootfs and Mounts. Runs may be concurrent. A
	// step with a limit of memory that failed after the kernel had killed a process of it for that is syscall.ENOMEM, beside
	// the exit code.
	Run(ctx context.Context, spec Spec) (exitCode int, err error)
}

// Network modes of a Spec.
const (
	NetworkHost = "host" // the host's interfaces, name servers and hosts file
	NetworkNone = "none" // a loopback interface of its own and no other; the default
)

// Spec says what to run. Its capabilities, seccomp profile, devices and masked paths are docker's defaults, unless Insecure.
type Spec struct {
	ID       string   // unique among the living; letters, digits and _ + - .; "" = made up
	Bundle   string   // directory that Run fills and empties again; made if missing
	Rootfs   string   // root file system as seen in NS; one Run at a time uses it
	Args     []string // command and arguments; the command is looked up in the PATH of Env
	Env      []string // KEY=value; PATH and HOME are added where missing
	Cwd      string   // working directory, made if missing; "" = /
	User     string   // name|uid[:group|gid] of the root file system's passwd and group files; "" = root
	Hostname string   // "" = the host's name under NetworkHost, the first 12 characters of ID otherwise
	Network  string   // NetworkHost or NetworkNone; "" = NetworkNone
	NetNS    string   // path of the network namespace to join instead; "" = none
	ReadOnly bool     // the root file system cannot be written to
	Mounts   []Mount  // besides the defaults; a mount at a default's target takes its place
	Devices  []string // names of Devices

	ExtraHosts []Host // lines for /etc/hosts
	Hosts      []byte // /etc/hosts, in place of what Network and ExtraHosts make; nil: none
	Resolv     []byte // /etc/resolv.conf, in place of the host's; nil: none

	// AsStep runs the process as BuildKit runs a step: /etc/hosts and /etc/resolv.conf cannot be written to, /etc/hostname is the
	// root file system's, and /dev, /proc and /sys, made where they were missing, stay there.
	AsStep       bool
	Insecure     bool    // all capabilities of the caller, every device, no seccomp profile, nothing masked or read-only
	Limits       []Limit // resource limits; those that are not named are the caller's
	CgroupParent string  // cgroup in which the container's is made; "" = the top

	Isolation Isolation // nothing of it goes together with Insecure

	Size     *Size            // of the terminal that Start makes; nil = unknown
	Terminal bool             // give the process a terminal: Stdin and Stdout are one, or are copied to and from one
	Stdin    io.Reader        // nil = empty; an *os.File is passed on as it is
	Stdout   io.Writer        // nil = discarded; an *os.File is passed on as it is
	Stderr   io.Writer        // nil = discarded; nothing is written to it under Terminal
	Signals  <-chan os.Signal // sent to the process as they come; nil = none

	NS *mount.Namespace // where Rootfs and the sources of Mounts are mounted; nil = the host's mounts
}

// Mount is something of the host, or a new file system, to be seen in the container.
type Mount struct {
	Type    string   // "bind", "tmpfs", ...
	Source  string   // path on the host of a bind mount
	Target  string   // absolute path in the container; made if missing
	Options []string // as of runtime-spec: "rbind", "ro", "size=65536k"...
	Stays   bool     // Target, made where it was missing, stays there
}

// Limit is a resource limit, as setrlimit has it; -1 is none.
type Limit struct {
	Name       string // "nofile"
	Soft, Hard int64
}

// Host is a line of /etc/hosts.
type Host struct{ Name, IP string }

// Exit codes of docker for a process that could not be started.
const (
	CodeFailed        = 125 // the runtime failed
	CodeUnknown       = 255 // it ended, nobody knows how
	CodeNotExecutable = 126 // the command cannot be executed
	CodeNotFound      = 127 // the command does not exist
)

// StartError tells that the process of a container could not be started.
type StartError struct {
	Code    int    // exit code by which docker tells: CodeFailed, CodeNotExecutable or CodeNotFound
	Message string // what the runtime says
	Err     error  // errdefs kind, or the error that Message comes from
}

// Error implements error.
func (e *StartError) Error() string { return fmt.Sprintf("start container: %s", e.Message) }

// Unwrap returns the error's kind.
func (e *StartError) Unwrap() error { return e.Err }
