package executor

import (
	"maps"
	"slices"
	"strconv"
	"strings"
)

// Device is a device that a specification of the Container Device Interface (CDI) on this machine describes: nodes, mounts, variables and
// hooks that a container gets with it.
type Device struct {
	Name        string // "vendor.com/class=name"
	annotations map[string]string
}

// kind is the name's vendor and class.
func (d Device) kind() string {
	kind, _, _ := strings.Cut(d.Name, "=")
	return kind
}

// What BuildKit reads in annotations of a device or of its specification.
const (
	classAnnotation     = "org.mobyproject.buildkit.device.class"
	autoAllowAnnotation = "org.mobyproject.buildkit.device.autoallow"
)

// ForAll reports whether the specification gives the device to every build.
func (d Device) ForAll() bool {
	allowed, err := strconv.ParseBool(d.annotations[autoAllowAnnotation])
	return err == nil && allowed
}

// FindDevices returns those of list that name means, as BuildKit reads it: a device, "kind" for the first of a kind, "kind=*" for
// all of it, or a class that devices name in an annotation.
func FindDevices(list []Device, name string) []Device {
	kind, one, _ := strings.Cut(name, "=")
	var found []Device
	for _, d := range list {
		if d.Name == name || d.kind() == kind && (one == "*" || one == "" && len(found) == 0) {
			found = append(found, d)
		}
	}
	if len(found) > 0 {
		return found
	}
	return slices.DeleteFunc(slices.Clone(list), func(d Device) bool { return d.annotations[classAnnotation] != name })
}

// merged are annotations of a specification with those of one of its devices.
func merged(spec, device map[string]string) map[string]string {
	all := maps.Clone(spec)
	if all == nil {
		all = map[string]string{}
	}
	maps.Copy(all, device)
	return all
}
