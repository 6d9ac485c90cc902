package engine

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/containerd/errdefs"
	imagespec "github.com/moby/docker-image-spec/specs-go/v1"

	"strake/internal/executor"
	"strake/internal/layer"
	"strake/internal/mount"
	"strake/internal/rootfs"
)

// RunOptions say what to run and how. What is unset is the image's.
type RunOptions struct {
	Ref        string
	Platform   string   // which image of an index; "" is the one that stands for it
	Entrypoint *string  // instead of the image's entry point and command; "" for none
	Args       []string // instead of the image's command
	Env        []string // KEY=value, added to the image's
	Workdir    string
	User       string
	Hostname   string
	Network    string // host (also "", default) or none
	Name       string // checked; containers are not listed yet
	ReadOnly   bool
	Volumes    []string // SOURCE:TARGET[:OPTIONS], SOURCE an absolute path

	// Warn, when not nil, is told what a user should know before the process
	// starts.
	Warn func(text string)

	Terminal bool
	Stdin    io.Reader // nil is empty
	Stdout   io.Writer
	Stderr   io.Writer
	Signals  <-chan os.Signal // sent to the process as they come
}

// RunResult says how the process ended.
type RunResult struct {
	ExitCode int // 128 and the signal's number when a signal ended it
}

// Run runs a process in a new container of an image and waits for it. What it
// changed in the image's files is removed with the container. A process that
// could not be started fails with errdefs.ErrNotFound where the command does
// not exist, with errdefs.ErrPermissionDenied where it cannot be executed.
// Cancelling ctx kills it.
func Run(ctx context.Context, env *Env, opts RunOptions) (result RunResult, err error) {
	img, err := use(ctx, env, opts.Ref, opts.Platform)
	if err != nil {
		return RunResult{}, err
	}
	if err := runnable(img, opts); err != nil {
		return RunResult{}, err
	}
	config, err := readConfig(ctx, env, img)
	if err != nil {
		return RunResult{}, err
	}
	spec, err := runSpec(config, opts)
	if err != nil {
		return RunResult{}, err
	}
	files := make([]layer.Files, len(config.RootFS.DiffIDs))
	for i, id := range config.RootFS.DiffIDs {
		if files[i], err = env.Store.Layer(ctx, id); err != nil {
			return RunResult{}, err
		}
	}
	dir, err := env.Store.TempDir(ctx)
	if err != nil {
		return RunResult{}, err
	}
	defer closing(&err, func() error { return os.RemoveAll(dir) })
	for _, name := range []string{"rootfs", "upper", "work"} {
		if err := os.Mkdir(filepath.Join(dir, name), 0o755); err != nil { //nolint:gosec // the upper directory is the container's root
			return RunResult{}, fmt.Errorf("make container: %w", err)
		}
	}
	ns, err := mount.New(ctx)
	if err != nil {
		return RunResult{}, err
	}
	defer closing(&err, ns.Close)
	mounter, _, err := pickMounter(ctx, env, ns)
	if err != nil {
		return RunResult{}, err
	}
	mounted, err := mounter.Mount(ctx, rootfs.MountOptions{
		Layers: files, Target: filepath.Join(dir, "rootfs"), Upper: filepath.Join(dir, "upper"), Work: filepath.Join(dir, "work"),
		Volatile: true, Stubs: true,
	})
	if err != nil {
		return RunResult{}, err
	}
	defer closing(&err, mounted.Close)
	spec.Bundle, spec.Rootfs, spec.NS = filepath.Join(dir, "bundle"), filepath.Join(dir, "rootfs"), ns
	return execute(ctx, spec)
}

func execute(ctx context.Context, spec executor.Spec) (result RunResult, err error) {
	runc, err := executor.NewRunc(executor.RuncOptions{})
	if err != nil {
		return RunResult{}, err
	}
	defer closing(&err, runc.Close)
	code, err := runc.Run(ctx, spec)
	if failed, ok := errors.AsType[*executor.StartError](err); ok {
		message := failed.Message
		if strings.HasPrefix(message, "runc ") || strings.HasPrefix(message, "crun") {
			message = "failed to create task for container: failed to create shim task: OCI runtime create failed: " + message
		}
		return RunResult{}, messageError{message, failed.Err}
	}
	return RunResult{ExitCode: code}, err
}

// runSpec puts the image's config and the options together.
func runSpec(config imagespec.DockerOCIImage, opts RunOptions) (executor.Spec, error) {
	var id [32]byte
	if _, err := rand.Read(id[:]); err != nil {
		return executor.Spec{}, fmt.Errorf("name container: %w", err)
	}
	spec := executor.Spec{
		ID:       hex.EncodeToString(id[:]),
		Args:     command(config, opts),
		Env:      mergeEnv(config.Config.Env, opts.Env),
		Cwd:      first(opts.Workdir, config.Config.WorkingDir, "/"),
		User:     first(opts.User, config.Config.User),
		Hostname: opts.Hostname,
		Network:  opts.Network,
		ReadOnly: opts.ReadOnly,
		Terminal: opts.Terminal,
		Stdin:    opts.Stdin,
		Stdout:   opts.Stdout,
		Stderr:   opts.Stderr,
		Signals:  opts.Signals,
	}
	if opts.Name != "" && !validName(opts.Name) {
		return spec, messageError{fmt.Sprintf("Invalid container name (%s), only [a-zA-Z0-9][a-zA-Z0-9_.-] are allowed", opts.Name), errdefs.ErrInvalidArgument}
	}
	if len(spec.Args) == 0 {
		return spec, messageError{"no command specified", errdefs.ErrInvalidArgument}
	}
	if !filepath.IsAbs(spec.Cwd) {
		return spec, messageError{fmt.Sprintf("the working directory '%s' is invalid, it needs to be an absolute path", spec.Cwd), errdefs.ErrInvalidArgument}
	}
	switch opts.Network {
	case "", "default", executor.NetworkHost:
		spec.Network = executor.NetworkHost
	case executor.NetworkNone:
	default:
		return spec, messageError{fmt.Sprintf("network %s not found", opts.Network), errdefs.ErrNotFound}
	}
	if spec.Hostname == "" && spec.Network == executor.NetworkHost {
		name, err := os.Hostname()
		if err != nil {
			return spec, fmt.Errorf("name container: %w", err)
		}
		spec.Hostname = name
	}
	if spec.Hostname == "" {
		spec.Hostname = spec.ID[:12]
	}
	if !slices.ContainsFunc(spec.Env, func(e string) bool { return strings.HasPrefix(e, "HOSTNAME=") }) {
		spec.Env = append([]string{"HOSTNAME=" + spec.Hostname}, spec.Env...)
	}
	if spec.Terminal && !slices.ContainsFunc(spec.Env, func(e string) bool { return strings.HasPrefix(e, "TERM=") }) {
		spec.Env = append(spec.Env, "TERM=xterm")
	}
	for _, v := range opts.Volumes {
		m, err := parseVolume(v)
		if err != nil {
			return spec, err
		}
		spec.Mounts = append(spec.Mounts, m)
	}
	return spec, nil
}

// validName reports whether docker would take the name for a container.
func validName(name string) bool {
	const letters = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789"
	return len(name) > 1 && strings.Contains(letters, name[:1]) && strings.Trim(name, letters+"_.-") == ""
}

// command is what to run: an entry point that is given drops the image's
// command.
func command(config imagespec.DockerOCIImage, opts RunOptions) []string {
	entrypoint, args := config.Config.Entrypoint, config.Config.Cmd
	if opts.Entrypoint != nil {
		entrypoint, args = nil, nil
		if *opts.Entrypoint != "" {
			entrypoint = []string{*opts.Entrypoint}
		}
	}
	if len(opts.Args) > 0 {
		args = opts.Args
	}
	return slices.Concat(entrypoint, args)
}

// mergeEnv adds variables to a base, in whose place they come. One without =
// removes it.
func mergeEnv(base, more []string) []string {
	merged := slices.Clone(base)
	for _, e := range more {
		key, _, set := strings.Cut(e, "=")
		at := slices.IndexFunc(merged, func(old string) bool { return strings.HasPrefix(old, key+"=") })
		switch {
		case at >= 0 && set:
			merged[at] = e
		case at >= 0:
			merged = slices.Delete(merged, at, at+1)
		case set:
			merged = append(merged, e)
		}
	}
	return merged
}

func first(values ...string) string {
	for _, v := range values {
		if v != "" {
			return v
		}
	}
	return ""
}

// parseVolume reads -v. A source directory that is missing is made, as docker
// does.
func parseVolume(v string) (executor.Mount, error) {
	invalid := func(why string) error {
		return messageError{fmt.Sprintf("invalid volume specification: '%s'%s", v, why), errdefs.ErrInvalidArgument}
	}
	parts := strings.Split(v, ":")
	if len(parts) < 2 || len(parts) > 3 || parts[0] == "" {
		if len(parts) == 1 {
			return executor.Mount{}, messageError{"anonymous volumes are not yet supported: " + v, errdefs.ErrNotImplemented}
		}
		return executor.Mount{}, invalid("")
	}
	source, target := parts[0], parts[1]
	if !filepath.IsAbs(target) {
		return executor.Mount{}, invalid(fmt.Sprintf(": invalid mount config for type \"bind\": invalid mount path: '%s' mount path must be absolute", target))
	}
	if target = filepath.Clean(target); target == "/" {
		return executor.Mount{}, invalid(": invalid specification: destination can't be '/'")
	}
	if !filepath.IsAbs(source) {
		return executor.Mount{}, messageError{fmt.Sprintf("named volumes are not yet supported: %q is no path", source), errdefs.ErrNotImplemented}
	}
	options := []string{"rbind", "rprivate"}
	if len(parts) == 3 {
		for _, o := range strings.Split(parts[2], ",") {
			switch o {
			case "ro", "rw", "private", "rprivate", "shared", "rshared", "slave", "rslave":
				options = append(options, o)
			case "z", "Z", "nocopy", "cached", "delegated", "consistent":
			default:
				return executor.Mount{}, messageError{fmt.Sprintf("invalid mode: %s", parts[2]), errdefs.ErrInvalidArgument}
			}
		}
	}
	if err := os.MkdirAll(source, 0o755); err != nil && !isFile(source) { //nolint:gosec // as docker makes it
		return executor.Mount{}, fmt.Errorf("error while creating mount source path '%s': %w", source, err)
	}
	return executor.Mount{Type: "bind", Source: filepath.Clean(source), Target: target, Options: options}, nil
}

func isFile(path string) bool {
	info, err := os.Stat(path)
	return err == nil && !info.IsDir()
}
