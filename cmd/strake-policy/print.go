package main

import (
	"context"
	"encoding/json"
	"slices"
	"strings"

	"github.com/docker/buildx/policy"

	"strake/internal/sourcepolicy"
)

// print answers with what policies see of a source, as docker buildx policy eval --print
// shows it. It logs which of the fields that were asked for there are not, or which nobody
// asked for.
func (s *server) print(ctx context.Context, q sourcepolicy.Question) (a sourcepolicy.Answer, err error) {
	req, platform := request(q), &s.platform
	if q.Platform != nil {
		platform = q.Platform
	}
	input, err := policy.SourceToInput(ctx, noVerifier, req.GetSource(), platform, nil)
	if err != nil {
		return a, err
	}
	unknown := input.Unknowns()
	for i := range unknown {
		unknown[i] = strings.TrimPrefix(unknown[i], "input.")
	}
	var wanted, invalid []string
	for _, field := range q.Fields {
		if of := unknownOf(field, unknown); of != "" {
			wanted = append(wanted, of)
		} else if q.Facts == nil {
			invalid = append(invalid, field)
		}
	}
	s.note("WARNING: invalid fields: ", invalid)
	_, more, err := policy.ResolveInputUnknowns(ctx, &input, req.GetSource().GetSource(), wanted, req.GetPlatform(), platform, nil, noVerifier, nil)
	if err != nil {
		return a, unsupported(err, q)
	}
	if more != nil {
		a.Look = lookFor(more, nil)
		a.Look.Signatures = slices.Contains(wanted, "image.signatures")
		return a, nil
	}
	if len(q.Fields) == 0 {
		s.note("INFO: unresolved fields: ", summary(unknown))
	}
	withoutDepth(&input)
	a.Input, err = json.Marshal(input)
	return a, err
}

func (s *server) note(what string, fields []string) {
	if len(fields) > 0 {
		s.log = append(s.log, what+strings.Join(fields, ", "))
	}
}

// unknownOf is the longest of unknown that a field is, or is a part of; "" is none.
func unknownOf(field string, unknown []string) (found string) {
	for _, u := range unknown {
		rest, ok := strings.CutPrefix(field, u)
		if ok && (rest == "" || rest[0] == '.' || rest[0] == '[') && len(u) > len(found) {
			found = u
		}
	}
	return found
}

// summary is unknown without what is below the second level.
func summary(unknown []string) (list []string) {
	for _, u := range unknown {
		if parts := strings.Split(u, "."); strings.Contains(u, ".materials[") {
			u, _, _ = strings.Cut(u, "[")
		} else if len(parts) > 2 {
			u = strings.Join(parts[:2], ".")
		}
		list = append(list, u)
	}
	slices.Sort(list)
	return slices.Compact(list)
}

// withoutDepth leaves out where materials are, which is seen.
func withoutDepth(input *policy.Input) {
	input.Env.Depth = 0
	if input.Image == nil || input.Image.Provenance == nil {
		return
	}
	for i := range input.Image.Provenance.Materials {
		withoutDepth(&input.Image.Provenance.Materials[i])
	}
}
