package engine

import (
	"testing"

	"strake/internal/conformance"
)

var record = conformance.Record()

// TestCorpusBuildKit has BuildKit build the corpus: what is recorded must be what
// it does. With -record it is written down.
func TestCorpusBuildKit(t *testing.T) {
	k := conformance.StartBuildKit(t)
	k.Load()
	conformance.Dockerfiles(t, corpus, false, *record, k.Build)
}
