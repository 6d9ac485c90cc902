package build

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"

	"strake/internal/executor"
	"strake/internal/layer"
	"strake/internal/rootfs"
	"strake/internal/userns"
)

// mounting makes the mounts of one step, and takes them away again.
type mounting struct {
	solver *Solver
	work   *Work
	rt     *Runtime
	run    *Run
	dir    string // scratch on disk

	room    *rootfs.Room
	caches  map[string]string // directories, by key
	mounts  []executor.Mount
	env     []string // of secrets
	secrets [][]byte // their values
	undo    []func() error
}

// mount makes the mounts of a step. The caller closes them, even when it fails.
func (r *Run) mount(ctx context.Context, w *Work, rt *Runtime, dir string) (*mounting, error) {
	m := &mounting{solver: w.solver, work: w, rt: rt, run: r, dir: dir, caches: map[string]string{}}
	if len(r.Mounts) == 0 {
		return m, nil
	}
	if err := m.takeCaches(ctx); err != nil {
		return m, err
	}
	place, err := m.mkdir("room")
	if err != nil {
		return m, err
	}
	if m.room, err = rootfs.NewRoom(rt.Spec.NS, place); err != nil {
		return m, err
	}
	m.undo = append(m.undo, m.room.Close)
	for _, one := range r.Mounts {
		if err := m.add(ctx, one); err != nil {
			return m, err
		}
	}
	// What contains others comes before them.
	slices.SortStableFunc(m.mounts, func(a, b executor.Mount) int { return strings.Compare(a.Target, b.Target) })
	return m, nil
}

// close takes the mounts away, the last one first.
func (m *mounting) close() error {
	var errs []error
	for _, undo := range slices.Backward(m.undo) {
		errs = append(errs, undo())
	}
	m.undo = nil
	return errors.Join(errs...)
}

func (m *mounting) mkdir(name string) (string, error) {
	dir := filepath.Join(m.dir, name)
	if err := os.Mkdir(dir, 0o755); err != nil { //nolint:gosec // what a container sees as a root directory
		return "", fmt.Errorf("prepare the step: %w", err)
	}
	return dir, nil
}

func (m *mounting) add(ctx context.Context, one Mount) error {
	switch one.Type {
	case MountBind:
		return m.bind(ctx, one)
	case MountCache:
		return m.show(one, m.caches[one.cacheKey(m.work)])
	case MountTmpfs:
		return m.tmpfs(one)
	case MountSecret:
		return m.secret(one)
	case MountSSH:
		return m.ssh(ctx, one)
	}
	return fmt.Errorf("mount type %q is unknown", one.Type)
}

// show adds a bind mount of what name leads to in root.
func (m *mounting) show(one Mount, root string) error {
	source, err := m.room.Show(root, path.Join("/", one.Source), one.ReadOnly)
	if err != nil {
		return fmt.Errorf("mount %s: %w", one.Target, err)
	}
	m.bound(one, source)
	return nil
}

func (m *mounting) bound(one Mount, source string, options ...string) {
	options = append([]string{"rbind"}, options...)
	if one.ReadOnly {
		options = append(options, "ro")
	}
	m.mounts = append(m.mounts, executor.Mount{Type: "bind", Source: source, Target: one.Target, Options: options})
}

// bind shows files of a stage or of the context. What is written to them is thrown away after the step.
func (m *mounting) bind(ctx context.Context, one Mount) error {
	layers, err := m.layers(ctx, one)
	if err != nil {
		return err
	}
	root, err := m.room.Dirs()
	if err != nil {
		return err
	}
	o := rootfs.MountOptions{Layers: layers, Target: root}
	if !one.ReadOnly {
		n := strconv.Itoa(len(m.undo))
		if o.Upper, err = m.mkdir("upper" + n); err != nil {
			return err
		}
		if o.Work, err = m.mkdir("work" + n); err != nil {
			return err
		}
		o.Volatile = true
	}
	mounted, err := m.rt.Mounter.Mount(ctx, o)
	if err != nil {
		return fmt.Errorf("mount %s: %w", one.Target, err)
	}
	m.undo = append(m.undo, mounted.Close)
	return m.show(one, root)
}

// layers are the files of a mount's stage or context.
func (m *mounting) layers(ctx context.Context, one Mount) ([]layer.Files, error) {
	if one.Stage == 0 && one.Context == nil {
		return nil, nil
	}
	if one.Stage == 0 {
		files, err := m.solver.contextLayer(ctx, m.work, one)
		return []layer.Files{files}, err
	}
	return chainFiles(ctx, m.solver, m.work.Inputs[one.Stage].Layers)
}

// tmpfs shows an empty file system in memory: the container's, or one that is there for a shell after the command.
func (m *mounting) tmpfs(one Mount) error {
	if m.solver.opts.Shell != nil {
		dir, err := m.room.Tmpfs(filepath.Join(m.dir, "root"), one.Target, one.Size)
		if err == nil {
			m.bound(one, dir, "nosuid")
		}
		return err
	}
	options := []string{"nosuid"}
	if one.ReadOnly {
		options = append(options, "ro")
	}
	if one.Size > 0 {
		options = append(options, "size="+strconv.FormatInt(one.Size, 10))
	}
	m.mounts = append(m.mounts, executor.Mount{Type: "tmpfs", Source: "tmpfs", Target: one.Target, Options: options})
	return nil
}

// takeCaches takes the directories that stay. Steps that run at the same time see the same ones, or wait, or do not. All steps take
// theirs in the order of the keys, and before they take anything else, so that no two wait for each other.
func (m *mounting) takeCaches(ctx context.Context) error {
	wanted := map[string]Mount{}
	for _, one := range m.run.Mounts {
		if one.Type != MountCache {
			continue
		}
		if key := one.cacheKey(m.work); wanted[key].Type == "" {
			wanted[key] = one
		}
	}
	waits := sync.OnceFunc(func() { fmt.Fprintln(m.work.Log, "another step uses a cache mount of this one: waiting for it") })
	for _, key := range slices.Sorted(maps.Keys(wanted)) {
		one := wanted[key]
		label := fmt.Sprintf("cached mount %s from exec %s with id %q", one.Target, strings.Join(m.run.Args, " "), one.ID)
		dir, release, err := m.solver.opts.Store.CacheMount(ctx, key, label, one.Sharing, waits, func(dir string) error {
			return m.fill(ctx, dir, one)
		})
		if err != nil {
			return err
		}
		m.undo = append(m.undo, release)
		m.caches[key] = dir
	}
	return nil
}

// cacheKey names the directory of a MountCache: whose files it began with, and whose it was, tell it from others of its ID.
func (m *Mount) cacheKey(w *Work) string {
	key := fmt.Sprintf("%q", m.ID)
	if m.Stage > 0 {
		key += " from " + chainID(w.Inputs[m.Stage].Layers).String()
	}
	if m.ownsCache() {
		key += fmt.Sprintf(" %d:%d:%o", m.UID, m.GID, m.Mode)
	}
	return key
}

// ownsCache reports whether the owner and mode of a MountCache are those of the whole cache.
func (m *Mount) ownsCache() bool { return m.Owned && path.Join("/", m.Source) == "/" }

// fill makes a new cache: empty, with the files of a stage, or as it was where the build takes its cache from.
func (m *mounting) fill(ctx context.Context, dir string, one Mount) error {
	if err := os.Chmod(dir, 0o755); err != nil { //nolint:gosec // what a container sees, in a closed directory
		return err
	}
	if found, err := m.fetchMount(ctx, one.cacheKey(m.work), dir); found || err != nil {
		return err
	}
	layers, err := m.layers(ctx, one)
	if err != nil {
		return err
	}
	for _, l := range layers {
		if err := rootfs.Extract(ctx, l, dir); err != nil {
			return fmt.Errorf("fill the cache mount: %w", err)
		}
	}
	if !one.ownsCache() {
		return nil
	}
	uid, gid := userns.Owner(one.UID, one.GID)
	return errors.Join(os.Chown(dir, uid, gid), os.Chmod(dir, one.Mode))
}

// secret shows a value in a file that is only in memory, in a variable, or both.
func (m *mounting) secret(one Mount) error {
	value, found, err := m.solver.secret(one)
	if err != nil {
		return err
	}
	if found {
		m.secrets = append(m.secrets, value)
	}
	if one.Env != "" {
		m.env = append(m.env, one.Env+"="+string(value))
	}
	if !found || one.Target == "" {
		return nil
	}
	file, err := m.room.File(value, rootfs.Attributes{UID: one.UID, GID: one.GID, Mode: one.Mode})
	if err != nil {
		return err
	}
	options := []string{"nodev", "nosuid"}
	if one.Mode&0o111 == 0 {
		options = append(options, "noexec")
	}
	one.ReadOnly = true
	m.bound(one, file, options...)
	return nil
}

// ssh shows a socket behind which an agent is.
func (m *mounting) ssh(ctx context.Context, one Mount) error {
	agents := m.solver.opts.Agents
	if agents == nil || !agents.Has(one.ID) {
		if !one.Required {
			return nil
		}
		return fmt.Errorf("unset ssh forward key %s: lend an agent by --ssh", one.ID)
	}
	l, socket, err := m.room.Listen(ctx, rootfs.Attributes{UID: one.UID, GID: one.GID, Mode: one.Mode})
	if err != nil {
		return err
	}
	served := make(chan error, 1)
	go func() { served <- agents.Serve(l, one.ID) }()
	m.undo = append(m.undo, func() error { return errors.Join(l.Close(), <-served) })
	one.ReadOnly = false
	m.bound(one, socket)
	return nil
}

// contextLayer is a layer with the files that a mount shows of the context, made once for all steps that show them. It is not kept.
func (s *Solver) contextLayer(ctx context.Context, w *Work, one Mount) (layer.Files, error) {
	c, err := one.Context(ctx)
	if err != nil {
		return layer.Files{}, err
	}
	s.shownMu.Lock()
	defer s.shownMu.Unlock()
	key := shown{c, one.Source}
	if l, ok := s.shown[key]; ok {
		return l.Files(), nil
	}
	o, err := openSource(ctx, w, one.source(), nil)
	if err != nil {
		return layer.Files{}, err
	}
	l, err := s.opts.Store.StageLayer(ctx, func(out io.Writer) error { return writeShown(ctx, s, o, out) })
	if err != nil {
		return layer.Files{}, fmt.Errorf("read the build context: %w", err)
	}
	if s.shown == nil {
		s.shown = map[shown]layer.Staged{}
	}
	s.shown[key] = l
	return l.Files(), nil
}

// shown names files of a context.
type shown struct {
	context *Context
	path    string
}

// writeShown writes a source with the directories and links that lead to it, each in its own place.
func writeShown(ctx context.Context, s *Solver, o *opened, out io.Writer) error {
	p := &plan{lower: memTree{}, now: s.created(), files: map[string]planned{}, absent: map[string]bool{}}
	put := func(n node) error { return p.set(planned{node: n, from: o.tree, source: n.path}) }
	for _, name := range o.matches {
		resolved, err := follow(func(name string) (node, error) {
			n, err := o.tree.lstat(name)
			if err == nil && name != "." {
				err = put(n)
			}
			return n, err
		}, name)
		if err == nil {
			err = o.tree.walk(resolved, put)
		}
		if err != nil {
			return err
		}
	}
	tw := newTarWriter(out, s.opts.Epoch)
	if err := p.flush(ctx, tw); err != nil {
		return err
	}
	return tw.Close()
}
