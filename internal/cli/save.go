package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/docker/go-units"
	"github.com/opencontainers/go-digest"
	"github.com/spf13/cobra"

	"strake/internal/engine"
)

type saveOptions struct {
	images    []string
	output    string
	format    string
	notIn     string // the file of an inventory
	platforms []string
}

func newSaveCommand(s *session) *cobra.Command {
	var opts saveOptions
	cmd := &cobra.Command{
		Use:   "save [OPTIONS] IMAGE [IMAGE...]",
		Short: "Save one or more images to a tar archive (streamed to STDOUT by default)",
		Args:  argsBetween(1, -1),
		RunE: func(cmd *cobra.Command, args []string) error {
			opts.images = args
			return runSave(cmd.Context(), s, opts)
		},
		Annotations:           map[string]string{aliasesKey: "strake image save, strake save"},
		DisableFlagsInUseLine: true,
	}
	flags := cmd.Flags()
	flags.StringVarP(&opts.output, "output", "o", "", "Write to a file, instead of STDOUT")
	flags.StringVar(&opts.format, "format", "", `Form of the archive: "oci-archive" (default; docker loads it too) or "docker-archive"`)
	flags.StringVar(&opts.notIn, "not-in", "", "Leave out the layers that this inventory of another store lists (strake store inventory)")
	flags.StringSliceVar(&opts.platforms, "platform", nil, `Save only the given platform(s). Formatted as a comma-separated list of "os[/arch[/variant]]" (e.g., "linux/amd64,linux/arm64/v8")`)
	return cmd
}

func runSave(ctx context.Context, s *session, opts saveOptions) error {
	if err := checkPlatforms(opts.platforms); err != nil {
		return fmt.Errorf("invalid platform: %w", err)
	}
	save := engine.SaveOptions{Refs: opts.images, Platforms: opts.platforms, Format: opts.format, Output: s.Out}
	if opts.notIn != "" {
		list, err := readInventory(opts.notIn)
		if err != nil {
			return err
		}
		save.NotIn = list
	}
	if opts.output == "" {
		if isTerminal(s.Out) {
			return errors.New("cowardly refusing to save to a terminal. Use the -o flag or redirect")
		}
		return saveTo(ctx, s, save)
	}
	err := writeFile(opts.output, func(w io.Writer) error {
		save.Output = w
		return saveTo(ctx, s, save)
	})
	var failed *os.PathError
	if errors.As(err, &failed) {
		return fmt.Errorf("failed to save image: %w", err)
	}
	return err
}

func saveTo(ctx context.Context, s *session, save engine.SaveOptions) error {
	env, err := s.engine(ctx)
	if err != nil {
		return err
	}
	result, err := engine.Save(ctx, env, save)
	if result.Omitted > 0 && err == nil {
		fmt.Fprintf(s.Err, "Left out %d layers of %s, which the inventory lists\n", result.Omitted, units.HumanSize(float64(result.OmittedBytes)))
	}
	return fromEngine(err)
}

// readInventory reads the file of an inventory.
func readInventory(path string) (list map[digest.Digest]bool, err error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	list, err = engine.ReadInventory(f)
	return list, errors.Join(err, f.Close())
}

// writeFile makes path what write writes, readable by us alone: all of it or,
// when write fails, what it was before.
func writeFile(path string, write func(io.Writer) error) error {
	return writeFileMode(path, 0o600, write)
}

// writeFileMode is writeFile with a mode.
func writeFileMode(path string, mode os.FileMode, write func(io.Writer) error) (err error) {
	dir := filepath.Dir(path)
	if info, err := os.Stat(dir); err != nil {
		return fmt.Errorf("invalid output path: %w", err)
	} else if !info.IsDir() {
		return fmt.Errorf("invalid output path: %s is not a directory", dir)
	}
	if info, err := os.Stat(path); err == nil && !info.Mode().IsRegular() {
		return writeSpecial(path, write)
	}
	f, err := os.CreateTemp(dir, "."+filepath.Base(path)+"-*") // mode 0600
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			if rmErr := os.Remove(f.Name()); !errors.Is(rmErr, os.ErrNotExist) { // renamed already
				err = errors.Join(err, rmErr)
			}
		}
	}()
	err = write(f)
	if err == nil && mode != 0o600 {
		err = f.Chmod(mode)
	}
	if err == nil {
		err = f.Sync()
	}
	if closeErr := f.Close(); err == nil {
		err = closeErr
	}
	if err != nil {
		return err
	}
	if err := os.Rename(f.Name(), path); err != nil {
		return err
	}
	d, err := os.Open(dir)
	if err != nil {
		return nil // the file is in place; only its durability is not certain
	}
	return errors.Join(d.Sync(), d.Close())
}

// writeSpecial writes to what is no file: a pipe, /dev/null.
func writeSpecial(path string, write func(io.Writer) error) (err error) {
	info, err := os.Stat(path)
	if err != nil {
		return err
	}
	if info.IsDir() {
		return fmt.Errorf("invalid output path: %q is a directory", path)
	}
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	return errors.Join(write(f), f.Close())
}
