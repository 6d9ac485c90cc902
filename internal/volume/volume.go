// Package volume keeps the volumes of containers: directories that outlive them.
//
// A volume is a row of the table volumes, and the directory volumes/<name>/_data in the store, which is made when the row is there,
// and again where it is missing. The row is the truth: nothing but Remove takes files away, and it moves them aside before it
// forgets the row. An anonymous volume has a name of 64 hex digits that nobody gave it, and a label that tells so. A container
// uses the volumes that a row of volume_users says; that row is made and goes with the container's.
//
// A volume with options is a file system that its users mount on its directory, each in its own mount namespace.
package volume

import (
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"net/url"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"github.com/docker/go-units"
	"github.com/moby/moby/api/types/volume"
)

// Volume is a record.
type Volume struct {
	Name    string
	Created time.Time
	Labels  map[string]string
	Options map[string]string // of the local driver
	Users   []string          // IDs of the containers that use it, sorted
}

// AnonymousLabel is the label of volumes that nobody named.
const AnonymousLabel = "com.docker.volume.anonymous"

// Driver is the one driver that there is.
const Driver = "local"

// Anonymous returns a volume with a new name.
func Anonymous() (Volume, error) {
	var b [32]byte
	if _, err := rand.Read(b[:]); err != nil {
		return Volume{}, fmt.Errorf("name volume: %w", err)
	}
	return Volume{Name: hex.EncodeToString(b[:]), Labels: map[string]string{AnonymousLabel: ""}}, nil
}

// IsAnonymous reports whether nobody named it.
func (v *Volume) IsAnonymous() bool {
	_, ok := v.Labels[AnonymousLabel]
	return ok
}

// API is the volume as docker's API has it, in a store whose directory is root.
func (v *Volume) API(root string) volume.Volume {
	return volume.Volume{
		Name: v.Name, Driver: Driver, Scope: "local", CreatedAt: v.Created.Local().Format(time.RFC3339),
		Labels: v.Labels, Options: v.Options, Mountpoint: filepath.Join(Dir(root), v.Name, data),
	}
}

// Dir is where the volumes of a store are.
func Dir(root string) string { return filepath.Join(root, "volumes") }

// Entries of a volume's directory.
const (
	data    = "_data"
	filling = "_filling" // an image's files while they are copied
	filled  = "_filled"  // and when all of them are
)

// dead begins the name of a directory whose volume was removed.
const dead = ".removed-"

// maxName is how long a file's name can be.
const maxName = 255

// CheckName fails for what is no name of a volume.
func CheckName(name string) error {
	const letters = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789"
	switch {
	case len(name) == 1:
		return invalid("create %s: volume name is too short, names should be at least two alphanumeric characters", name)
	case name == "" || !strings.Contains(letters, name[:1]) || strings.Trim(name, letters+"_.-") != "":
		return invalid("create %s: %q includes invalid characters for a local volume name, only %q are allowed. "+
			"If you intended to pass a host directory, use absolute path", name, name, "[a-zA-Z0-9][a-zA-Z0-9_.-]")
	case len(name) > maxName:
		return invalid("create %s: the name has more than %d characters", name, maxName)
	}
	return nil
}

// CheckDriver fails for any driver but ours; "" is ours.
func CheckDriver(name, driver string) error {
	if driver == "" || driver == Driver {
		return nil
	}
	return errorText{fmt.Sprintf("create %s: error looking up volume plugin %s: plugin %q not found", name, driver, driver), errdefs.ErrNotFound}
}

// checkOptions fails for options that the driver has not.
func checkOptions(name string, options map[string]string) error {
	for o := range options {
		if !slices.Contains([]string{"type", "o", "device", "size"}, o) {
			return invalid("create %s: invalid option: %q", name, o)
		}
	}
	if device, err := url.Parse(options["device"]); options["type"] == "cifs" && (err != nil || device.Port() != "") {
		return invalid("create %s: port not allowed in CIFS device URL, include 'port' in 'o='", name)
	}
	if size, ok := options["size"]; ok {
		n, err := units.RAMInBytes(size)
		if err != nil {
			return invalid("create %s: %w", name, err)
		}
		if n > 0 {
			return invalid("create %s: quota size requested but no quota support", name)
		}
	}
	for _, need := range []struct{ has, needs string }{{"device", "type"}, {"type", "device"}, {"o", "device"}, {"o", "type"}} {
		_, has := options[need.has]
		if _, ok := options[need.needs]; has && !ok {
			return invalid("create %s: missing required option: %q", name, need.needs)
		}
	}
	return nil
}

// errorText is an error with docker's text and its kind.
type errorText struct {
	text string
	kind error
}

func (e errorText) Error() string { return e.text }

func (e errorText) Unwrap() error { return e.kind }

func invalid(format string, args ...any) error {
	return errorText{fmt.Errorf(format, args...).Error(), errdefs.ErrInvalidArgument}
}
