package build

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"strake/internal/progress"
)

// Git is the tree of one commit of a git repository, as it is checked out. The
// program git fetches it; nothing that the repository holds is run.
type Git struct {
	Remote   string // the repository's address, perhaps with credentials
	Ref      string // branch, tag or commit; "" is the default branch
	Checksum string `json:",omitempty"` // the commit's, or the beginning of it; "" if any will do
	Subdir   string `json:",omitempty"` // the directory that is the root

	KeepGitDir     bool `json:",omitempty"` // .git is a part of the tree, without Subdir
	SkipSubmodules bool `json:",omitempty"`
	CommitTimes    bool `json:",omitempty"` // files have the commit's time, not that of the checkout
	FetchByCommit  bool `json:",omitempty"` // Checksum is the commit, whatever Ref is

	// Agent is the socket of the ssh-agent whose keys the repository may be
	// fetched with; "" is none.
	Agent string `json:",omitempty"`
}

// GitRef is what a ref of a repository was when somebody looked.
type GitRef struct {
	remote, ref string
	found       gitRef
}

// gitRef is what a Ref was resolved to.
type gitRef struct {
	name   string // "refs/heads/main", or the commit
	object string // the commit, or the tag that names it
	commit string // the commit, as far as it is known without a fetch
}

// Prepare is Op's. The result depends on the commit, which the repository is
// asked for unless the Ref or the Checksum is one.
func (g *Git) Prepare(ctx context.Context, w *Work) (Step, error) {
	at := &gitLook{work: w}
	g, err := g.admit(ctx, at)
	if err != nil {
		return Step{}, err
	}
	auth, ref, err := at.find(ctx, g)
	if err != nil {
		return Step{}, err
	}
	w.fetched(Fetched{URI: g.URI(), Commit: ref.commit, Ref: &GitRef{g.Remote, g.Ref, ref}})
	return Step{
		Inputs: []Input{{Name: "commit", Value: g.key(ref)}},
		Make:   func(ctx context.Context, out io.Writer) error { return g.make(ctx, w, auth, ref, out) },
	}, nil
}

// find finds the commit, and with what the repository is asked.
func (g *Git) find(ctx context.Context, w *Work) (auth authorization, ref gitRef, err error) {
	if strings.Trim(g.Checksum, "0123456789abcdefABCDEF") != "" {
		return auth, ref, fmt.Errorf("invalid checksum %s for Git URL, expected hex commit hash", g.Checksum)
	}
	dir, err := w.solver.opts.Store.TempDir(ctx)
	if err != nil {
		return auth, ref, err
	}
	defer os.RemoveAll(dir) //nolint:errcheck // git wrote nothing there, and the lease's scratch goes with it
	if auth, err = gitAuthorization(w.solver, g.Remote); err != nil {
		return auth, ref, err
	}
	if at := w.solver.opts.At; at != nil && at.remote == g.Remote && at.ref == g.Ref && !g.FetchByCommit {
		return auth, at.found, g.check(at.found)
	}
	ref, err = g.resolve(ctx, &gitRun{Git: g, dir: dir, connect: w.solver.opts.Connect, auth: auth})
	if err != nil {
		return auth, ref, fmt.Errorf("failed to load cache key: %w", err)
	}
	return auth, ref, nil
}

// URI names the repository and the ref as BuildKit's provenance has it, without
// credentials.
func (g *Git) URI() string {
	if g.Ref == "" {
		return Redact(g.Remote)
	}
	return Redact(g.Remote) + "#" + g.Ref
}

// key says what the tree is made of.
func (g *Git) key(ref gitRef) string {
	key := ref.commit
	if g.KeepGitDir {
		key = ref.object + ".git#" + ref.name + " " + Redact(g.Remote)
	}
	key += ":" + lexical(g.Subdir)
	if g.SkipSubmodules {
		key += "(skip-submodules)"
	}
	if g.CommitTimes {
		key += "(mtime=commit)"
	}
	return key
}

// isCommit reports whether s is the whole name of a commit.
func isCommit(s string) bool {
	return (len(s) == 40 || len(s) == 64) && strings.Trim(s, "0123456789abcdef") == ""
}

// resolve finds the commit.
func (g *Git) resolve(ctx context.Context, git *gitRun) (gitRef, error) {
	if isCommit(g.Ref) {
		if !strings.HasPrefix(g.Ref, g.Checksum) {
			return gitRef{}, fmt.Errorf("expected checksum to match %s, got %s", g.Checksum, g.Ref)
		}
		return gitRef{g.Ref, g.Ref, g.Ref}, nil
	}
	if g.FetchByCommit {
		if !isCommit(g.Checksum) {
			return gitRef{}, fmt.Errorf("fetch-by-commit requires a full commit SHA checksum, got %q", g.Checksum)
		}
		return gitRef{g.Checksum, g.Checksum, g.Checksum}, nil
	}
	ref := g.Ref
	if ref == "" {
		var err error
		if ref, err = git.defaultBranch(ctx); err != nil {
			return gitRef{}, err
		}
	}
	out, err := git.remote(ctx, "ls-remote", "--", git.clean(), ref, ref+"^{}")
	if err != nil {
		return gitRef{}, err
	}
	return g.choose(ref, out)
}

// choose finds ref in what ls-remote says: a full name, else a branch, else a
// tag.
func (g *Git) choose(ref, refs string) (gitRef, error) {
	found := map[string]string{}
	for line := range strings.Lines(refs) {
		id, name, _ := strings.Cut(strings.TrimSpace(line), "\t")
		if isCommit(id) {
			found[name] = id
		}
	}
	for _, prefix := range []string{"refs/", "refs/heads/", "refs/tags/"} {
		name := prefix + strings.TrimPrefix(ref, prefix)
		id, ok := found[name]
		if !ok {
			continue
		}
		r := gitRef{name: name, object: id, commit: id}
		if peeled, ok := found[name+"^{}"]; ok {
			r.commit = peeled
		}
		return r, g.check(r)
	}
	return gitRef{}, fmt.Errorf("repository does not contain ref %s", ref)
}

// check compares a ref with the checksum.
func (g *Git) check(r gitRef) error {
	if !strings.HasPrefix(r.object, g.Checksum) && !strings.HasPrefix(r.commit, g.Checksum) {
		return fmt.Errorf("expected checksum to match %s, got %s", g.Checksum, r.either())
	}
	return nil
}

func (r gitRef) either() string {
	if r.commit == r.object {
		return r.commit
	}
	return r.object + " or " + r.commit
}

// make fetches the commit and writes its tree.
func (g *Git) make(ctx context.Context, w *Work, auth authorization, ref gitRef, out io.Writer) (err error) {
	dir, err := w.solver.opts.Store.TempDir(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	git := &gitRun{Git: g, dir: dir, connect: w.solver.opts.Connect, log: w.Log, auth: auth}
	if err := git.checkout(ctx, ref); err != nil {
		return err
	}
	var at time.Time
	if g.CommitTimes {
		seconds, err := git.run(ctx, "log", "-1", "--format=%ct", "HEAD")
		if err != nil {
			return err
		}
		n, err := strconv.ParseInt(strings.TrimSpace(seconds), 10, 64)
		if err != nil {
			return fmt.Errorf("time of the commit: %w", err)
		}
		at = time.Unix(n, 0)
	}
	c, err := LoadContext(ctx, ContextOptions{Dir: filepath.Join(dir, "tree"), Ignore: g.ignored(), Now: w.solver.opts.Now})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, c.Close()) }()
	for i := range c.files {
		n := &c.files[i]
		if n.mode.Type() != fs.ModeSymlink {
			user := n.mode.Perm() >> 6 // as if the umask were 022
			n.mode = n.mode.Type() | user<<6 | (user&^2)<<3 | user&^2
		}
		if g.CommitTimes {
			n.mtime = at
		}
	}
	p, err := newPlan(ctx, w, "")
	if err != nil {
		return err
	}
	root, err := g.root(c)
	if err != nil {
		return err
	}
	if err := p.copy(c, root, "/"); err != nil {
		return err
	}
	tw := newTarWriter(out, w.solver.opts.Epoch)
	if err := p.flush(ctx, tw); err != nil {
		return err
	}
	return tw.Close()
}

// ignored are the files of git that are no part of the tree.
func (g *Git) ignored() []string {
	if g.KeepGitDir && lexical(g.Subdir) == "." {
		return nil
	}
	return []string{"**/.git"}
}

// root is the directory of the checkout that is the tree's root; nothing but
// directories leads to it.
func (g *Git) root(c *Context) (string, error) {
	root := lexical(g.Subdir)
	at := "."
	for part := range strings.SplitSeq(root, "/") {
		at = path.Join(at, part)
		n, err := c.lstat(at)
		if err == nil && !n.mode.IsDir() {
			err = fmt.Errorf("git subpath %q contains non-directory %q", g.Subdir, at)
		}
		if err != nil {
			return "", fmt.Errorf("invalid subdir %v: %w", g.Subdir, err)
		}
	}
	return root, nil
}

// report shows a line of what git does.
func (g *gitRun) report(id string) {
	if p, ok := g.log.(*Reporter); ok {
		p.Item(progress.Item{ID: id, Done: true})
	}
}
