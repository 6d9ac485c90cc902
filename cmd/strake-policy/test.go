package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strings"

	"github.com/containerd/platforms"
	"github.com/docker/buildx/policy"
	gwpb "github.com/moby/buildkit/frontend/gateway/pb"
	"github.com/moby/buildkit/solver/pb"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// errFailed is of tests that failed, which was told.
var errFailed = errors.New("policy tests failed")

// test runs the tests of a policy and shows their results as buildx does. What a test needs
// of a source it has to say: nothing is fetched.
func test(ctx context.Context, out io.Writer, path, filename, run string) error {
	files, ok := os.DirFS(".").(fs.StatFS)
	if !ok {
		return errors.New("policy test root does not support stat")
	}
	summary, err := policy.RunPolicyTests(ctx, path, policy.TestOptions{
		Run: run, Filename: filename, Root: files,
		Provider: &policy.TestOptionsProvider{
			Resolve: func(_ context.Context, src *pb.SourceOp, _ *gwpb.ResolveSourceMetaRequest) (*gwpb.ResolveSourceMetaResponse, error) {
				return nil, fmt.Errorf("the test has to say what it needs of %q: nothing is fetched", src.GetIdentifier())
			},
			Platform: func(context.Context) (*ocispec.Platform, error) {
				p := platforms.DefaultSpec()
				return &p, nil
			},
		},
	})
	if err != nil {
		return err
	}
	for _, r := range summary.Results {
		if err := showResult(out, r); err != nil {
			return err
		}
	}
	if summary.Failed > 0 {
		return errFailed
	}
	return nil
}

// showResult writes one result, with what is to be known of one that failed.
func showResult(out io.Writer, r policy.TestResult) error {
	status, allow := "FAIL", "n/a"
	if r.Passed {
		status = "PASS"
	}
	if r.Allow != nil {
		allow = fmt.Sprint(*r.Allow)
	}
	text := fmt.Sprintf("%s: %s (allow=%s", r.Name, status, allow)
	if len(r.DenyMessages) > 0 {
		text += ", deny_msg=" + strings.Join(r.DenyMessages, "; ")
	}
	text += ")\n"
	if !r.Passed {
		input, decision := "input: <nil>\n", "decision: <nil>\n"
		if r.Input != nil {
			b, err := json.MarshalIndent(r.Input, "", "  ")
			if err != nil {
				return err
			}
			input = "input:\n" + string(b) + "\n"
		}
		if r.Decision != nil {
			b, err := json.MarshalIndent(r.Decision, "", "  ")
			if err != nil {
				return err
			}
			decision = "decision:\n" + string(b) + "\n"
		}
		text += input + decision
		if len(r.MissingInput) > 0 {
			text += "missing_input: input." + strings.Join(r.MissingInput, ", input.") + "\n"
		}
		if len(r.MetadataNeeded) > 0 {
			text += "metadata_resolve: " + strings.Join(r.MetadataNeeded, ", ") + "\n"
		}
	}
	_, err := io.WriteString(out, text)
	return err
}
