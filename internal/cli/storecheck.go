package cli

import (
	"context"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/docker/go-units"
	"github.com/spf13/cobra"

	"strake/internal/engine"
)

type storeCheckOptions struct {
	repair bool
	quick  bool
	format string
}

func newStoreCheckCommand(s *session) *cobra.Command {
	var opts storeCheckOptions
	cmd := &cobra.Command{
		Use:   "check [OPTIONS]",
		Short: "Check that the image store is whole, and repair it",
		Long: `Check that the image store is whole, and repair it

Every blob is read and compared with its digest, every index with the one that
its tar gives; rows are compared with files, and every image, cache record and
lease is followed to its last layer. Other commands may run meanwhile.

With --repair what is wrong is put right: what nothing needs is dropped, indexes
are made again, layers are made from their compressed form or fetched from the
repositories that are known to hold them. A blob that cannot be had again moves
to the directory damaged/ of the store; its images stay listed, and pull, load or
build brings it back. What a killed command left is called a leftover: it costs
space, and nothing else.

Exit codes: 0 nothing is wrong (leftovers are not), or all of it was repaired;
1 something is left that is wrong`,
		Args: argsBetween(0, 0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			return runStoreCheck(cmd.Context(), s, opts)
		},
		DisableFlagsInUseLine: true,
	}
	flags := cmd.Flags()
	flags.BoolVar(&opts.repair, "repair", false, "Put right what is wrong")
	flags.BoolVar(&opts.quick, "quick", false, "Compare sizes and records only, read no layer")
	flags.StringVar(&opts.format, "format", "", inspectFormatHelp)
	return cmd
}

// checkReport is what templates see.
type checkReport struct {
	Images, Layers, Blobs int
	Bytes                 int64
	Findings              []engine.Finding
	Done                  []string         // by --repair
	Left                  []engine.Finding // of Findings, or come to light
}

func runStoreCheck(ctx context.Context, s *session, opts storeCheckOptions) error {
	env, err := s.engine(ctx)
	if err != nil {
		return err
	}
	out := s.Out
	if opts.format != "" {
		out = io.Discard
	}
	var report checkReport
	shown := &checkProgress{out: s.Err, on: isTerminal(s.Err)}
	check := engine.CheckStoreOptions{Quick: opts.quick, Repair: opts.repair, Progress: shown.show}
	check.Found = func(found engine.StoreCheck) {
		shown.clear()
		for _, f := range found.Findings {
			fmt.Fprintln(out, findingLine(f))
		}
	}
	check.Did = func(line string) {
		report.Done = append(report.Done, line)
		fmt.Fprintln(out, "Repair:", line)
	}
	result, err := engine.CheckStore(ctx, env, check)
	shown.clear()
	if err != nil {
		return fromEngine(err)
	}
	if opts.repair {
		for _, f := range result.Left {
			fmt.Fprintln(out, "Left:", findingLine(f))
		}
	}
	wrong, leftovers := engine.Wrong(result.Findings)
	fmt.Fprintf(out, "Checked %d images, %d layers, %d blobs, %s: %d wrong, %d left over\n",
		result.Images, result.Layers, result.Blobs, units.HumanSize(float64(result.Bytes)), wrong, leftovers)
	if opts.format != "" {
		report.Images, report.Layers, report.Blobs, report.Bytes = result.Images, result.Layers, result.Blobs, result.Bytes
		report.Findings, report.Left = result.Findings, result.Left
		if err := writeFormat(s.Out, "", opts.format, report); err != nil {
			return err
		}
	}
	if left, _ := engine.Wrong(result.Left); left > 0 {
		return statusError{code: exitFailure}
	}
	return nil
}

// findingLine is a finding in one line.
func findingLine(f engine.Finding) string {
	line := fmt.Sprintf("%s %s: %s", f.Kind, f.What, f.Detail)
	if len(f.Images) > 0 {
		line += " (" + strings.Join(engine.FamiliarNames(f.Images), ", ") + ")"
	}
	return line
}

// checkProgress shows on a terminal how far a check is.
type checkProgress struct {
	out   io.Writer
	on    bool
	drawn time.Time
}

func (p *checkProgress) show(done, total int64) {
	if !p.on || time.Since(p.drawn) < redrawEvery {
		return
	}
	p.drawn = time.Now()
	fmt.Fprintf(p.out, "\r\x1b[2KChecking %s/%s", units.HumanSize(float64(done)), units.HumanSize(float64(total)))
}

func (p *checkProgress) clear() {
	if p.on && !p.drawn.IsZero() {
		fmt.Fprint(p.out, "\r\x1b[2K")
		p.drawn = time.Time{}
	}
}
