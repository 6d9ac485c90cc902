package dockerfile

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"path"
	"strings"

	"github.com/moby/buildkit/frontend/dockerfile/instructions"
	"github.com/opencontainers/go-digest"

	"strake/internal/build"
)

// copy adds a COPY.
func (c *compiler) copy(s *stage, cmd command, in *instructions.CopyCommand) error {
	if cmd.from != nil && !cmd.from.dispatched {
		return fmt.Errorf("cannot copy from stage %q, it needs to be defined before current stage %q", in.From, s.title)
	}
	f := files{
		cmd: cmd, verb: "COPY", SourcesAndDest: in.SourcesAndDest, source: in.String(), chown: in.Chown, chmod: in.Chmod,
		exclude: in.ExcludePatterns, link: in.Link, parents: in.Parents,
	}
	for _, src := range in.SourcePaths {
		switch {
		case isGit(src):
			return errors.New("source can't be a git ref for COPY")
		case isURL(src):
			return errors.New("source can't be a URL for COPY")
		}
		source := build.Source{Path: src}
		if in.Parents {
			source.Path, source.Parents = pivot(src)
		}
		f.sources = append(f.sources, c.local(cmd, source))
	}
	return c.addOp(s, f)
}

// pivot splits a source of COPY --parents where the parents begin that are
// copied: at the first "/./", or else at the root.
func pivot(src string) (root, pattern string) {
	root, pattern, ok := strings.Cut(src, "/./")
	if !ok {
		root, pattern = "/", src
	}
	return root, strings.TrimPrefix(path.Join("/", pattern), "/")
}

// addFiles adds an ADD.
func (c *compiler) addFiles(s *stage, cmd command, in *instructions.AddCommand) error {
	switch {
	case in.Checksum != "" && len(in.SourcePaths) != 1:
		return errors.New("checksum can't be specified for multiple sources")
	case in.Checksum != "" && !isURL(in.SourcePaths[0]):
		return errors.New("checksum requires HTTP(S) or Git sources")
	}
	f := files{
		cmd: cmd, verb: "ADD", SourcesAndDest: in.SourcesAndDest, source: in.String(), chown: in.Chown, chmod: in.Chmod,
		exclude: in.ExcludePatterns, link: in.Link,
	}
	for _, src := range in.SourcePaths {
		if isGit(src) {
			return fmt.Errorf("ADD of a git repository is not supported: %s", redacted(src))
		}
		var source build.Source
		if isURL(src) {
			u := &build.URL{Address: src, Name: urlName(src)}
			if in.Checksum != "" {
				var err error
				if u.Checksum, err = digest.Parse(in.Checksum); err != nil {
					return fmt.Errorf("checksum %q: %w", in.Checksum, err)
				}
			}
			source.URL = u
			source.Unpack = in.Unpack != nil && *in.Unpack
		} else {
			source = c.local(cmd, build.Source{Path: src})
			source.Unpack = in.Unpack == nil || *in.Unpack
		}
		f.sources = append(f.sources, source)
	}
	return c.addOp(s, f)
}

// local makes src a source in the context, a stage or an image.
func (c *compiler) local(cmd command, src build.Source) build.Source {
	if cmd.from != nil {
		src.Stage = 1
		return src
	}
	src.Context = noContext
	if c.opts.Context != nil {
		c.opts.Context.Want(wanted(src))
		src.Context = c.opts.Context.Load
	}
	return src
}

// wanted is what of the context a source may read: patterns of path.Match,
// which do not know "**".
func wanted(src build.Source) string {
	var parts []string
	for part := range strings.SplitSeq(path.Join("/", src.Path, src.Parents), "/") {
		if strings.Contains(part, "**") {
			break
		}
		parts = append(parts, part)
	}
	return strings.Join(parts, "/")
}

func noContext(context.Context) (*build.Context, error) {
	return nil, errors.New("there is no build context to copy from")
}

// files is what COPY and ADD have in common.
type files struct {
	cmd  command
	verb string
	instructions.SourcesAndDest
	source        string // the instruction as it is written
	chown, chmod  string
	exclude       []string
	link, parents bool
	sources       []build.Source
}

func (c *compiler) addOp(s *stage, f files) error {
	if f.chmod != "" {
		if _, err := build.ParseMode(f.chmod); err != nil {
			return err
		}
	}
	flags := ""
	if f.chown != "" {
		flags += " --chown=" + f.chown
	}
	if f.chmod != "" {
		flags += " --chmod=" + f.chmod
	}
	text := f.verb
	if f.parents {
		text += " --parents"
	}
	text += flags
	op := &build.Copy{
		Sources: f.sources, Owner: f.chown, Mode: f.chmod, Exclude: f.exclude,
		Dest: destination(s.image.Config.WorkingDir, f.DestPath),
	}
	for _, src := range f.SourcePaths {
		text += " " + src
	}
	for _, src := range f.SourceContents {
		text += " <<" + src.Path
		op.Sources = append(op.Sources, build.Source{
			Inline: &build.Inline{Name: src.Path, Data: []byte(src.Data), Mode: 0o644},
		})
	}
	text += " " + f.DestPath
	// Which files are copied, and where from, is in the key by what they are.
	op.Instruction = f.verb + flags + " " + op.Dest
	var from []*build.Vertex
	if f.cmd.from != nil {
		from = append(from, f.cmd.from.vertex)
	}
	name := s.stepName(f.cmd, c.lex, f.source)
	if f.link && f.chmod == "" { // BuildKit links no layer whose modes it changes
		c.link(s, f.cmd, op, name, from)
	} else {
		c.advance(s, f.cmd, op, name, from...)
	}
	s.record(text+" # buildkit", true)
	return nil
}

// link makes op, which starts from nothing, and puts its layer on the stage.
func (c *compiler) link(s *stage, cmd command, op build.Op, name string, from []*build.Vertex) {
	stage := s.vertex
	s.vertex = &build.Vertex{Op: &build.Base{}}
	c.advance(s, cmd, op, name, from...)
	s.vertex = &build.Vertex{Op: build.Merge{}, Inputs: []*build.Vertex{stage, s.vertex}}
}

// destination is the absolute destination; a trailing slash is kept.
func destination(dir, dest string) string {
	if dest == "" || dest == "." {
		dest = "./"
	}
	p := absolute(dir, dest)
	if (strings.HasSuffix(dest, "/") || strings.HasSuffix(dest, "/.")) && p != "/" {
		p += "/"
	}
	return p
}

func isURL(src string) bool {
	return (strings.HasPrefix(src, "http://") || strings.HasPrefix(src, "https://")) && !isGit(src)
}

// isGit reports whether src is a git remote.
func isGit(src string) bool {
	for _, scheme := range []string{"git://", "ssh://", "git@"} {
		if strings.HasPrefix(src, scheme) {
			return true
		}
	}
	if !strings.HasPrefix(src, "http://") && !strings.HasPrefix(src, "https://") {
		return false
	}
	u, err := url.Parse(src)
	return err == nil && strings.HasSuffix(u.Path, ".git")
}

func urlName(src string) string {
	if u, err := url.Parse(src); err == nil {
		if base := path.Base(u.Path); base != "." && base != "/" {
			return base
		}
	}
	return "__unnamed__"
}

// redacted is the address without its password.
func redacted(src string) string {
	if u, err := url.Parse(src); err == nil {
		return u.Redacted()
	}
	return src
}
