package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"strings"

	"github.com/containerd/platforms"
	"github.com/docker/buildx/policy"
	gwpb "github.com/moby/buildkit/frontend/gateway/pb"
	"github.com/moby/buildkit/solver/pb"
	spb "github.com/moby/buildkit/sourcepolicy/pb"
	"github.com/moby/buildkit/sourcepolicy/policysession"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/sirupsen/logrus"

	"strake/internal/sourcepolicy"
)

// server is the policies of a build.
type server struct {
	builtIn    *policy.Policy   // nil: it is not asked
	policies   []*policy.Policy // that one too
	platform   ocispec.Platform // where a question names none
	signatures bool             // a policy asked for those of an image since the last answer
	log        []string         // since the last answer
}

func newServer(begin sourcepolicy.Begin, files fs.StatFS) *server {
	s := &server{platform: platforms.DefaultSpec()}
	env := policy.Env{Labels: begin.Env.Labels, Filename: begin.Env.Filename, Target: begin.Env.Target}
	for k, v := range begin.Env.Args {
		if env.Args == nil {
			env.Args = map[string]*string{}
		}
		env.Args[k] = &v
	}
	options := func(logLevel string) policy.Opt {
		level, err := logrus.ParseLevel(logLevel)
		told := err == nil
		return policy.Opt{
			Env: env, DefaultPlatform: &s.platform, VerifierProvider: noVerifier,
			FS: func() (fs.StatFS, func() error, error) { return files, nil, nil },
			Log: func(of logrus.Level, text string) {
				s.signatures = s.signatures || strings.HasPrefix(text, "collected unknowns: ") && strings.Contains(text, "image.signatures")
				if told && of <= level {
					s.log = append(s.log, text)
				}
			},
		}
	}
	if begin.Default {
		s.builtIn = policy.DefaultPolicy(options(""))
		s.policies = append(s.policies, s.builtIn)
	}
	for _, set := range begin.Sets {
		opts := options(set.LogLevel)
		for _, f := range set.Files {
			opts.Files = append(opts.Files, policy.File{Filename: f.Name, Data: f.Data})
		}
		s.policies = append(s.policies, policy.NewPolicy(opts))
	}
	return s
}

// noVerifier is in the place of what verifies signatures of sigstore, whose keys it fetches.
func noVerifier() (policy.PolicyVerifier, error) {
	return nil, errors.New("signatures of sigstore are not verified: its trust root is not known, which is not supported")
}

// check compiles the policies.
func (s *server) check(ctx context.Context) error {
	for _, p := range s.policies {
		if p == s.builtIn {
			continue // it has no caps
		}
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

// answer asks all policies about a source. What they have to know of it is asked for
// together.
func (s *server) answer(ctx context.Context, q sourcepolicy.Question) (a sourcepolicy.Answer, err error) {
	if q.Print {
		return s.print(ctx, q)
	}
	req := request(q)
	s.signatures = false
	var look *sourcepolicy.Look
	for _, p := range s.policies {
		decision, more, err := p.CheckPolicy(ctx, req)
		switch {
		case err != nil:
			return a, unsupported(err, q)
		case more != nil:
			look = lookFor(more, look)
		case decision.GetAction() == spb.PolicyAction_DENY:
			for _, m := range decision.GetDenyMessages() {
				a.Messages = append(a.Messages, m.GetMessage())
			}
			return a, nil
		case decision.GetAction() == spb.PolicyAction_CONVERT && look == nil:
			return sourcepolicy.Answer{Convert: decision.GetUpdate().GetIdentifier(), Attrs: decision.GetUpdate().GetAttrs()}, nil
		}
	}
	if look != nil {
		look.Signatures = s.signatures
		return sourcepolicy.Answer{Look: look}, nil
	}
	return sourcepolicy.Answer{Allow: true}, nil
}

// unsupported says in other words what needs a BuildKit that runs.
func unsupported(err error, q sourcepolicy.Question) error {
	if strings.Contains(err.Error(), "source resolver") {
		return fmt.Errorf("the policy asks for what is fetched of something else than %q itself, which is not supported: %w", q.Identifier, err)
	}
	return err
}

// lookFor adds what a policy asks for, which is not nil then.
func lookFor(more *gwpb.ResolveSourceMetaRequest, look *sourcepolicy.Look) *sourcepolicy.Look {
	if look == nil {
		look = &sourcepolicy.Look{}
	}
	look.Attested = look.Attested || more.GetImage().GetAttestationChain()
	look.Objects = look.Objects || more.GetGit().GetReturnObject()
	if sum := more.GetHTTP().GetChecksumRequest(); sum != nil {
		look.Sum = &sourcepolicy.Sum{Algorithm: algorithm(sum.GetAlgo()), Suffix: sum.GetSuffix()}
	}
	return look
}

func algorithm(a gwpb.ChecksumRequest_ChecksumAlgo) digest.Algorithm {
	switch a {
	case gwpb.ChecksumRequest_CHECKSUM_ALGO_SHA384:
		return digest.SHA384
	case gwpb.ChecksumRequest_CHECKSUM_ALGO_SHA512:
		return digest.SHA512
	}
	return digest.SHA256
}

// request is a question in buildx's form.
func request(q sourcepolicy.Question) *policysession.CheckPolicyRequest {
	req := &policysession.CheckPolicyRequest{Source: &gwpb.ResolveSourceMetaResponse{
		Source: &pb.SourceOp{Identifier: q.Identifier, Attrs: q.Attrs},
	}}
	if q.Platform != nil {
		req.Platform = &pb.Platform{OS: q.Platform.OS, Architecture: q.Platform.Architecture, Variant: q.Platform.Variant}
	}
	f := q.Facts
	switch {
	case f == nil:
	case f.Image != nil:
		req.Source.Image = &gwpb.ResolveSourceImageResponse{Digest: f.Image.Digest, Config: f.Image.Config, AttestationChain: chain(f.Image.Attested)}
	case f.Git != nil:
		req.Source.Git = &gwpb.ResolveSourceGitResponse{
			Ref: f.Git.Ref, Checksum: f.Git.Object, CommitChecksum: f.Git.Commit, CommitObject: f.Git.CommitObject, TagObject: f.Git.TagObject,
		}
	case f.HTTP != nil:
		req.Source.HTTP = &gwpb.ResolveSourceHTTPResponse{Checksum: f.HTTP.Digest}
		if f.HTTP.Sum != nil {
			req.Source.HTTP.ChecksumResponse = &gwpb.ChecksumResponse{Digest: f.HTTP.SumIs, Suffix: f.HTTP.Sum.Suffix}
		}
	}
	return req
}

// chain is what is attested of an image in buildx's form. It has no signatures: a policy that
// asks for those is told of none, or not answered.
func chain(a *sourcepolicy.Attested) *gwpb.AttestationChain {
	if a == nil {
		return nil
	}
	c := &gwpb.AttestationChain{AttestationManifest: a.Manifest, Blobs: map[string]*gwpb.Blob{}}
	for _, st := range a.Statements {
		dgst := digest.FromBytes(st.Data).String()
		c.Blobs[dgst] = &gwpb.Blob{
			Descriptor_: &gwpb.Descriptor{Digest: dgst, Size: int64(len(st.Data)), Annotations: map[string]string{"in-toto.io/predicate-type": st.Type}},
			Data:        st.Data,
		}
	}
	return c
}
