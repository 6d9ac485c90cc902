//go:build !(linux && amd64)

package main_test

import "errors"

// Faults are injected on Linux on amd64 alone.
const injectEnv = "STRAKE_TEST_INJECT"

func injectWrapper([]string) error { return errors.New("not on this system") }
