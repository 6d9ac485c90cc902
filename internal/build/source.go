package build

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/url"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"github.com/opencontainers/go-digest"

	"strake/internal/sourcepolicy"
)

// Policy decides over a source before it is read: it returns the source, or the one that
// is to be read in its place, or fails. It is called by several goroutines at once, of
// steps in the cache too.
type Policy func(context.Context, sourcepolicy.Source) (sourcepolicy.Source, error)

// PolicyError is why a source is not read.
type PolicyError struct{ Err error }

func (e *PolicyError) Error() string { return "error evaluating the source policy: " + e.Err.Error() }

// Unwrap returns the cause.
func (e *PolicyError) Unwrap() error { return e.Err }

// Admit asks about a source; where there is no policy all are admitted. It fails with a
// *PolicyError, also where the source is to be one of another kind, or is given attributes
// that are none of attrs.
func (p Policy) Admit(ctx context.Context, src sourcepolicy.Source, attrs ...string) (sourcepolicy.Source, error) {
	if p == nil {
		return src, nil
	}
	got, err := p(ctx, src)
	if err == nil && kind(got) != kind(src) {
		err = fmt.Errorf("source %q cannot be converted to %q", src.Identifier, got.Identifier)
	}
	for _, name := range slices.Sorted(maps.Keys(got.Attrs)) {
		if err == nil && !slices.Contains(attrs, name) {
			err = fmt.Errorf("attribute %q of %q is not supported", name, got.Identifier)
		}
	}
	if err != nil {
		return src, &PolicyError{err}
	}
	return got, nil
}

// kind is what a source is read by: its scheme, but for HTTP that has two.
func kind(src sourcepolicy.Source) string {
	if scheme := src.Scheme(); scheme != "https" {
		return scheme
	}
	return "http"
}

// AdmitLocal asks about a directory or file of this machine, which can be nothing else.
func (p Policy) AdmitLocal(ctx context.Context, name string) error {
	src := sourcepolicy.Source{Identifier: sourcepolicy.SchemeLocal + "://" + name}
	got, err := p.Admit(ctx, src)
	if err == nil && got.Identifier != src.Identifier {
		err = &PolicyError{fmt.Errorf("source %q cannot be converted", src.Identifier)}
	}
	return err
}

// Source is the file as policies know it, without the user in its address: rules on a host
// are for all of its users.
func (u URL) Source() sourcepolicy.Source {
	src := sourcepolicy.Source{Identifier: withoutUser(u.Address), Attrs: map[string]string{sourcepolicy.AttrHTTPFilename: u.Name}}
	if u.Checksum != "" {
		src.Attrs[sourcepolicy.AttrHTTPChecksum] = u.Checksum.String()
	}
	return src
}

// Look looks at a file, for a policy that is asked outside of a build.
func (u URL) Look(ctx context.Context, s *Solver, look sourcepolicy.Look) (sourcepolicy.Facts, error) {
	return (&download{solver: s, url: u, log: io.Discard}).facts(ctx, look)
}

// admit asks about a file to download, and gives the one to use: where a policy looked at
// it, what it saw.
func (u URL) admit(ctx context.Context, w *Work) (*download, error) {
	d := &download{solver: w.solver, url: u, log: w.Log}
	p := w.solver.opts.Policy
	if p == nil {
		return d, nil
	}
	src := u.Source()
	turn := func(now sourcepolicy.Source) error {
		to, err := u.converted(src, now)
		if err == nil && to != d.url {
			d = &download{solver: w.solver, url: to, log: w.Log}
		}
		return err
	}
	src.Learn = func(ctx context.Context, now sourcepolicy.Source, look sourcepolicy.Look) (sourcepolicy.Facts, error) {
		if err := turn(now); err != nil {
			return sourcepolicy.Facts{}, err
		}
		return d.facts(ctx, look)
	}
	got, err := p.Admit(ctx, src, sourcepolicy.AttrHTTPFilename, sourcepolicy.AttrHTTPChecksum)
	if err == nil {
		err = turn(got)
	}
	return d, err
}

// converted is the file that a policy put in the place of this one.
func (u URL) converted(src, got sourcepolicy.Source) (to URL, err error) {
	to = URL{Address: u.Address, Name: got.Attrs[sourcepolicy.AttrHTTPFilename]}
	if got.Identifier != src.Identifier {
		to.Address = got.Identifier
	}
	if sum := got.Attrs[sourcepolicy.AttrHTTPChecksum]; sum != "" {
		if to.Checksum, err = digest.Parse(sum); err != nil {
			return u, &PolicyError{fmt.Errorf("%s %q of %q: %w", sourcepolicy.AttrHTTPChecksum, sum, got.Identifier, err)}
		}
	}
	return to, nil
}

// withoutUser is an address without user and password.
func withoutUser(address string) string {
	u, err := url.Parse(address)
	if err != nil || u.User == nil {
		return address
	}
	u.User = nil
	return u.String()
}

// Source is the repository as policies know it: the same whether it is fetched by HTTP, by
// whatever user, or by SSH.
func (g *Git) Source() sourcepolicy.Source {
	address := Redact(g.Remote)
	if isWeb(g.Remote) {
		address = withoutUser(g.Remote)
	}
	src := sourcepolicy.Source{
		Identifier: sourcepolicy.SchemeGit + "://" + gitPlace(g.Remote),
		Attrs:      map[string]string{sourcepolicy.AttrGitFullURL: address},
	}
	if g.Ref != "" || g.Subdir != "" {
		src.Identifier += "#" + g.Ref
	}
	if g.Subdir != "" {
		src.Identifier += ":" + g.Subdir
	}
	for name, on := range map[string]bool{
		sourcepolicy.AttrGitKeepDir: g.KeepGitDir, sourcepolicy.AttrGitSkipSubmodules: g.SkipSubmodules, sourcepolicy.AttrGitFetchByCommit: g.FetchByCommit,
	} {
		if on {
			src.Attrs[name] = "true"
		}
	}
	if g.CommitTimes {
		src.Attrs[sourcepolicy.AttrGitTimes] = "commit"
	}
	if g.Checksum != "" {
		src.Attrs[sourcepolicy.AttrGitChecksum] = g.Checksum
	}
	return src
}

// Look looks at a repository, for a policy that is asked outside of a build.
func (g *Git) Look(ctx context.Context, s *Solver, look sourcepolicy.Look) (sourcepolicy.Facts, error) {
	return (&gitLook{work: &Work{solver: s, Log: io.Discard}}).facts(ctx, g, look)
}

func isWeb(address string) bool {
	return strings.HasPrefix(address, "http://") || strings.HasPrefix(address, "https://")
}

// gitPlace is the host and path of a repository's address.
func gitPlace(remote string) string {
	if u, err := url.Parse(remote); err == nil && u.Host != "" {
		return u.Host + path.Join("/", u.Path)
	}
	_, rest, _ := strings.Cut(remote, "@")
	host, at, _ := strings.Cut(rest, ":")
	return host + path.Join("/", at)
}

// admit asks about a repository, and gives the one to use.
func (g *Git) admit(ctx context.Context, at *gitLook) (*Git, error) {
	p := at.work.solver.opts.Policy
	if p == nil {
		return g, nil
	}
	src := g.Source()
	src.Learn = func(ctx context.Context, now sourcepolicy.Source, look sourcepolicy.Look) (sourcepolicy.Facts, error) {
		g, err := g.converted(src, now)
		if err != nil {
			return sourcepolicy.Facts{}, err
		}
		return at.facts(ctx, g, look)
	}
	got, err := p.Admit(ctx, src, sourcepolicy.AttrGitFullURL, sourcepolicy.AttrGitKeepDir, sourcepolicy.AttrGitSkipSubmodules,
		sourcepolicy.AttrGitFetchByCommit, sourcepolicy.AttrGitTimes, sourcepolicy.AttrGitChecksum)
	if err != nil {
		return nil, err
	}
	return g.converted(src, got)
}

// converted is the repository that a policy put in the place of this one.
func (g *Git) converted(src, got sourcepolicy.Source) (*Git, error) {
	if got.Identifier == src.Identifier && maps.Equal(got.Attrs, src.Attrs) {
		return g, nil
	}
	place, fragment, _ := strings.Cut(got.Rest(), "#")
	to := *g
	to.Ref, to.Subdir, _ = strings.Cut(fragment, ":")
	if remote := got.Attrs[sourcepolicy.AttrGitFullURL]; remote != src.Attrs[sourcepolicy.AttrGitFullURL] {
		to.Remote, to.Agent = remote, "" // the keys were lent for another
	}
	if !strings.EqualFold(strings.TrimSuffix(gitPlace(to.Remote), ".git"), strings.TrimSuffix(place, ".git")) {
		return nil, &PolicyError{fmt.Errorf("%s of %q does not match it", sourcepolicy.AttrGitFullURL, got.Identifier)}
	}
	to.KeepGitDir = got.Attrs[sourcepolicy.AttrGitKeepDir] == "true"
	to.SkipSubmodules = got.Attrs[sourcepolicy.AttrGitSkipSubmodules] == "true"
	to.FetchByCommit = got.Attrs[sourcepolicy.AttrGitFetchByCommit] == "true"
	to.CommitTimes = got.Attrs[sourcepolicy.AttrGitTimes] == "commit"
	to.Checksum = got.Attrs[sourcepolicy.AttrGitChecksum]
	if strings.HasPrefix(to.Ref, "-") {
		return nil, &PolicyError{errors.New("invalid git ref " + to.Ref)}
	}
	return &to, nil
}

// facts are what a policy asks of a file.
func (d *download) facts(ctx context.Context, look sourcepolicy.Look) (facts sourcepolicy.Facts, err error) {
	if err := d.learn(ctx); err != nil {
		return facts, err
	}
	facts.HTTP = &sourcepolicy.HTTPFacts{Digest: digest.NewDigestFromBytes(digest.SHA256, d.known.Sum).String(), Sum: look.Sum}
	if look.Sum != nil {
		facts.HTTP.SumIs, err = d.sum(ctx, *look.Sum)
	}
	return facts, err
}

// sum sums the content up as a signature of it does.
func (d *download) sum(ctx context.Context, how sourcepolicy.Sum) (sum string, err error) {
	if !how.Algorithm.Available() {
		return "", fmt.Errorf("unknown algorithm %q", how.Algorithm)
	}
	if d.dir == "" {
		was := d.known.Sum
		d.known.ETag = ""
		if _, err := d.get(ctx); err != nil {
			return "", err
		}
		if !bytes.Equal(was, d.known.Sum) {
			return "", fmt.Errorf("%s changed while it was looked at", Redact(d.url.Address))
		}
	}
	f, err := os.Open(filepath.Join(d.dir, "file"))
	if err != nil {
		return "", err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	digester := how.Algorithm.Digester()
	if _, err := io.Copy(digester.Hash(), f); err != nil {
		return "", err
	}
	digester.Hash().Write(how.Suffix)
	return digester.Digest().String(), nil
}

// gitLook is a repository that somebody looked at: what a policy saw of it is what is used.
type gitLook struct {
	work *Work
	of   Git // that was asked last; its zero value is none
	auth authorization
	ref  gitRef
}

// find is Git.find, unless it was found.
func (l *gitLook) find(ctx context.Context, g *Git) (auth authorization, ref gitRef, err error) {
	if l.of != *g {
		if auth, ref, err = g.find(ctx, l.work); err != nil {
			return auth, ref, err
		}
		l.of, l.auth, l.ref = *g, auth, ref
	}
	return l.auth, l.ref, nil
}

// facts are what a policy asks of a repository.
func (l *gitLook) facts(ctx context.Context, g *Git, look sourcepolicy.Look) (facts sourcepolicy.Facts, err error) {
	auth, ref, err := l.find(ctx, g)
	if err != nil {
		return facts, err
	}
	facts.Git = &sourcepolicy.GitFacts{Ref: ref.name, Object: ref.object, Commit: ref.commit}
	if look.Objects {
		err = g.objects(ctx, l.work, auth, ref, facts.Git)
	}
	return facts, err
}

// objects fetches the commit and the tag that names it.
func (g *Git) objects(ctx context.Context, w *Work, auth authorization, ref gitRef, facts *sourcepolicy.GitFacts) (err error) {
	dir, err := w.solver.opts.Store.TempDir(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	git := &gitRun{Git: g, dir: dir, connect: w.solver.opts.Connect, log: w.Log, auth: auth}
	if facts.Commit, err = git.bring(ctx, ref); err != nil {
		return err
	}
	object := func(kind, id string) []byte {
		var text string
		if err == nil {
			text, err = git.run(ctx, "cat-file", kind, id)
		}
		return []byte(text)
	}
	facts.CommitObject = object("commit", facts.Commit)
	if ref.object != facts.Commit {
		facts.TagObject = object("tag", ref.object)
	}
	return err
}
