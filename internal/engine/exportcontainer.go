package engine

import (
	"context"
	"io"
	"os"

	"strake/internal/archive"
	"strake/internal/layer"
)

// ExportContainer writes a tar of the root file system of a container, which may run; what is in its mounts is not in it.
func ExportContainer(ctx context.Context, env *Env, ref string, w io.Writer) error {
	return withBareRoot(ctx, env, ref, func(c *Container, root *os.File) error {
		tw := archive.NewWriter(w, archive.WriterOptions{})
		if err := layer.WriteTree(ctx, root, tw, layer.TreeOptions{Name: "."}); err != nil {
			return err
		}
		if err := tw.Close(); err != nil {
			return err
		}
		return containers(env).Tell(ctx, "export", c, nil)
	})
}
