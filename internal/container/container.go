// Package container keeps containers and looks after those that run.
//
// A record is a row of the table containers: what a container was created as, and its state. Its directory, containers/<id> in
// the store, holds what its process wrote (upper, work), its log, and the socket of its monitor. A monitor is the process that
// looks after one container while it runs: it holds the container's lock (that of the directory), has the root file system in
// a mount namespace of its own, is the parent of the container's process, writes log and state, and serves the socket. It is
// the container's owner as package executor has it: the container does not outlive it. A state that says running is true only
// as long as the lock is held: Table turns what dead monitors left into what happened.
package container

import (
	"encoding/json"
	"path/filepath"
	"regexp"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/mount"
	"github.com/moby/moby/api/types/network"
	"github.com/opencontainers/go-digest"
)

// Container is a record. Its ID never changes; Name and Spec change by commands alone, State is the monitor's while there is one.
type Container struct {
	ID      string // 64 hex digits
	Name    string
	ImageID digest.Digest
	Created time.Time
	Spec    Spec
	State   State
	Alive   bool // its lock was held when it was read: a monitor looks after it
}

// Spec is what a container was created as, in docker's types.
type Spec struct {
	Config     *container.Config
	HostConfig *container.HostConfig
	Endpoints  map[string]*network.EndpointSettings // by network, as they were asked for
	Detached   bool                                 // from the network that HostConfig names, perhaps: Endpoints are all
	Layers     []digest.Digest                      // diffIDs of the image, bottom first
	Platform   string                               // "linux"
	Mounts     []container.MountPoint               // as inspect shows them
	MountSpecs []mount.Mount                        // and as they were asked for, with the names of volumes and the IDs of images
	Images     map[string][]digest.Digest           // layers of the images that are mounted, by ID
}

// Path and Args are what the container runs, as inspect shows it.
func (s *Spec) Path() string {
	if args := s.command(); len(args) > 0 {
		return args[0]
	}
	return ""
}

// Args are the arguments to Path.
func (s *Spec) Args() []string {
	if args := s.command(); len(args) > 1 {
		return args[1:]
	}
	return []string{}
}

func (s *Spec) command() []string {
	return append(append([]string{}, s.Config.Entrypoint...), s.Config.Cmd...)
}

// State is what happened to a container last.
type State struct {
	Status       container.ContainerState
	Pid          int
	ExitCode     int
	Error        string
	OOMKilled    bool
	Started      time.Time
	Finished     time.Time
	RestartCount int
	Stopped      bool // by a command: its restart policy does not start it again
	Health       *container.Health
	Network      *container.NetworkSettings // for who shows a record: never written
}

// Running reports whether the container has a process, perhaps a paused one.
func (s *State) Running() bool {
	return s.Status == container.StateRunning || s.Status == container.StatePaused || s.Status == container.StateRestarting
}

// Dir is where the containers of a store are.
func Dir(root string) string { return filepath.Join(root, "containers") }

// ValidID reports whether an ID is one of a container.
func ValidID(id string) bool { return len(id) == 64 && strings.Trim(id, "0123456789abcdef") == "" }

// validName is docker's pattern for names.
var validName = regexp.MustCompile(`^[a-zA-Z0-9][a-zA-Z0-9_.-]+$`)

// A NameError tells that a name is taken. It is errdefs.ErrConflict.
type NameError struct{ Name, ID string }

// Error is docker's text.
func (e *NameError) Error() string {
	return `Conflict. The container name "/` + e.Name + `" is already in use by container "` + e.ID +
		`". You have to remove (or rename) that container to be able to reuse that name.`
}

// Unwrap returns the error's kind.
func (e *NameError) Unwrap() error { return errdefs.ErrConflict }

// errorText is an error with docker's text and its kind.
type errorText struct {
	text string
	kind error
}

func (e errorText) Error() string { return e.text }

func (e errorText) Unwrap() error { return e.kind }

// CheckName fails for what is no name of a container.
func CheckName(name string) error {
	if validName.MatchString(name) {
		return nil
	}
	return errorText{"Invalid container name (" + name + "), only [a-zA-Z0-9][a-zA-Z0-9_.-] are allowed", errdefs.ErrInvalidArgument}
}

func encode(v any) (string, error) {
	b, err := json.Marshal(v)
	return string(b), err
}
