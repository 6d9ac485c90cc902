package cli

import (
	"context"
	"fmt"
	"strconv"
	"time"

	"github.com/docker/go-units"
	"github.com/moby/moby/api/types/container"
	"github.com/spf13/cobra"

	"strake/internal/engine"
)

type dfOptions struct {
	verbose bool
	format  string
}

func newDiskUsageCommand(s *session) *cobra.Command {
	var opts dfOptions
	cmd := &cobra.Command{
		Use:   "df [OPTIONS]",
		Short: "Show disk usage",
		Long: `Show disk usage. Sizes are what files take on disk: their sum is what du tells of the
store. What several share is counted once, in the first row that needs it. Undo is
what is kept for "strake undo" alone; Other is the database, directories and what
interrupted commands left.`,
		Args: argsBetween(0, 0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			return runDiskUsage(cmd.Context(), s, opts)
		},
		DisableFlagsInUseLine: true,
	}
	flags := cmd.Flags()
	flags.StringVar(&opts.format, "format", "", listFormatHelp)
	flags.BoolVarP(&opts.verbose, "verbose", "v", false, "Show detailed information on space usage")
	return cmd
}

// usageRow is one line of df.
type usageRow struct {
	kind              string
	total, active     int
	size, reclaimable int64
	percent           bool // docker shows which part can be had back
}

func runDiskUsage(ctx context.Context, s *session, opts dfOptions) error {
	env, err := s.engine(ctx)
	if err != nil {
		return err
	}
	usage, err := engine.DiskUsage(ctx, env)
	if err != nil {
		return fromEngine(err)
	}
	containers, err := engine.ListContainers(ctx, env, engine.ListContainersOptions{All: true, Size: true})
	if err != nil {
		return fromEngine(err)
	}
	if opts.verbose {
		return writeUsage(s, opts.format, usage, containers)
	}
	rows := []usageRow{
		{kind: "Images", total: len(usage.PerImage), size: usage.Images, reclaimable: usage.Reclaimable, percent: true},
		containersRow(usage.Containers, containers),
		{kind: "Local Volumes", total: len(usage.PerVolume), size: usage.Volumes, reclaimable: usage.FreeVolumes, percent: true},
		{kind: "Build Cache", total: len(usage.Records), size: usage.Cache, reclaimable: usage.Cache},
	}
	for _, img := range usage.PerImage {
		if img.InUse {
			rows[0].active++
		}
	}
	for _, v := range usage.PerVolume {
		if v.UsageData.RefCount > 0 {
			rows[2].active++
		}
	}
	for _, r := range usage.Records {
		if r.InUse {
			rows[3].active++
			rows[3].reclaimable = max(rows[3].reclaimable-r.Size, 0)
		}
	}
	if usage.Undo > 0 {
		rows = append(rows, usageRow{kind: "Undo", total: usage.Entries, size: usage.Undo, reclaimable: usage.Undo})
	}
	if usage.Other > 0 {
		rows = append(rows, usageRow{kind: "Other", total: usage.OtherFiles, size: usage.Other})
	}
	return listing[usageRow]{
		docker: "*formatter.diskUsageImagesContext", // whatever the row
		fields: []field[usageRow]{
			{"Type", "TYPE", func(r usageRow) string { return r.kind }},
			{"TotalCount", "TOTAL", func(r usageRow) string { return strconv.Itoa(r.total) }},
			{"Active", "ACTIVE", func(r usageRow) string { return strconv.Itoa(r.active) }},
			{"Size", "SIZE", func(r usageRow) string { return units.HumanSize(float64(r.size)) }},
			{"Reclaimable", "RECLAIMABLE", usageRow.gain},
		},
		columns: []string{"Type", "TotalCount", "Active", "Size", "Reclaimable"},
	}.write(s.Out, opts.format, rows)
}

// containersRow is the line of containers; what those that do not run wrote can be had back.
func containersRow(size int64, containers []container.Summary) usageRow {
	r := usageRow{kind: "Containers", total: len(containers), size: size, percent: true}
	for _, c := range containers {
		if c.State == container.StateRunning || c.State == container.StatePaused || c.State == container.StateRestarting {
			r.active++
		} else {
			r.reclaimable += c.SizeRw
		}
	}
	r.reclaimable = min(r.reclaimable, size)
	return r
}

func (r usageRow) gain() string {
	text := units.HumanSize(float64(r.reclaimable))
	if r.percent && r.size > 0 {
		text += fmt.Sprintf(" (%d%%)", r.reclaimable*100/r.size)
	}
	return text
}

// writeUsage prints docker's four tables, or a format of all four.
func writeUsage(s *session, format string, usage engine.Usage, containers []container.Summary) error {
	images := imageUsageListing(format == "" || format == "table")
	records, volumes := cacheListing(), volumeListing("Name", "Links", "Size")
	running := listing[container.Summary]{
		fields:  containerFields(format == "" || format == "table"),
		columns: []string{"ID", "Image", "Command", "LocalVolumes", "Size", "RunningFor", "Status", "Names"},
	}
	if format != "" && format != "table" {
		if format == "json" {
			format = "{{json .}}"
		}
		tmpl, err := parseTemplate("", unescape(format))
		if err != nil {
			return err
		}
		return tmpl.Option("missingkey=error").Execute(s.Out, struct{ Images, Containers, Volumes, BuildCache []record }{ // no newline: docker adds none
			images.records(usage.PerImage), running.records(containers), volumes.records(usage.PerVolume), records.records(usage.Records),
		})
	}
	fmt.Fprint(s.Out, "Images space usage:\n\n")
	if err := images.write(s.Out, "", usage.PerImage); err != nil {
		return err
	}
	fmt.Fprint(s.Out, "\nContainers space usage:\n\n")
	for i := range containers {
		containers[i].SizeRootFs = 0 // docker shows what was written
	}
	if err := running.write(s.Out, "", containers); err != nil {
		return err
	}
	fmt.Fprint(s.Out, "\nLocal Volumes space usage:\n\n")
	if err := volumes.write(s.Out, "", usage.PerVolume); err != nil {
		return err
	}
	fmt.Fprintf(s.Out, "\nBuild cache usage: %s\n\n", units.HumanSize(float64(usage.Cache)))
	return records.write(s.Out, "", usage.Records)
}

// records are items as templates see them.
func (l listing[T]) records(items []T) []record {
	list := make([]record, len(items))
	for i, item := range items {
		list[i] = l.record(item)
	}
	return list
}

func imageUsageListing(trunc bool) listing[engine.ImageUsage] {
	now := time.Now()
	name := func(u engine.ImageUsage) (repository, tag string) {
		if len(u.Image.Names) == 0 {
			return none, none
		}
		name := engine.FamiliarNames(u.Image.Names)[0]
		repository = engine.Repository(name)
		return repository, name[len(repository)+1:]
	}
	return listing[engine.ImageUsage]{
		fields: []field[engine.ImageUsage]{
			{"Repository", "REPOSITORY", func(u engine.ImageUsage) string { repository, _ := name(u); return repository }},
			{"Tag", "TAG", func(u engine.ImageUsage) string { _, tag := name(u); return tag }},
			{"ID", "IMAGE ID", func(u engine.ImageUsage) string { return idText(u.Image.ID.String(), trunc) }},
			{"CreatedSince", "CREATED", func(u engine.ImageUsage) string { return createdSince(now, u.Image.Created) }},
			{"Size", "SIZE", func(u engine.ImageUsage) string { return bytesOf(u.Shared + u.Unique) }},
			{"SharedSize", "SHARED SIZE", func(u engine.ImageUsage) string { return bytesOf(u.Shared) }},
			{"UniqueSize", "UNIQUE SIZE", func(u engine.ImageUsage) string { return bytesOf(u.Unique) }},
			{"Containers", "CONTAINERS", func(u engine.ImageUsage) string {
				if u.InUse {
					return "1"
				}
				return "0"
			}},
		},
		columns: []string{"Repository", "Tag", "ID", "CreatedSince", "Size", "SharedSize", "UniqueSize", "Containers"},
	}
}

func cacheListing() listing[engine.CacheRecord] {
	now := time.Now()
	type R = engine.CacheRecord
	return listing[R]{
		fields: []field[R]{
			{"ID", "CACHE ID", func(r R) string { return r.ID }},
			{"CacheType", "CACHE TYPE", func(r R) string { return r.Kind }},
			{"Size", "SIZE", func(r R) string { return bytesOf(r.Size) }},
			{"CreatedSince", "CREATED", func(r R) string { return since(now, r.Created) }},
			{"LastUsedSince", "LAST USED", func(r R) string { return since(now, r.Used) }},
			{"UsageCount", "USAGE", func(R) string { return "1" }},
			{"InUse", "IN USE", func(r R) string { return strconv.FormatBool(r.InUse) }},
			{"Shared", "SHARED", func(r R) string { return strconv.FormatBool(r.Shared) }},
			{"Description", "DESCRIPTION", func(r R) string { return r.Step }},
		},
		columns: []string{"ID", "CacheType", "Size", "CreatedSince", "LastUsedSince", "UsageCount", "Shared"},
	}
}
