//go:build linux

package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// A record is one finished run of a case group: a line of the results, and all that the report says of the group. Groups that
// were measured on different days or machines stand side by side in a report, so that each tells its own.
type record struct {
	Group   string       `json:"group"`
	Date    time.Time    `json:"date"`
	Machine string       `json:"machine"`
	Store   string       `json:"store"`
	Load    string       `json:"load"`
	Seed    uint64       `json:"seed"`
	Scale   float64      `json:"scale"`
	Floor   int64        `json:"floor"` // peak memory of the harness: no smaller one can be told
	Tools   []toolRecord `json:"tools"`
	Missing []string     `json:"missing,omitempty"`
	Inputs  []inputLine  `json:"inputs"`
	Limits  string       `json:"limits,omitempty"`
	Steps   []stepRecord `json:"steps"`
	// Whole says that the CPU time is also that of processes that outlive their commands.
	Whole bool `json:"whole,omitempty"`
}

type toolRecord struct {
	Name     string `json:"name"`
	Version  string `json:"version"`
	Note     string `json:"note,omitempty"`
	Baseline bool   `json:"baseline,omitempty"`
}

// An inputLine describes an input: its bytes and digest, and those of what it is compressed from.
type inputLine struct {
	Name   string `json:"name"`
	Size   int64  `json:"size"`
	Digest string `json:"digest,omitempty"`
	Plain  int64  `json:"plain,omitempty"`
	DiffID string `json:"diffID,omitempty"`
}

type stepRecord struct {
	Name    string    `json:"name"`
	Title   string    `json:"title"`
	Goals   []verdict `json:"goals,omitempty"`
	Results []result  `json:"results"`
}

type verdict struct {
	Text string `json:"text"`
	Met  bool   `json:"met"`
}

// A result is what all rounds of one tool gave for one step.
type result struct {
	Tool    string   `json:"tool"`
	Command string   `json:"command,omitempty"`
	Failure string   `json:"failure,omitempty"`
	Samples []sample `json:"samples,omitempty"`
}

// result is where the samples of a tool go.
func (s *stepRecord) result(tool string) *result {
	i := slices.IndexFunc(s.Results, func(r result) bool { return r.Tool == tool })
	if i < 0 {
		i, s.Results = len(s.Results), append(s.Results, result{Tool: tool})
	}
	return &s.Results[i]
}

// describeInputs lists the inputs that were made.
func describeInputs(in *inputs) []inputLine {
	line := func(name string, l inputLayer) inputLine {
		return inputLine{name, l.Size, short(l.Digest), l.TarSize, short(l.DiffID)}
	}
	lines := []inputLine{line("base (busybox)", in.Base)}
	for i, l := range in.Layers {
		lines = append(lines, line(fmt.Sprintf("layer %d", i+1), l))
	}
	if len(in.Config) > 0 {
		lines = append(lines, inputLine{Name: "image", Size: int64(len(in.Config)), Digest: short(in.imageID())})
	}
	if in.Related > 0 {
		lines = append(lines, inputLine{Name: "unique layers of the related images", Plain: in.Related})
	}
	return lines
}

func short(digest string) string { return strings.TrimPrefix(digest, "sha256:")[:16] }

// results is the name of the file of records that belongs to a report.
func results(report string) string { return strings.TrimSuffix(report, ".md") + ".jsonl" }

// readRecords reads the records of a report; there are none where there is no file.
func readRecords(name string) (all []record, err error) {
	b, err := os.ReadFile(name) // #nosec G304 -- the report to write
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	for line := range bytes.Lines(b) {
		var r record
		if err := json.Unmarshal(line, &r); err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
		all = append(all, r)
	}
	return all, err
}

// keep puts a record into the records in place of the group's older one and writes them and the report. order has the names of
// the groups that there are: what was measured of others goes.
func keep(report string, all []record, r *record, order []string) ([]record, error) {
	all = slices.DeleteFunc(all, func(old record) bool { return old.Group == r.Group || !slices.Contains(order, old.Group) })
	all = append(all, *r)
	slices.SortStableFunc(all, func(a, b record) int { return slices.Index(order, a.Group) - slices.Index(order, b.Group) })
	var lines bytes.Buffer
	enc := json.NewEncoder(&lines)
	enc.SetEscapeHTML(false)
	for i := range all {
		if err := enc.Encode(&all[i]); err != nil {
			return all, err
		}
	}
	err := replaceFile(results(report), lines.Bytes())
	if err == nil {
		err = replaceFile(report, []byte(writeReport(all)))
	}
	return all, err
}

// replaceFile replaces a file at once.
func replaceFile(name string, data []byte) error {
	if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil { // #nosec G301 -- a directory of the repository
		return err
	}
	f, err := os.CreateTemp(filepath.Dir(name), ".benchmarks")
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	err = errors.Join(err, f.Chmod(0o644), f.Sync(), f.Close())
	if err == nil {
		err = os.Rename(f.Name(), name)
	}
	if err != nil {
		return errors.Join(err, os.Remove(f.Name()))
	}
	return nil
}
