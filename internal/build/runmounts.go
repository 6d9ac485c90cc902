package build

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"path"
	"strconv"
	"strings"

	"github.com/containerd/errdefs"
)

// Types of a Mount.
const (
	MountBind   = "bind"   // files of a stage, an image or the context
	MountCache  = "cache"  // a directory that stays from build to build
	MountTmpfs  = "tmpfs"  // an empty file system in memory
	MountSecret = "secret" // a value that the build was given
	MountSSH    = "ssh"    // the socket of an SSH agent
)

// Mount is something that a Run's command sees beside its files: RUN --mount.
type Mount struct {
	Type     string
	Target   string // absolute; "" for a secret that is only a variable
	ReadOnly bool   `json:",omitempty"`

	// Of MountBind, and for what a new MountCache holds.
	Source  string                                  `json:",omitempty"` // path in the stage, image, context or cache
	Stage   int                                     `json:",omitempty"` // index into the vertex's inputs, 1 or more; 0: the context, or nothing
	Context func(context.Context) (*Context, error) `json:"-"`          // of a MountBind without a Stage

	// Of MountCache, MountSecret and MountSSH.
	ID       string      `json:",omitempty"`
	Sharing  string      `json:",omitempty"` // of a MountCache: shared, private or locked
	UID      int         `json:",omitempty"`
	GID      int         `json:",omitempty"`
	Mode     fs.FileMode `json:",omitempty"`
	Owned    bool        `json:",omitempty"` // UID, GID or Mode were given
	Required bool        `json:",omitempty"` // of MountSecret and MountSSH: the step fails without it
	Env      string      `json:",omitempty"` // of MountSecret: the variable that has the value; "" for none

	Size int64 `json:",omitempty"` // of MountTmpfs, bytes; 0 is the kernel's choice
}

// Secrets are the values that a build was given.
type Secrets interface {
	// Secret returns a value, or fails with errdefs.ErrNotFound.
	Secret(id string) ([]byte, error)
}

// Agents are the SSH agents that a build was lent.
type Agents interface {
	// Has reports whether there is one of this ID; "" is the default one.
	Has(id string) bool
	// Serve lends it to all who connect to l, until l is closed.
	Serve(l net.Listener, id string) error
}

// CacheMounts keeps the directories of MountCache.
type CacheMounts interface {
	// CacheMount returns the directory that key names, shared, private or locked as sharing says; a new one is made by fill in an
	// empty directory. label is for people. Where it has to wait it calls busy first. release ends its use.
	CacheMount(ctx context.Context, key, label, sharing string, busy func(), fill func(dir string) error) (dir string, release func() error, err error)
	// ReadCacheMount calls read with the directory of one that nobody uses, nor gets meanwhile. It fails with errdefs.ErrNotFound
	// where there is none.
	ReadCacheMount(ctx context.Context, key, label string, busy func(), read func(dir string) error) error
}

// inputs names what the result depends on of the mounts: which there are, and the files that are read from them. What a cache
// holds and what a secret is, is left out, and so is which cache it is where it was given an ID of its own.
func (r *Run) mountInputs(ctx context.Context, w *Work) ([]Input, error) {
	w.solver.opts.Exchange.useMounts(w, r.Mounts)
	var inputs []Input
	for _, m := range r.Mounts {
		inputs = append(inputs, Input{Name: "mount " + m.name(), Value: m.canonical()})
		if m.Type != MountBind && (m.Type != MountCache || m.Stage == 0) {
			continue
		}
		in, err := m.files(ctx, w)
		if err != nil {
			return nil, err
		}
		inputs = append(inputs, in)
	}
	return inputs, nil
}

// name tells a mount from others of its step.
func (m *Mount) name() string {
	if m.Target == "" {
		return m.Type + " $" + m.Env
	}
	return m.Target
}

// canonical is what the cache key has of a mount itself.
func (m *Mount) canonical() string {
	b := []string{m.Type}
	add := func(key string, value any) { b = append(b, fmt.Sprintf("%s=%q", key, fmt.Sprint(value))) }
	if m.ReadOnly {
		add("ro", true)
	}
	switch m.Type {
	case MountSecret, MountSSH:
		add("id", m.ID)
		add("required", m.Required)
		add("mode", strconv.FormatUint(uint64(m.Mode), 8))
		add("uid", m.UID)
		add("gid", m.GID)
	case MountCache:
		if source := path.Join("/", m.Source); source != "/" {
			add("source", source)
		}
		if _, id, _ := strings.Cut(m.ID, "/"); id == m.Target && m.Sharing == "shared" { // as BuildKit does
			add("id", m.ID)
		}
		if m.Owned {
			add("mode", strconv.FormatUint(uint64(m.Mode), 8))
			add("uid", m.UID)
			add("gid", m.GID)
		}
	case MountTmpfs:
		add("size", m.Size)
	}
	if m.Env != "" {
		add("env", m.Env)
	}
	return strings.Join(b, ",")
}

// files is what a mount shows of a stage or the context, as the cache key has it.
func (m *Mount) files(ctx context.Context, w *Work) (Input, error) {
	src := m.source()
	name := "files of " + m.Target
	if m.Stage > 0 {
		sum, err := w.stageSum(ctx, src, nil)
		return Input{Name: name, Value: sum, Stage: m.Stage}, err
	}
	o, err := openSource(ctx, w, src, nil)
	if err != nil {
		return Input{}, err
	}
	var listing bytes.Buffer
	if err := o.list(&listing); err != nil {
		return Input{}, err
	}
	sum := sha256.Sum256(listing.Bytes())
	return Input{Name: name, Value: "sha256:" + hex.EncodeToString(sum[:]), Listing: listing.Bytes()}, nil
}

// source is where the files of a mount are; its path stands for itself.
func (m *Mount) source() Source {
	return Source{Stage: m.Stage, Context: m.Context, Path: LiteralPath(m.Source)}
}

// LiteralPath is a path for Source.Path that matches only itself.
func LiteralPath(path string) string {
	return strings.NewReplacer(`\`, `\\`, "*", `\*`, "?", `\?`, "[", `\[`).Replace(path)
}

// secret returns the value of a mount's secret; none: there is none, and it is not required.
func (s *Solver) secret(m Mount) (value []byte, found bool, err error) {
	if s.opts.Secrets != nil {
		value, err = s.opts.Secrets.Secret(m.ID)
	} else {
		err = errdefs.ErrNotFound
	}
	switch {
	case err == nil:
		return value, true, nil
	case !errdefs.IsNotFound(err):
		return nil, false, fmt.Errorf("secret %s: %w", m.ID, err)
	case m.Required:
		return nil, false, fmt.Errorf("secret %s: %w", m.ID, errSecret)
	}
	return nil, false, nil
}

// errSecret says that a value was not given.
var errSecret = errors.New("not found: give it by --secret id=ID,src=FILE or id=ID,env=VARIABLE")
