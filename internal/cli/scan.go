package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"strake/internal/engine"
	"strake/internal/progress"
)

type scanOptions struct {
	lookFlags
	image         string
	update        bool
	from          string
	ecosystems    []string
	severity      string
	ignoreUnfixed bool
	exitCode      bool
	secrets       bool
	packages      bool
	format        string
	json          bool
}

func newScanCommand(s *session) *cobra.Command {
	var opts scanOptions
	cmd := &cobra.Command{
		Use:   "scan [OPTIONS] IMAGE\n  strake scan --update [--from FILE|URL]",
		Short: "Find vulnerabilities, packages and secrets in an image",
		Long: `Find vulnerabilities, packages and secrets in an image

Vulnerabilities are found by the data of OSV (https://osv.dev), which --update
fetches or, with --from, reads from a dump (all.zip), a directory of records or a
mirror; what is here is used until then, and its age is shown. Packages are those of
dpkg, apk, npm, pip, gem, composer and NuGet, and what programs of Go, Rust and Java
say that they are made of. Secrets are found in layers, also in files that later
layers delete, and in the environment, labels and history; they are never shown. An
image that is not here is read from its registry.`,
		Args: argsBetween(0, 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) > 0 {
				opts.image = args[0]
			}
			return runScan(cmd.Context(), s, opts)
		},
		Annotations:           map[string]string{aliasesKey: "strake image scan, strake scan"},
		DisableFlagsInUseLine: true,
	}
	flags := cmd.Flags()
	flags.BoolVar(&opts.update, "update", false, "Bring the vulnerability data up to date, before the image if one is named")
	flags.StringVar(&opts.from, "from", "", "Dump, record, directory or URL that --update reads (default: OSV's server)")
	flags.StringSliceVar(&opts.ecosystems, "ecosystem", nil, `Ecosystems that --update reads (e.g., "Debian,npm"; default: all)`)
	flags.StringVar(&opts.severity, "severity", "", "Show vulnerabilities of this severity and worse ones (critical, high, medium, low, negligible)")
	flags.BoolVar(&opts.ignoreUnfixed, "ignore-unfixed", false, "Leave out vulnerabilities for which no fixed version is known")
	flags.BoolVar(&opts.exitCode, "exit-code", false, "Exit with 1 when something is shown")
	flags.BoolVar(&opts.secrets, "secrets", false, "List secrets instead")
	flags.BoolVar(&opts.packages, "packages", false, "List packages instead")
	flags.BoolVar(&opts.json, "json", false, "Print all of it as one JSON object")
	flags.StringVar(&opts.format, "format", "", listFormatHelp)
	opts.add(flags)
	return cmd
}

func runScan(ctx context.Context, s *session, opts scanOptions) error {
	switch {
	case opts.image == "" && !opts.update:
		return errors.New("scan needs the name of an image, or --update")
	case !opts.update && (opts.from != "" || len(opts.ecosystems) > 0):
		return errors.New("--from and --ecosystem are for --update")
	case opts.secrets && opts.packages:
		return errors.New("--secrets and --packages list different things: use one of them")
	case opts.json && (opts.secrets || opts.packages || opts.format != ""):
		return errors.New("--json prints all of it, in one format")
	}
	least := engine.Severity(0)
	if opts.severity != "" {
		if err := least.UnmarshalText([]byte(opts.severity)); err != nil {
			return err
		}
	}
	env, err := s.engine(ctx)
	if err != nil {
		return err
	}
	if opts.update {
		if err := updateScanData(ctx, s, env, opts); err != nil || opts.image == "" {
			return err
		}
	}
	result, err := engine.Scan(ctx, env, engine.ScanOptions{
		LookOptions: opts.options(s, opts.image), Vulnerabilities: !opts.secrets && !opts.packages,
	})
	if err != nil {
		return fromEngine(err)
	}
	result.Vulnerabilities = slices.DeleteFunc(result.Vulnerabilities, func(v engine.Vulnerability) bool {
		return v.Severity < least || opts.ignoreUnfixed && v.Fixed == ""
	})
	warnScan(s.Err, &result)
	shown, err := writeScan(s.Out, &result, opts)
	if err == nil && opts.exitCode && shown > 0 {
		err = statusError{code: exitFailure}
	}
	return err
}

// updateScanData runs --update.
func updateScanData(ctx context.Context, s *session, env *engine.Env, opts scanOptions) error {
	last := time.Time{}
	result, err := engine.UpdateScanData(ctx, env, engine.UpdateScanDataOptions{
		From: opts.from, Ecosystems: opts.ecosystems,
		Progress: func(what string, records int) {
			if now := time.Now(); isTerminal(s.Err) && now.Sub(last) > time.Second {
				last = now
				fmt.Fprintf(s.Err, "Reading %s: %d records\n", progress.Printable(what), records)
			}
		},
	})
	if err != nil {
		return fromEngine(err)
	}
	if result.Unusable > 0 {
		fmt.Fprintf(s.Err, "WARNING: %d records could not be read\n", result.Unusable)
	}
	out := s.Out
	if opts.image != "" {
		out = s.Err
	}
	fmt.Fprintf(out, "Read %d records, %d of them new, changed or gone\n", result.Records, result.Changed)
	return scanDataListing().write(out, "", result.All)
}

func scanDataListing() listing[engine.VulnSource] {
	now := time.Now()
	return listing[engine.VulnSource]{
		fields: []field[engine.VulnSource]{
			{"Ecosystem", "ECOSYSTEM", func(v engine.VulnSource) string { return v.Name }},
			{"Records", "RECORDS", func(v engine.VulnSource) string { return strconv.FormatInt(v.Records, 10) }},
			{"Changed", "LAST CHANGE", func(v engine.VulnSource) string { return since(now, v.Modified) }},
			{"Updated", "UPDATED", func(v engine.VulnSource) string { return since(now, v.Imported) }},
		},
		columns: []string{"Ecosystem", "Records", "Changed", "Updated"},
	}
}

// warnScan tells what the lists lack.
func warnScan(w io.Writer, result *engine.ScanResult) {
	if result.Unread != nil {
		fmt.Fprintf(w, "WARNING: not looked at: %v\n", result.Unread)
	}
	for _, note := range result.Skipped {
		fmt.Fprintf(w, "WARNING: not looked at: %s\n", progress.Printable(note))
	}
	if len(result.Missing) > 0 {
		fmt.Fprintf(w, "WARNING: there is no vulnerability data of %s: 'strake scan --update' reads it\n", strings.Join(result.Missing, ", "))
	}
	if result.Unknown > 0 {
		fmt.Fprintf(w, "WARNING: vulnerability data cannot tell of %d packages: their distribution or version is not known\n", result.Unknown)
	}
}

// writeScan prints what was asked for, and returns how many rows that is.
func writeScan(out io.Writer, result *engine.ScanResult, opts scanOptions) (shown int, err error) {
	table := opts.format == "" || opts.format == "table"
	switch {
	case opts.json:
		return len(result.Vulnerabilities), writeJSON(out, scanJSON(result))
	case opts.packages:
		if err := packageListing().write(out, opts.format, result.Packages); err != nil || !table {
			return len(result.Packages), err
		}
		_, err = fmt.Fprintf(out, "\n%s\n", count(len(result.Packages), "package"))
		return len(result.Packages), err
	case opts.secrets:
		return len(result.Secrets), secretListing().write(out, opts.format, result.Secrets)
	}
	shown = len(result.Vulnerabilities)
	if shown > 0 || !table {
		if err := vulnerabilityListing().write(out, opts.format, result.Vulnerabilities); err != nil || !table {
			return shown, err
		}
		fmt.Fprintln(out)
	}
	return shown, writeScanSummary(out, result)
}

// writeScanSummary prints the counts, and how old the data is.
func writeScanSummary(out io.Writer, result *engine.ScanResult) error {
	counts := map[engine.Severity]int{}
	for _, v := range result.Vulnerabilities {
		counts[v.Severity]++
	}
	parts := []string{}
	for _, severity := range engine.Severities() {
		if n := counts[severity]; n > 0 {
			parts = append(parts, fmt.Sprintf("%d %s", n, severity))
		}
	}
	line := vulnerabilities(len(result.Vulnerabilities))
	if len(parts) > 0 {
		line += ": " + strings.Join(parts, ", ")
	}
	name := ""
	if result.Distribution != "" {
		name = " of " + progress.Printable(result.Distribution)
	}
	fmt.Fprintf(out, "%s\n%s%s, %s\n", line, count(len(result.Packages), "package"), name, count(len(result.Secrets), "secret"))
	ages := []string{}
	for _, source := range result.Sources {
		ages = append(ages, source.Name+" "+since(time.Now(), source.Imported))
	}
	if len(ages) == 0 {
		return nil
	}
	_, err := fmt.Fprintf(out, "Data of %s\n", strings.Join(ages, ", "))
	return err
}

func count(n int, noun string) string {
	if n == 1 {
		return "1 " + noun
	}
	return strconv.Itoa(n) + " " + noun + "s"
}

func vulnerabilities(n int) string {
	switch n {
	case 0:
		return "No vulnerabilities"
	case 1:
		return "1 vulnerability"
	}
	return strconv.Itoa(n) + " vulnerabilities"
}

func vulnerabilityListing() listing[engine.Vulnerability] {
	type v = engine.Vulnerability
	return listing[v]{
		fields: []field[v]{
			{"Severity", "SEVERITY", func(v v) string { return v.Severity.String() }},
			{"ID", "VULNERABILITY", func(v v) string { return v.ID }},
			{"Package", "PACKAGE", func(v v) string { return v.Package.Name }},
			{"Version", "VERSION", func(v v) string { return v.Package.Version }},
			{"Fixed", "FIXED IN", func(v v) string { return v.Fixed }},
			{"Score", "SCORE", func(v v) string { return v.Score }},
			{"Layer", "LAYER", func(v v) string { return strconv.Itoa(v.Package.Layer) }},
			{"Type", "TYPE", func(v v) string { return v.Package.Type }},
			{"Ecosystem", "ECOSYSTEM", func(v v) string { return v.Package.Ecosystem }},
			{"File", "FILE", func(v v) string { return "/" + v.Package.File }},
			{"Aliases", "ALIASES", func(v v) string { return strings.Join(v.Aliases, ",") }},
			{"Vector", "VECTOR", func(v v) string { return v.Vector }},
			{"Published", "PUBLISHED", func(v v) string { return v.Published }},
			{"Summary", "SUMMARY", func(v v) string { return v.Summary }},
		},
		columns: []string{"Severity", "ID", "Package", "Version", "Fixed", "Score", "Layer"},
	}
}

func packageListing() listing[engine.Package] {
	type p = engine.Package
	return listing[p]{
		fields: []field[p]{
			{"Type", "TYPE", func(p p) string { return p.Type }},
			{"Name", "NAME", func(p p) string { return p.Name }},
			{"Version", "VERSION", func(p p) string { return p.Version }},
			{"Arch", "ARCH", func(p p) string { return p.Arch }},
			{"Source", "SOURCE", func(p p) string { return p.Source }},
			{"Ecosystem", "ECOSYSTEM", func(p p) string { return p.Ecosystem }},
			{"Layer", "LAYER", func(p p) string { return strconv.Itoa(p.Layer) }},
			{"File", "FILE", func(p p) string { return "/" + p.File }},
		},
		columns: []string{"Type", "Name", "Version", "Arch", "Layer", "File"},
	}
}

func secretListing() listing[engine.FoundSecret] {
	type x = engine.FoundSecret
	return listing[x]{
		fields: []field[x]{
			{"Rule", "RULE", func(x x) string { return x.Rule }},
			{"What", "WHAT", func(x x) string { return x.What }},
			{"Where", "WHERE", secretPlace},
			{"Layer", "LAYER", func(x x) string { return strconv.Itoa(x.Layer) }},
			{"Excerpt", "EXCERPT", func(x x) string { return x.Excerpt }},
			{"Deleted", "DELETED", func(x x) string { return strconv.FormatBool(x.Deleted) }},
		},
		columns: []string{"Rule", "Where", "Layer", "Deleted", "Excerpt"},
	}
}

func secretPlace(x engine.FoundSecret) string {
	if x.File == "" {
		return x.Place
	}
	place := "/" + x.File
	if x.Line > 0 {
		place += ":" + strconv.Itoa(x.Line)
	}
	return place
}

// scanJSON is what --json prints.
func scanJSON(result *engine.ScanResult) any {
	type data struct {
		Ecosystem string    `json:"ecosystem"`
		Records   int64     `json:"records"`
		Updated   time.Time `json:"updated"`
	}
	sources := []data{}
	for _, v := range result.Sources {
		sources = append(sources, data{v.Name, v.Records, v.Imported.UTC()})
	}
	notRead := ""
	if result.Unread != nil {
		notRead = result.Unread.Error()
	}
	orEmpty := func(list []string) []string { return append([]string{}, list...) }
	return struct {
		ID              string                 `json:"id"`
		Distribution    string                 `json:"distribution,omitempty"`
		Packages        []engine.Package       `json:"packages"`
		Vulnerabilities []engine.Vulnerability `json:"vulnerabilities"`
		Secrets         []engine.FoundSecret   `json:"secrets"`
		Data            []data                 `json:"data"`
		Missing         []string               `json:"missing"` // ecosystems without data
		Unknown         int                    `json:"unknown"` // packages
		NotRead         string                 `json:"notRead,omitempty"`
		Skipped         []string               `json:"skipped"`
	}{
		result.ID.String(), result.Distribution, result.Packages, append([]engine.Vulnerability{}, result.Vulnerabilities...),
		append([]engine.FoundSecret{}, result.Secrets...), sources, orEmpty(result.Missing), result.Unknown, notRead, orEmpty(result.Skipped),
	}
}
