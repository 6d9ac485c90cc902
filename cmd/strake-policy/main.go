// Command strake-policy evaluates policies in Rego for strake: see package sourcepolicy.
//
// It is a module of its own: Docker's implementation, which it uses, requires a hundred
// modules that nothing else here needs.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"

	"github.com/containerd/platforms"
	"github.com/docker/buildx/policy"
	gwpb "github.com/moby/buildkit/frontend/gateway/pb"
	"github.com/moby/buildkit/solver/pb"
	spb "github.com/moby/buildkit/sourcepolicy/pb"
	"github.com/moby/buildkit/sourcepolicy/policysession"
	"github.com/sirupsen/logrus"

	"strake/internal/sourcepolicy"
)

func main() {
	err := errors.New("it is started by strake")
	switch {
	case len(os.Args) == 1:
		err = serve(context.Background(), os.Stdin, os.Stdout)
	case len(os.Args) == 5 && os.Args[1] == "test":
		err = test(context.Background(), os.Stdout, os.Args[2], os.Args[3], os.Args[4])
	}
	if err != nil {
		if !errors.Is(err, errFailed) {
			fmt.Fprintln(os.Stderr, "ERROR:", err)
		}
		os.Exit(1)
	}
}

// serve answers until there are no more questions.
func serve(ctx context.Context, in io.Reader, out io.Writer) error {
	read, write := json.NewDecoder(in), json.NewEncoder(out)
	var begin sourcepolicy.Begin
	if err := read.Decode(&begin); err != nil {
		return err
	}
	s := newServer(begin)
	a, err := sourcepolicy.Answer{}, s.check(ctx)
	for {
		if err != nil {
			a = sourcepolicy.Answer{Failure: err.Error()}
		}
		a.Log, s.log = s.log, nil
		if err := write.Encode(a); err != nil {
			return err
		}
		var q sourcepolicy.Question
		if err := read.Decode(&q); errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return err
		}
		a, err = s.answer(ctx, q)
	}
}

// server is the policies of a build.
type server struct {
	policies []*policy.Policy
	ask      policysession.PolicyCallback // all of them
	log      []string                     // since the last answer
}

func newServer(begin sourcepolicy.Begin) *server {
	s := &server{}
	env := policy.Env{Labels: begin.Env.Labels, Filename: begin.Env.Filename, Target: begin.Env.Target}
	for k, v := range begin.Env.Args {
		if env.Args == nil {
			env.Args = map[string]*string{}
		}
		env.Args[k] = &v
	}
	platform := platforms.DefaultSpec()
	var callbacks []policysession.PolicyCallback
	for _, set := range begin.Sets {
		opts := policy.Opt{Env: env, DefaultPlatform: &platform}
		for _, f := range set.Files {
			opts.Files = append(opts.Files, policy.File{Filename: f.Name, Data: f.Data})
		}
		if set.Root != "" {
			opts.FS = func() (fs.StatFS, func() error, error) { return openRoot(set.Root) }
		}
		if level, err := logrus.ParseLevel(set.LogLevel); err == nil {
			opts.Log = func(of logrus.Level, text string) {
				if of <= level {
					s.log = append(s.log, text)
				}
			}
		}
		p := policy.NewPolicy(opts)
		s.policies = append(s.policies, p)
		callbacks = append(callbacks, p.CheckPolicy)
	}
	s.ask = policy.MultiPolicyCallback(callbacks...)
	return s
}

// openRoot opens a directory that nothing leads out of.
func openRoot(dir string) (fs.StatFS, func() error, error) {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, nil, err
	}
	files, ok := root.FS().(fs.StatFS)
	if !ok {
		return nil, nil, errors.Join(fmt.Errorf("%s: no files", dir), root.Close())
	}
	return files, root.Close, nil
}

// check compiles the policies.
func (s *server) check(ctx context.Context) error {
	for _, p := range s.policies {
		caps, err := p.CheckCaps(ctx)
		if err != nil {
			return fmt.Errorf("failed to evaluate policy caps: %w", err)
		}
		if caps[policy.CapExecProxy] {
			return errors.New("the policy asks for a network proxy, which is not supported")
		}
	}
	return nil
}

// answer asks all policies about a source.
func (s *server) answer(ctx context.Context, q sourcepolicy.Question) (a sourcepolicy.Answer, err error) {
	req := &policysession.CheckPolicyRequest{Source: &gwpb.ResolveSourceMetaResponse{
		Source: &pb.SourceOp{Identifier: q.Identifier, Attrs: q.Attrs},
	}}
	if q.Platform != nil {
		req.Platform = &pb.Platform{OS: q.Platform.OS, Architecture: q.Platform.Architecture, Variant: q.Platform.Variant}
	}
	if f := q.Facts; f != nil {
		switch {
		case f.Image != nil:
			req.Source.Image = &gwpb.ResolveSourceImageResponse{Digest: f.Image.Digest, Config: f.Image.Config}
		case f.Git != nil:
			req.Source.Git = &gwpb.ResolveSourceGitResponse{Ref: f.Git.Ref, Checksum: f.Git.Object, CommitChecksum: f.Git.Commit}
		case f.HTTP != nil:
			req.Source.HTTP = &gwpb.ResolveSourceHTTPResponse{Checksum: f.HTTP.Digest}
		}
	}
	decision, more, err := s.ask(ctx, req)
	if err == nil && more != nil {
		err = unknown(more)
	}
	if err != nil || more != nil {
		return sourcepolicy.Answer{Look: true}, err
	}
	switch decision.GetAction() {
	case spb.PolicyAction_ALLOW:
		a.Allow = true
	case spb.PolicyAction_CONVERT:
		a.Convert, a.Attrs = decision.GetUpdate().GetIdentifier(), decision.GetUpdate().GetAttrs()
	default:
		for _, m := range decision.GetDenyMessages() {
			a.Messages = append(a.Messages, m.GetMessage())
		}
	}
	return a, nil
}

// unknown fails for what strake does not look for.
func unknown(req *gwpb.ResolveSourceMetaRequest) error {
	what := ""
	switch {
	case req.GetImage().GetAttestationChain():
		what = "provenance or signatures of an image"
	case req.GetGit().GetReturnObject():
		what = "the commit or tag object of a repository"
	case req.GetHTTP().GetChecksumRequest() != nil:
		what = "a signature of a file"
	default:
		return nil
	}
	return fmt.Errorf("the policy asks for %s, which is not supported: source %q", what, req.GetSource().GetIdentifier())
}
