//go:build linux && !amd64

package executor_test

// slowCalls are those of this architecture alone that TestProbe must not make.
func slowCalls() []uintptr { return nil }
