package hub_test

import (
	"testing"

	"strake/internal/conformance"
	"strake/internal/hub"
	"strake/internal/registry"
)

// engines calls test with fresh options of each set of engines.
func engines(t *testing.T, test func(t *testing.T, newOptions func(t *testing.T) hub.Options)) {
	for name, newOptions := range map[string]func(t *testing.T) hub.Options{
		"SQLite and files": func(t *testing.T) hub.Options { return hub.Options{Dir: t.TempDir()} },
		"PostgreSQL and S3": func(t *testing.T) hub.Options {
			return hub.Options{Database: conformance.PostgreSQL(t), Storage: conformance.S3(t)}
		},
	} {
		t.Run(name, func(t *testing.T) { test(t, newOptions) })
	}
}

// openWith opens a Hub, which the end of the test closes.
func openWith(t *testing.T, opts hub.Options) *hub.Hub {
	t.Helper()
	h, err := hub.Open(t.Context(), opts)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := h.Close(); err != nil {
			t.Errorf("close: %v", err)
		}
	})
	return h
}

func TestHub(t *testing.T) {
	engines(t, func(t *testing.T, newOptions func(t *testing.T) hub.Options) {
		conformance.Registry(t, func(t *testing.T) registry.Registry { return openWith(t, newOptions(t)) })
	})
}

// TestWire runs the suite of the protocol.
func TestWire(t *testing.T) {
	engines(t, func(t *testing.T, newOptions func(t *testing.T) hub.Options) {
		conformance.Wire(t, func(t *testing.T) registry.Registry { return openWith(t, newOptions(t)) })
	})
}
