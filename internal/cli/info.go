package cli

import (
	"context"
	"fmt"
	"strings"

	"github.com/docker/go-units"
	"github.com/spf13/cobra"

	"strake/internal/engine"
)

type infoOptions struct{ format string }

func newInfoCommand(s *session) *cobra.Command {
	var opts infoOptions
	cmd := &cobra.Command{
		Use:   "info [OPTIONS]",
		Short: "Display system-wide information",
		Args:  argsBetween(0, 0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			return runInfo(cmd.Context(), s, opts)
		},
		Annotations:           map[string]string{topKey: "12", aliasesKey: "strake system info, strake info"},
		DisableFlagsInUseLine: true,
	}
	cmd.Flags().StringVarP(&opts.format, "format", "f", "", inspectFormatHelp)
	return cmd
}

func runInfo(ctx context.Context, s *session, opts infoOptions) error {
	env, err := s.engine(ctx)
	if err != nil {
		return err
	}
	info, err := engine.Info(ctx, env)
	if err != nil {
		return fromEngine(err)
	}
	if opts.format != "" {
		return writeFormat(s.Out, "", opts.format, info)
	}
	var b strings.Builder
	fmt.Fprintf(&b, "Client:\n Version:    %s\n Debug Mode: %t\n\nServer:\n", release, s.debug)
	for _, line := range [][2]string{
		{"Images", fmt.Sprint(info.Images)},
		{"Server Version", info.ServerVersion},
		{"Storage Driver", info.Driver},
		{"Storage Driver Reason", info.DriverReason},
		{"Runtimes", info.DefaultRuntime},
		{"Default Runtime", info.DefaultRuntime},
		{"Runtime Version", info.RuntimeVersion},
		{"Kernel Version", info.KernelVersion},
		{"Operating System", info.OperatingSystem},
		{"OSType", info.OSType},
		{"Architecture", info.Architecture},
		{"CPUs", fmt.Sprint(info.NCPU)},
		{"Total Memory", units.BytesSize(float64(info.MemTotal))},
		{"Name", info.Name},
		{"Docker Root Dir", info.DockerRootDir},
	} {
		if line[1] != "" {
			fmt.Fprintf(&b, " %s: %s\n", line[0], line[1])
		}
	}
	_, err = fmt.Fprint(s.Out, b.String())
	return err
}
