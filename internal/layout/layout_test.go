package layout_test

import (
	"testing"

	"strake/internal/conformance"
	"strake/internal/layout"
)

func TestLayout(t *testing.T) {
	conformance.Target(t, func(t *testing.T) conformance.Images {
		l, err := layout.Open(t.TempDir())
		if err != nil {
			t.Fatal(err)
		}
		return l
	})
}
