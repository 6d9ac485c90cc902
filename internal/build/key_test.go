package build

import (
	"fmt"
	"testing"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/identity"
)

// A chain is named as the image specification names it.
func TestChainID(t *testing.T) {
	var chain []digest.Digest
	for i := range 4 {
		chain = append(chain, digest.FromString(fmt.Sprint(i)))
		if got, want := chainID(chain), identity.ChainID(chain); got != want {
			t.Errorf("%d layers: %s, not %s", len(chain), got, want)
		}
	}
}
