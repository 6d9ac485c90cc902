package engine

import (
	"context"
	"errors"
	"io/fs"
	"path"
	"time"

	"strake/internal/layer"
)

// ListFilesOptions say what to list.
type ListFilesOptions struct {
	LookOptions
	Path      string // "" is the root
	Layer     string // of one layer alone, by its number (from 1) or diffID; "" is all of the image
	Recursive bool   // what is below directories too
	Directory bool   // a directory itself, not what is in it
}

// File is one file of an image.
type File struct {
	Path    string // absolute
	Name    string // as it is listed: the last part of Path, or Path if that was asked for
	Mode    fs.FileMode
	Size    int64
	ModTime time.Time
	Target  string // of a symlink
	layer.Stat
}

// Deletes tells whether the file is none but hides its name in lower layers. It
// is so in a list of one layer alone.
func (f *File) Deletes() bool { return f.Whiteout() }

// IsDir tells whether the file is a directory.
func (f *File) IsDir() bool { return f.Mode.IsDir() }

// IsDevice tells whether the file is a device, with numbers in the place of a size.
func (f *File) IsDevice() bool { return f.Mode&fs.ModeDevice != 0 }

// ListFiles lists a directory of an image, or one file, in the order of names. It
// follows symlinks, within the image, to what Path names and no further.
func ListFiles(ctx context.Context, env *Env, opts ListFilesOptions) (list []File, err error) {
	v, err := look(ctx, env, opts.LookOptions)
	if err != nil {
		return nil, err
	}
	defer closing(&err, v.close)
	files := v.files
	if opts.Layer != "" {
		l, err := v.layer(opts.Layer)
		if err != nil {
			return nil, err
		}
		files = &l.FS
	}
	list, err = listFiles(ctx, files, opts)
	if err != nil {
		return nil, pathError(opts.Path, err)
	}
	return list, nil
}

func listFiles(ctx context.Context, files *layer.FS, opts ListFilesOptions) (list []File, err error) {
	root := inside(opts.Path)
	info, err := files.Stat(root)
	if errors.Is(err, fs.ErrNotExist) && root == "." { // of an image without layers
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	if opts.Directory || !info.IsDir() {
		if info, err = files.Lstat(root); err != nil {
			return nil, err
		}
		one, err := fileOf(files, root, info)
		one.Name = opts.Path
		return []File{one}, err
	}
	var walk func(name string) error
	walk = func(name string) error {
		entries, err := files.ReadDir(name)
		if err != nil {
			return err
		}
		if err := ctx.Err(); err != nil {
			return err
		}
		for _, d := range entries {
			info, err := d.Info()
			if err != nil {
				return err
			}
			below := path.Join(name, d.Name())
			f, err := fileOf(files, below, info)
			if err != nil {
				return err
			}
			list = append(list, f)
			if opts.Recursive && d.IsDir() {
				if err := walk(below); err != nil {
					return err
				}
			}
		}
		return nil
	}
	return list, walk(root)
}

func fileOf(files *layer.FS, name string, info fs.FileInfo) (File, error) {
	f := File{Path: shownPath(name), Name: info.Name(), Mode: info.Mode(), Size: info.Size(), ModTime: info.ModTime()}
	if st, ok := info.Sys().(*layer.Stat); ok {
		f.Stat = *st
	}
	if f.IsDir() {
		f.Size = 0 // the index's business
	}
	if f.Mode&fs.ModeSymlink == 0 {
		return f, nil
	}
	var err error
	f.Target, err = files.ReadLink(name)
	return f, err
}
