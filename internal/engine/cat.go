package engine

import (
	"context"
	"errors"
	"io"

	"github.com/containerd/errdefs"

	"strake/internal/layer"
)

// CatOptions say what to read.
type CatOptions struct {
	LookOptions
	Paths []string
}

// Cat writes files of an image to w, one after the other. Symlinks are followed
// within the image. A path that cannot be read does not keep it from the others;
// the error names them all.
func Cat(ctx context.Context, env *Env, opts CatOptions, w io.Writer) (err error) {
	v, err := look(ctx, env, opts.LookOptions)
	if err != nil {
		return err
	}
	defer closing(&err, v.close)
	var errs []error
	for _, name := range opts.Paths {
		if err := catFile(v.files, name, w); err != nil {
			errs = append(errs, pathError(name, err))
		}
		if err := ctx.Err(); err != nil {
			return err
		}
	}
	return errors.Join(errs...)
}

func catFile(files *layer.FS, name string, w io.Writer) error {
	f, err := files.Open(inside(name))
	if err != nil {
		return err
	}
	info, err := f.Stat()
	switch {
	case err != nil:
		return err
	case info.IsDir():
		return messageError{name + ": Is a directory", errdefs.ErrInvalidArgument}
	case !info.Mode().IsRegular():
		return messageError{name + ": Not a regular file", errdefs.ErrInvalidArgument}
	}
	_, err = io.Copy(w, f)
	return errors.Join(err, f.Close())
}
