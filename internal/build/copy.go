package build

import (
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path"
	"strconv"
	"strings"

	"github.com/opencontainers/go-digest"
)

// Copy adds files to its parent: the COPY and ADD instructions.
type Copy struct {
	Sources []Source
	// Dest is the absolute destination. One that ends in "/" is a directory.
	Dest string
	// Owner, as in USER, owns all that is copied; "" keeps the owner.
	Owner string
	// Mode is what chmod takes, octal or symbolic; "" keeps the mode.
	Mode string
	// Exclude are patterns, as in an ignore file, of what is left out below the
	// directories that are copied.
	Exclude []string `json:",omitempty"`
	// Instruction is the canonical text that the cache key has.
	Instruction string
}

// Source is one source of a Copy. Exactly one of Context, Stage, Inline and URL
// is set.
type Source struct {
	Context func(context.Context) (*Context, error) `json:"-"` // the build context, loaded once
	Stage   int                                     // index into the vertex's inputs, 1 or more
	Inline  *Inline
	URL     *URL

	// Path is where in the context or stage, with wildcards.
	Path string
	// Parents, when not "", is the pattern below Path of what is copied, with the
	// directories that lead from Path to it.
	Parents string `json:",omitempty"`
	// Unpack extracts the file when it is a tar archive, compressed or not.
	Unpack bool
}

// Inline is a file whose content stands in the Dockerfile.
type Inline struct {
	Name string
	Data []byte
	Mode fs.FileMode
}

// NotFoundError is a source that is not there.
type NotFoundError struct {
	Path    string // as in the instruction
	Where   string // what was looked through
	Ignored bool   // it is there but the ignore file leaves it out
}

func (e *NotFoundError) Error() string {
	s := fmt.Sprintf("failed to compute cache key: failed to calculate checksum of ref %s: %q: not found", cmp.Or(e.Where, "context"), e.Path)
	if e.Ignored {
		s += " (excluded by .dockerignore)"
	}
	return s
}

// Is makes it an fs.ErrNotExist.
func (e *NotFoundError) Is(target error) bool { return target == fs.ErrNotExist }

// opened is a source that can be read.
type opened struct {
	Source
	tree    tree
	ctx     *Context // of a context source
	matches []string
}

// Prepare is Op's.
func (c *Copy) Prepare(ctx context.Context, w *Work) (Step, error) {
	inputs := []Input{{Name: "instruction", Value: c.Instruction}}
	var listing bytes.Buffer
	sources := make([]*opened, len(c.Sources))
	for i, src := range c.Sources {
		if src.Unpack {
			inputs = append(inputs, Input{Name: "unpack " + strconv.Itoa(i), Value: "true"})
		}
		if src.Parents != "" {
			inputs = append(inputs, Input{Name: "parents " + strconv.Itoa(i), Value: src.Path + "/./" + src.Parents})
		}
		if src.Stage > 0 {
			sum, err := w.stageSum(ctx, src, c.Exclude)
			if err != nil {
				return Step{}, err
			}
			inputs = append(inputs, Input{Name: "files " + strconv.Itoa(i) + " " + src.Path, Value: sum, Stage: src.Stage})
			continue
		}
		o, err := openSource(ctx, w, src, c.Exclude)
		if err != nil {
			return Step{}, err
		}
		if err := errors.Join(o.list(&listing), w.secretsCopied(o)); err != nil {
			return Step{}, err
		}
		sources[i] = o
	}
	if listing.Len() > 0 {
		sum := sha256.Sum256(listing.Bytes())
		inputs = append(inputs, Input{Name: "files", Value: "sha256:" + hex.EncodeToString(sum[:]), Listing: listing.Bytes()})
	}
	return Step{Inputs: inputs, Make: func(ctx context.Context, out io.Writer) error {
		for i, src := range c.Sources {
			if sources[i] != nil {
				continue
			}
			o, err := openSource(ctx, w, src, c.Exclude)
			if err != nil {
				return err
			}
			sources[i] = o
		}
		return c.write(ctx, w, sources, out)
	}}, nil
}

// stageSum is the digest of the listing of a stage source. A stage never
// changes, so the digest is kept in the cache and its layers are read once.
func (w *Work) stageSum(ctx context.Context, src Source, exclude []string) (string, error) {
	chain := w.Inputs[src.Stage].Layers
	part := append([]string{src.Path, src.Parents}, exclude...)
	id := sha256.Sum256(fmt.Appendf(nil, "%s\n%s\n%q", keyFormat, chainID(chain), part))
	key := "tree:" + hex.EncodeToString(id[:])
	if b, err := w.solver.opts.Store.LoadCache(ctx, key); err == nil {
		return string(b), nil
	}
	o, err := openSource(ctx, w, src, exclude)
	if err != nil {
		return "", err
	}
	var listing bytes.Buffer
	if err := o.list(&listing); err != nil {
		return "", err
	}
	raw := sha256.Sum256(listing.Bytes())
	sum := "sha256:" + hex.EncodeToString(raw[:])
	if err := w.solver.opts.Store.SaveCache(ctx, key, key, nil, []byte(sum)); err != nil {
		return "", fmt.Errorf("save the cache record: %w", err)
	}
	return sum, nil
}

// openSource makes the source readable and finds what it names.
func openSource(ctx context.Context, w *Work, src Source, exclude []string) (*opened, error) {
	o := &opened{Source: src}
	where := "context"
	switch {
	case src.Inline != nil:
		in := src.Inline
		o.tree = memTree{
			node: node{
				path: lexical(in.Name), mode: in.Mode, size: int64(len(in.Data)),
				mtime: w.solver.created(), sum: sha256.Sum256(in.Data),
			},
			opener: func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(in.Data)), nil },
		}
		o.matches = []string{lexical(in.Name)}
		return o, nil
	case src.URL != nil:
		t, err := w.download(ctx, *src.URL)
		if err != nil {
			return nil, err
		}
		o.tree, o.matches = t, []string{t.path}
		return o, nil
	case src.Stage > 0:
		t, err := w.solver.chain(ctx, w.Inputs[src.Stage].Layers)
		if err != nil {
			return nil, err
		}
		o.tree, where = t, w.vertex.Inputs[src.Stage].Name
	default:
		c, err := src.Context(ctx)
		if err != nil {
			return nil, err
		}
		o.tree, o.ctx = c, c
	}
	if src.Parents != "" || len(exclude) > 0 {
		f := filtered{tree: o.tree, exclude: exclude}
		if src.Parents != "" {
			f.include = []string{src.Parents}
		}
		o.tree = f
	}
	return o, o.find(where)
}

// find finds what the source names; where is what errors call the tree.
func (o *opened) find(where string) error {
	missing := func(m string) error {
		return &NotFoundError{Path: "/" + m, Where: where, Ignored: o.ctx != nil && o.ctx.ignored(m)}
	}
	needed := ""
	if o.Parents != "" && !hasWildcards(o.Path) && !hasWildcards(o.Parents) {
		needed = lexical(path.Join(o.Path, o.Parents))
	}
	matches, err := glob(o.tree, o.Path)
	if err != nil {
		return err
	}
	found := needed == ""
	for _, m := range matches {
		resolved, err := follow(o.tree.lstat, m)
		if err == nil {
			_, err = o.tree.lstat(resolved)
		}
		if errors.Is(err, fs.ErrNotExist) {
			return missing(cmp.Or(needed, m))
		}
		if err == nil && !found {
			err = o.tree.walk(resolved, func(n node) error {
				found = found || n.path != resolved
				return nil
			})
		}
		if err != nil {
			return fmt.Errorf("read %q: %w", m, err)
		}
	}
	o.matches = matches
	if !found {
		return missing(needed)
	}
	return nil
}

// list writes one line per file: what it is, then its path. Files of the
// context count as git sees them: kind, executable or not, content. Those of a
// stage count with mode, owner and extended attributes too.
func (o *opened) list(b *bytes.Buffer) error {
	inodes := map[uint64]string{}
	for _, m := range o.matches {
		resolved, err := follow(o.tree.lstat, m)
		if err != nil {
			return err
		}
		err = o.tree.walk(resolved, func(n node) error {
			if n.mode.IsRegular() && n.sum == [32]byte{} {
				if n.sum, err = sumOf(o.tree, n); err != nil {
					return err
				}
			}
			o.line(b, n, inodes)
			b.WriteByte(' ')
			name := path.Join(m, below(resolved, n.path))
			if strings.ContainsAny(name, "\n\\") {
				name = strconv.Quote(name)
			}
			b.WriteString(name)
			b.WriteByte('\n')
			return nil
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// line writes what the file is, without spaces.
func (o *opened) line(b *bytes.Buffer, n node, inodes map[uint64]string) {
	switch {
	case n.mode.IsDir():
		b.WriteByte('d')
	case n.mode.Type() == fs.ModeSymlink:
		b.WriteString("l:")
		b.WriteString(strconv.Quote(n.link))
	case !n.mode.IsRegular():
		fmt.Fprintf(b, "n:%o:%d:%d", uint32(n.mode), n.major, n.minor)
	case n.mode&0o100 != 0:
		b.WriteString("x:")
		b.Write(hex.AppendEncode(b.AvailableBuffer(), n.sum[:]))
	default:
		b.WriteString("f:")
		b.Write(hex.AppendEncode(b.AvailableBuffer(), n.sum[:]))
	}
	if o.Stage == 0 {
		if special := n.mode & (fs.ModeSetuid | fs.ModeSetgid | fs.ModeSticky); special != 0 {
			fmt.Fprintf(b, ":%o", uint32(special)) // no umask makes these
		}
		return
	}
	fmt.Fprintf(b, ":%o:%d:%d", uint32(n.mode), n.uid, n.gid)
	if len(n.xattr) > 0 {
		fmt.Fprintf(b, ":%x", sha256.Sum256(fmt.Appendf(nil, "%q", n.xattr)))
	}
	if n.ino != 0 {
		if first, ok := inodes[n.ino]; ok {
			b.WriteString(":" + strconv.Quote(first))
		} else {
			inodes[n.ino] = n.path
		}
	}
}

func sumOf(t tree, n node) (sum [32]byte, err error) {
	f, err := t.open(n.path)
	if err != nil {
		return sum, fmt.Errorf("read %q: %w", n.path, err)
	}
	h := sha256.New()
	_, err = io.Copy(h, f)
	if err = errors.Join(err, f.Close()); err != nil {
		return sum, fmt.Errorf("read %q: %w", n.path, err)
	}
	h.Sum(sum[:0])
	return sum, nil
}

// write plans the copy and writes the layer.
func (c *Copy) write(ctx context.Context, w *Work, sources []*opened, out io.Writer) error {
	p, err := newPlan(ctx, w, c.Owner)
	if err != nil {
		return err
	}
	if c.Mode != "" {
		if p.chmod, err = ParseMode(c.Mode); err != nil {
			return err
		}
	}
	tw := newTarWriter(out, w.solver.opts.Epoch)
	for _, o := range sources {
		for _, m := range o.matches {
			if o.Unpack {
				done, err := p.unpack(ctx, o.tree, m, c.Dest, tw)
				if err != nil {
					return fmt.Errorf("unpack %s: %w", m, err)
				}
				if done {
					continue
				}
			}
			if err := p.copy(o.tree, m, c.Dest); err != nil {
				return err
			}
		}
	}
	if err := p.flush(ctx, tw); err != nil {
		return err
	}
	return tw.Close()
}

// Mkdir makes a directory and its missing parents: the WORKDIR instruction.
type Mkdir struct {
	Path string // absolute
	User string // as in USER; "" is root
}

// Prepare is Op's.
func (m *Mkdir) Prepare(_ context.Context, w *Work) (Step, error) {
	return Step{
		Inputs: []Input{{Name: "instruction", Value: "WORKDIR " + m.Path}, {Name: "user", Value: m.User}},
		Make: func(ctx context.Context, out io.Writer) error {
			p, err := newPlan(ctx, w, m.User)
			if err != nil {
				return err
			}
			if err := p.mkdirAll(m.Path, 0o755); err != nil {
				return err
			}
			tw := newTarWriter(out, w.solver.opts.Epoch)
			if err := p.flush(ctx, tw); err != nil {
				return err
			}
			return tw.Close()
		},
	}, nil
}

// Base is a base image, or, without layers, nothing.
type Base struct {
	Layers []digest.Digest // diffIDs, bottom first
}

// Prepare is Op's.
func (b *Base) Prepare(context.Context, *Work) (Step, error) {
	return Step{Done: &Result{Layers: b.Layers, Cached: true}}, nil
}
