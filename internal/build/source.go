package build

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/url"
	"path"
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

// admit makes of a file to download what the policy makes of it. The policy is not shown the
// user in the address: rules on a host are for all of its users.
func (u URL) admit(ctx context.Context, w *Work) (URL, error) {
	p := w.solver.opts.Policy
	if p == nil {
		return u, nil
	}
	src := sourcepolicy.Source{Identifier: withoutUser(u.Address), Attrs: map[string]string{sourcepolicy.AttrHTTPFilename: u.Name}}
	src.Learn = func(ctx context.Context, now sourcepolicy.Source) (sourcepolicy.Facts, error) {
		address := u.Address
		if now.Identifier != src.Identifier {
			address = now.Identifier
		}
		return URL{Address: address, Name: u.Name}.learn(ctx, w)
	}
	if u.Checksum != "" {
		src.Attrs[sourcepolicy.AttrHTTPChecksum] = u.Checksum.String()
	}
	got, err := p.Admit(ctx, src, sourcepolicy.AttrHTTPFilename, sourcepolicy.AttrHTTPChecksum)
	if err != nil {
		return u, err
	}
	if got.Identifier != src.Identifier {
		u.Address = got.Identifier
	}
	u.Name = got.Attrs[sourcepolicy.AttrHTTPFilename]
	if sum := got.Attrs[sourcepolicy.AttrHTTPChecksum]; sum != "" {
		if u.Checksum, err = digest.Parse(sum); err != nil {
			return u, &PolicyError{fmt.Errorf("%s %q of %q: %w", sourcepolicy.AttrHTTPChecksum, sum, got.Identifier, err)}
		}
	}
	return u, nil
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

// Source is the repository as policies know it: the same whether it is fetched by HTTP or by
// SSH.
func (g *Git) Source() sourcepolicy.Source {
	src := sourcepolicy.Source{
		Identifier: sourcepolicy.SchemeGit + "://" + gitPlace(g.Remote),
		Attrs:      map[string]string{sourcepolicy.AttrGitFullURL: Redact(g.Remote)},
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

// gitPlace is the host and path of a repository's address.
func gitPlace(remote string) string {
	if u, err := url.Parse(remote); err == nil && u.Host != "" {
		return u.Host + path.Join("/", u.Path)
	}
	_, rest, _ := strings.Cut(remote, "@")
	host, at, _ := strings.Cut(rest, ":")
	return host + path.Join("/", at)
}

// admit makes of a repository what the policy makes of it.
func (g *Git) admit(ctx context.Context, w *Work) (*Git, error) {
	p := w.solver.opts.Policy
	if p == nil {
		return g, nil
	}
	src := g.Source()
	src.Learn = func(ctx context.Context, now sourcepolicy.Source) (sourcepolicy.Facts, error) {
		g, err := g.converted(src, now)
		if err != nil {
			return sourcepolicy.Facts{}, err
		}
		return g.learn(ctx, w)
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

// Learn looks at a file or a repository, for a policy.
func Learn(ctx context.Context, s *Solver, src sourcepolicy.Source) (sourcepolicy.Facts, error) {
	w := &Work{solver: s, Log: io.Discard}
	if kind(src) == "http" {
		return URL{Address: src.Identifier}.learn(ctx, w)
	}
	g := &Git{Remote: src.Attrs[sourcepolicy.AttrGitFullURL]}
	if g.Remote == "" {
		g.Remote, _, _ = strings.Cut("https://"+src.Rest(), "#")
	}
	_, fragment, _ := strings.Cut(src.Identifier, "#")
	g.Ref, g.Subdir, _ = strings.Cut(fragment, ":")
	return g.learn(ctx, w)
}

func (u URL) learn(ctx context.Context, w *Work) (sourcepolicy.Facts, error) {
	d := &download{solver: w.solver, url: u, log: w.Log}
	err := d.learn(ctx)
	return sourcepolicy.Facts{HTTP: &sourcepolicy.HTTPFacts{Digest: digest.NewDigestFromBytes(digest.SHA256, d.known.Sum).String()}}, err
}

func (g *Git) learn(ctx context.Context, w *Work) (sourcepolicy.Facts, error) {
	_, ref, err := g.find(ctx, w)
	return sourcepolicy.Facts{Git: &sourcepolicy.GitFacts{Ref: ref.name, Object: ref.object, Commit: ref.commit}}, err
}
