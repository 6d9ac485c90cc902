package engine

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"

	"strake/internal/image"
)

// inventoryHeader begins an inventory: text, a digest a line.
const inventoryHeader = "# strake inventory 1"

// maxInventory bounds the digests of an inventory.
const maxInventory = 5_000_000

// WriteInventory writes what the store has, for Save on another machine to leave
// out.
func WriteInventory(ctx context.Context, env *Env, w io.Writer) error {
	list, err := env.Store.Inventory(ctx)
	if err != nil {
		return err
	}
	out := bufio.NewWriter(w)
	fmt.Fprintln(out, inventoryHeader)
	for _, dgst := range list {
		fmt.Fprintln(out, dgst)
	}
	return out.Flush()
}

// ReadInventory reads what WriteInventory wrote.
func ReadInventory(r io.Reader) (map[digest.Digest]bool, error) {
	lines := bufio.NewScanner(r)
	if !lines.Scan() || strings.TrimSpace(lines.Text()) != inventoryHeader {
		if err := lines.Err(); err != nil {
			return nil, fmt.Errorf("read inventory: %w", err)
		}
		return nil, fmt.Errorf("read inventory: it does not begin with %q: %w", inventoryHeader, errdefs.ErrInvalidArgument)
	}
	list := map[digest.Digest]bool{}
	for lines.Scan() {
		dgst := digest.Digest(strings.TrimSpace(lines.Text()))
		if err := image.CheckDigest(dgst); err != nil {
			return nil, fmt.Errorf("read inventory: %w", err)
		}
		if len(list) == maxInventory {
			return nil, fmt.Errorf("read inventory: more than %d digests: %w", maxInventory, errdefs.ErrResourceExhausted)
		}
		list[dgst] = true
	}
	if err := lines.Err(); err != nil {
		return nil, fmt.Errorf("read inventory: %w", err)
	}
	return list, nil
}
