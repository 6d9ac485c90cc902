//go:build !linux

package executor

// Devices lists the devices of this machine: none.
func Devices() ([]Device, error) { return nil, nil }

// DeviceDirs are there on Linux alone.
func DeviceDirs() []string { return nil }
