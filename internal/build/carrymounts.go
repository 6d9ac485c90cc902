package build

import (
	"context"
	"errors"
	"io"
	"maps"
	"os"
	"path"
	"slices"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"

	"strake/internal/archive"
	"strake/internal/layer"
	"strake/internal/userns"
)

// UsedMount is a cache mount of steps that were solved, whether they ran or not.
type UsedMount struct {
	Digest digest.Digest // of its key, as others know it
	Name   string        // for people
	key    string
}

// useMounts notes the cache mounts of a step, and which secrets it may have put into them.
func (x *Exchange) useMounts(w *Work, mounts []Mount) {
	x.mu.Lock()
	defer x.mu.Unlock()
	for _, m := range mounts {
		switch m.Type {
		case MountCache:
			key := m.cacheKey(w)
			x.mounts[key] = UsedMount{Digest: digest.FromString(key), Name: strings.TrimPrefix(m.ID, "/"), key: key}
		case MountSecret:
			x.secrets[m.ID] = m
		}
	}
}

// UsedMounts lists the cache mounts of the steps that were solved, in the order of their keys.
func (x *Exchange) UsedMounts() []UsedMount {
	x.mu.Lock()
	defer x.mu.Unlock()
	var list []UsedMount
	for _, key := range slices.Sorted(maps.Keys(x.mounts)) {
		list = append(list, x.mounts[key])
	}
	return list
}

// shownSecrets are the values that steps were shown, those in the cache too.
func (x *Exchange) shownSecrets(s *Solver) (values [][]byte, err error) {
	x.mu.Lock()
	defer x.mu.Unlock()
	for _, m := range x.secrets {
		m.Required = false // the step said it where it is
		value, found, err := s.secret(m)
		if err != nil {
			return nil, err
		}
		if found {
			values = append(values, value)
		}
	}
	return values, nil
}

// WriteMount writes what a cache mount holds as the tar of a layer, whose root directory is that of the mount, while nobody uses it;
// busy is told when it has to wait. The bytes follow from the files alone. Sockets, and what a layer cannot hold, are left out. It fails with
// errdefs.ErrNotFound where there is no such mount here, and with a *SecretError where it holds a value that a step was shown.
func WriteMount(ctx context.Context, s *Solver, m UsedMount, busy func(), out io.Writer) error {
	secrets, err := s.opts.Exchange.shownSecrets(s)
	if err != nil {
		return err
	}
	return s.opts.Store.ReadCacheMount(ctx, m.key, m.Name, busy, func(dir string) error {
		look := &finder{w: out, texts: whole(secrets)}
		tw := archive.NewWriter(look, archive.WriterOptions{})
		err := layer.Diff(ctx, dir, tw, layer.DiffOptions{Root: true, Skip: func(name string) bool { return strings.HasPrefix(path.Base(name), ".wh.") }})
		if err == nil {
			err = tw.Close()
		}
		if err == nil && look.found {
			err = leaked(dir, look.texts)
		}
		return err
	})
}

// fetchMount fills a new cache mount with what a remote cache has of it; false: none has. A cache that fails is as good as one that
// has nothing, and leaves nothing behind.
func (m *mounting) fetchMount(ctx context.Context, key, dir string) (found bool, err error) {
	for _, remote := range m.solver.opts.Exchange.Remote {
		err := fetchTree(ctx, remote, digest.FromString(key), dir)
		if err == nil {
			return true, nil
		}
		if ctx.Err() != nil {
			return false, context.Cause(ctx)
		}
		if errdefs.IsNotFound(err) {
			continue
		}
		if p, ok := m.work.Log.(*Reporter); ok {
			p.Warn("a cache mount begins empty, for its cache cannot be used: %v\n", err)
		}
		if err := errors.Join(os.RemoveAll(dir), os.Mkdir(dir, 0o755)); err != nil { //nolint:gosec // as fill makes it
			return false, err
		}
	}
	return false, nil
}

func fetchTree(ctx context.Context, from RemoteCache, key digest.Digest, dir string) error {
	tar, err := from.OpenMount(ctx, key)
	if err != nil {
		return err
	}
	return errors.Join(archive.Extract(ctx, tar, dir, archive.ExtractOptions{IDs: userns.IDs()}), tar.Close())
}
