package cli

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	"strake/internal/bake"
	"strake/internal/engine"
	"strake/internal/progress"
)

// bakeQuestion is what a target is asked in place of being built.
type bakeQuestion struct {
	engine.NamedBuild
	call   buildCall
	target bake.Target
}

// ask answers the questions, one after the other, on standard output, as JSON where all is.
// A check that has a warning fails without a further word.
func (o bakeOptions) ask(ctx context.Context, s *session, env *engine.Env, questions []bakeQuestion, answer bake.Answer, asJSON bool) error {
	status := 0
	told := map[string]map[string]any{}
	for i, q := range questions {
		var text bytes.Buffer
		failed, err := q.answer(ctx, s, env, o.progress, &text)
		if err != nil {
			return err
		}
		if failed {
			status = exitFailure
		}
		if asJSON {
			told[q.Name] = map[string]any{"build": q.target.Define, q.call.question: json.RawMessage(text.Bytes())}
			continue
		}
		if i > 0 {
			fmt.Fprintln(s.Out)
		}
		head := q.Name + "\n"
		if q.target.Description != "" {
			head += q.target.Description + "\n"
		}
		if _, err := fmt.Fprintf(s.Out, "%s\n%s", head, text.Bytes()); err != nil {
			return err
		}
	}
	if asJSON {
		b, err := json.MarshalIndent(map[string]any{"group": answer.Groups, "target": told}, "", "  ")
		if err != nil {
			return err
		}
		if _, err := fmt.Fprintf(s.Out, "%s\n", b); err != nil {
			return err
		}
	}
	if status != 0 {
		return statusError{code: status}
	}
	return nil
}

// answer writes the answer to one question, and reports whether it is a failure.
func (q bakeQuestion) answer(ctx context.Context, s *session, env *engine.Env, mode string, to *bytes.Buffer) (failed bool, err error) {
	show, err := progress.New(progress.Options{Out: s.Err, Mode: mode})
	if err != nil {
		return false, fmt.Errorf("ERROR: %w", err)
	}
	q.Progress = show.Handle
	said, err := engine.AskBuild(ctx, env, q.BuildOptions, q.call.question)
	if closeErr := show.Close(); err == nil {
		err = closeErr
	}
	if err != nil {
		return false, buildError(fmt.Errorf("target %s: %w", q.Name, err))
	}
	if err := writeAnswer(to, said, q.call); err != nil {
		return false, err
	}
	if said.Failed != "" && !q.call.json {
		return false, errors.New(strings.TrimSuffix(said.Failed, "\n"))
	}
	return (said.Failed != "" || said.Warnings > 0) && !q.call.ignoreStatus, nil
}
