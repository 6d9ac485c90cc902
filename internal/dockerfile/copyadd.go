package dockerfile

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"path"
	"slices"
	"strings"
	"unicode"

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
	if err := s.checkIgnored(c.opts.Context, cmd, "Copy", in.SourcePaths); err != nil {
		return err
	}
	for _, src := range in.SourcePaths {
		if _, is, err := addedGit(src); err != nil {
			return err
		} else if is {
			return errors.New("source can't be a git ref for COPY")
		}
		if isURL(src) {
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
	if err := s.checkIgnored(c.opts.Context, cmd, "Add", in.SourcePaths); err != nil {
		return err
	}
	if in.Checksum != "" {
		if len(in.SourcePaths) != 1 {
			return errors.New("checksum can't be specified for multiple sources")
		}
		if _, is, _ := addedGit(in.SourcePaths[0]); !is && !isURL(in.SourcePaths[0]) {
			return errors.New("checksum requires HTTP(S) or Git sources")
		}
	}
	f := files{
		cmd: cmd, verb: "ADD", SourcesAndDest: in.SourcesAndDest, source: in.String(), chown: in.Chown, chmod: in.Chmod,
		exclude: in.ExcludePatterns, link: in.Link,
	}
	for _, src := range in.SourcePaths {
		git, is, err := addedGit(src)
		if err != nil {
			return err
		}
		var source build.Source
		switch {
		case is:
			if source, err = f.repository(git, in); err != nil {
				return err
			}
		case isURL(src):
			u := &build.URL{Address: src, Name: urlName(src)}
			if in.Checksum != "" {
				if u.Checksum, err = digest.Parse(in.Checksum); err != nil {
					return fmt.Errorf("checksum %q: %w", in.Checksum, err)
				}
			}
			source.URL, source.Unpack = u, in.Unpack != nil && *in.Unpack
		default:
			source = c.local(cmd, build.Source{Path: src})
			source.Unpack = in.Unpack == nil || *in.Unpack
		}
		f.sources = append(f.sources, source)
	}
	return c.addOp(s, f)
}

// addedGit reads a source that is a git repository.
func addedGit(src string) (GitURL, bool, error) {
	git, is, err := ParseGit(src)
	return git, is && !git.Bare, err
}

// repository makes a git repository a source of an ADD: the flags and what the
// address says must agree.
func (f *files) repository(git GitURL, in *instructions.AddCommand) (build.Source, error) {
	if in.KeepGitDir != nil {
		if git.Keep != nil && *git.Keep != *in.KeepGitDir {
			return build.Source{}, errors.New("inconsistent keep-git-dir configuration")
		}
		git.KeepGitDir = *in.KeepGitDir
	}
	if in.Checksum != "" {
		if git.Checksum != "" && git.Checksum != in.Checksum {
			return build.Source{}, fmt.Errorf("checksum mismatch %q != %q", in.Checksum, git.Checksum)
		}
		git.Checksum = in.Checksum
	}
	f.from = append(f.from, &build.Vertex{Op: &git.Git})
	return build.Source{Stage: len(f.from), Path: "/"}, nil
}

// local makes src a source in the context, a stage or an image.
func (c *compiler) local(cmd command, src build.Source) build.Source {
	files := c.opts.Context
	if cmd.from != nil {
		files = cmd.from.files
	}
	switch {
	case files != nil:
		files.Want(wanted(src))
		src.Context = files.Load
	case cmd.from != nil:
		src.Stage = 1
	default:
		src.Context = noContext
	}
	return src
}

// needsContext reports whether one of the sources of an ADD is in the context.
func needsContext(sources []string) bool {
	return slices.ContainsFunc(sources, func(src string) bool {
		_, git, _ := addedGit(src)
		return !git && !isURL(src)
	})
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
	from          []*build.Vertex // what sources are stages of, the first is 1
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
		text += " " + build.Redact(src)
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
	name := s.stepName(f.cmd, c.lex, f.source)
	for _, src := range f.SourcePaths {
		name = strings.ReplaceAll(name, src, build.Redact(src))
	}
	for _, v := range f.from {
		v.Name, v.Lines, v.NoCache = name, linesOf(f.cmd.Location()), s.noCache
	}
	if f.cmd.from != nil && f.cmd.from.files == nil {
		f.from = append(f.from, f.cmd.from.vertex)
	}
	if f.link && f.chmod == "" { // BuildKit links no layer whose modes it changes
		c.link(s, f.cmd, op, name, f.from)
	} else {
		c.advance(s, f.cmd, op, name, f.from...)
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

// isURL reports whether src is a file to download.
func isURL(src string) bool {
	_, git, _ := addedGit(src)
	return (strings.HasPrefix(src, "http://") || strings.HasPrefix(src, "https://")) && !git
}

// urlName is the name of a downloaded file.
func urlName(src string) string {
	u, err := url.Parse(src)
	if err != nil {
		return "__unnamed__"
	}
	switch base := path.Base(u.Path); {
	case base == "." || base == "/":
		return "__unnamed__"
	case base == ".." || strings.ContainsFunc(base, unicode.IsControl):
		return "download"
	default:
		return base
	}
}
