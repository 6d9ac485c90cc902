package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"

	"strake/internal/engine"
	"strake/internal/progress"
)

// buildCall is what a build is asked for in place of an image.
type buildCall struct {
	question     string // "" for a build
	json         bool
	ignoreStatus bool // warnings do not fail a check
}

// parseCall reads the value of --call as buildx does:
// "check,format=json,ignorestatus=true".
func parseCall(value string) (call buildCall, err error) {
	name, rest, _ := strings.Cut(value, ",")
	switch name {
	case "", "build":
	case "lint":
		call.question = "check"
	case "check", "outline", "targets":
		call.question = name
	default:
		return call, fmt.Errorf("invalid call %q: it is build, check, outline or targets", name)
	}
	if rest == "" {
		return call, nil
	}
	for field := range strings.SplitSeq(rest, ",") {
		key, val, _ := strings.Cut(field, "=")
		switch key {
		case "format":
			if val != "json" && val != "text" {
				return call, fmt.Errorf("invalid format %q of --call: it is json or text", val)
			}
			call.json = val == "json"
		case "ignorestatus":
			if call.ignoreStatus, err = strconv.ParseBool(val); err != nil {
				return call, fmt.Errorf("invalid value %q of ignorestatus: %w", val, err)
			}
		default:
			return call, fmt.Errorf("invalid field %q of --call", field)
		}
	}
	return call, nil
}

// runCall answers what was asked, on standard output. A check that has a warning
// fails without a further word.
func runCall(ctx context.Context, s *session, env *engine.Env, build engine.BuildOptions, call buildCall, show progress.Display) error {
	answer, err := engine.AskBuild(ctx, env, build, call.question)
	if closeErr := show.Close(); err == nil {
		err = closeErr
	}
	if err != nil {
		return buildError(err)
	}
	if err := writeAnswer(s.Out, answer, call); err != nil {
		return err
	}
	switch {
	case answer.Failed != "" && !call.json:
		return errors.New(strings.TrimSuffix(answer.Failed, "\n"))
	case (answer.Failed != "" || answer.Warnings > 0) && !call.ignoreStatus:
		return statusError{code: exitFailure}
	}
	return nil
}

func writeAnswer(w io.Writer, answer engine.BuildAnswer, call buildCall) error {
	if call.json {
		b, err := json.MarshalIndent(answer.Value, "", "  ")
		if err != nil {
			return err
		}
		_, err = fmt.Fprintf(w, "%s\n", b)
		return err
	}
	text := answer.Text
	if call.question == "check" {
		switch {
		case answer.Warnings == 1:
			text = "Check complete, 1 warning has been found!\n" + text
		case answer.Warnings > 1:
			text = fmt.Sprintf("Check complete, %d warnings have been found!\n", answer.Warnings) + text
		case answer.Failed == "":
			text = "Check complete, no warnings found.\n"
		}
		if answer.Failed != "" && answer.Warnings > 0 {
			text += "\n"
		}
	}
	_, err := io.WriteString(w, text)
	return err
}

// handleWarnings has a display show the warnings, where they are about file.
func handleWarnings(show progress.Display, list []engine.Warning, file string) {
	for _, w := range list {
		show.Handle(progress.Event{
			State: progress.Warned, Log: []byte(w.String()),
			Warning: &progress.Warning{Detail: w.Description, URL: w.URL, File: file, Lines: w.Lines()},
		})
	}
}

// tellWarnings shows what the checks had to say, as buildx does when a build has
// ended.
func tellWarnings(s *session, list []engine.Warning) {
	if len(list) == 0 {
		return
	}
	head := "1 warning found"
	if len(list) > 1 {
		head = fmt.Sprintf("%d warnings found", len(list))
	}
	if !s.debug {
		head += " (use --debug to expand)"
	}
	fmt.Fprintf(s.Err, "\n %s:\n", head)
	for _, w := range list {
		fmt.Fprintf(s.Err, " - %s\n", w)
		if !s.debug {
			continue
		}
		fmt.Fprintln(s.Err, w.Description)
		if w.URL != "" {
			fmt.Fprintf(s.Err, "More info: %s\n", w.URL)
		}
		fmt.Fprintf(s.Err, "%s\n", w.Excerpt)
	}
}
