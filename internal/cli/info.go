package cli

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/docker/go-units"
	"github.com/spf13/cobra"

	"strake/internal/engine"
)

type infoOptions struct{ format string }

// installation is what info shows.
type installation struct {
	engine.InfoResult
	ClientInfo clientInfo
}

// clientInfo is what docker tells of its command line.
type clientInfo struct {
	Debug    bool
	Version  string
	Context  string
	Plugins  []clientPlugin
	Warnings []string
}

// clientPlugin is a plugin of docker's command line, here a command.
type clientPlugin struct{ Name, ShortDescription, Vendor, Version string }

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
	all := installation{info, clientInfo{
		Debug: s.debug, Version: release, Context: theContext,
		Plugins: []clientPlugin{{Name: "buildx", ShortDescription: "Docker's buildx commands that Strake has", Vendor: "Strake", Version: release}},
	}}
	all.Debug = s.debug
	if opts.format != "" {
		return writeFormat(s.Out, "", opts.format, all)
	}
	if _, err = fmt.Fprint(s.Out, all.text()); err == nil {
		err = warnAll(s, info.Warnings)
	}
	return err
}

func warnAll(s *session, warnings []string) error {
	for _, w := range warnings {
		if _, err := fmt.Fprintln(s.Err, w); err != nil {
			return err
		}
	}
	return nil
}

// text is what people read, in docker's order. A line without a value is left out.
func (i *installation) text() string {
	var b strings.Builder
	line := func(indent int, name string, value any) {
		if text := fmt.Sprint(value); text != "" {
			fmt.Fprintf(&b, "%*s%s: %s\n", indent, "", name, text)
		}
	}
	list := func(name string, values []string) {
		if len(values) > 0 {
			fmt.Fprintf(&b, " %s:\n  %s\n", name, strings.Join(values, "\n  "))
		}
	}
	fmt.Fprintf(&b, "Client:\n Version:    %s\n Context:    %s\n Debug Mode: %t\n Plugins:\n", i.ClientInfo.Version, i.ClientInfo.Context, i.ClientInfo.Debug)
	for _, p := range i.ClientInfo.Plugins {
		fmt.Fprintf(&b, "  %s: %s (%s)\n    Version:  %s\n", p.Name, p.ShortDescription, p.Vendor, p.Version)
	}
	b.WriteString("\nServer:\n")
	line(1, "Containers", i.Containers)
	line(2, "Running", i.ContainersRunning)
	line(2, "Paused", i.ContainersPaused)
	line(2, "Stopped", i.ContainersStopped)
	line(1, "Images", i.Images)
	line(1, "Server Version", i.ServerVersion)
	line(1, "Storage Driver", i.Driver)
	for _, status := range i.DriverStatus {
		line(2, status[0], status[1])
	}
	line(1, "Logging Driver", i.LoggingDriver)
	line(1, "Cgroup Driver", i.CgroupDriver)
	line(1, "Cgroup Version", i.CgroupVersion)
	list("Plugins", []string{
		"Volume: " + strings.Join(i.Plugins.Volume, " "), "Network: " + strings.Join(i.Plugins.Network, " "), "Log: " + strings.Join(i.Plugins.Log, " "),
	})
	list("CDI spec directories", i.CDISpecDirs)
	var devices []string
	for _, d := range i.DiscoveredDevices {
		devices = append(devices, d.Source+": "+d.ID)
	}
	list("Discovered Devices", devices)
	line(1, "Swarm", i.Swarm.LocalNodeState)
	line(1, "Runtimes", strings.Join(slices.Sorted(maps.Keys(i.Runtimes)), " "))
	line(1, "Default Runtime", i.DefaultRuntime)
	line(1, "Runtime Version", i.RuntimeVersion)
	line(1, "Init Binary", i.InitBinary)
	list("Security Options", i.security())
	line(1, "Kernel Version", i.KernelVersion)
	line(1, "Operating System", i.OperatingSystem)
	line(1, "OSType", i.OSType)
	line(1, "Architecture", i.Architecture)
	line(1, "CPUs", i.NCPU)
	line(1, "Total Memory", units.BytesSize(float64(i.MemTotal)))
	line(1, "Name", i.Name)
	line(1, "Docker Root Dir", i.DockerRootDir)
	line(1, "Debug Mode", i.Debug)
	line(1, "HTTP Proxy", i.HTTPProxy)
	line(1, "HTTPS Proxy", i.HTTPSProxy)
	line(1, "No Proxy", i.NoProxy)
	line(1, "Experimental", i.ExperimentalBuild)
	var insecure []string
	for _, network := range i.RegistryConfig.InsecureRegistryCIDRs {
		insecure = append(insecure, network.String())
	}
	list("Insecure Registries", insecure)
	line(1, "Live Restore Enabled", i.LiveRestoreEnabled)
	b.WriteString("\n")
	return b.String()
}

// security are the options, each with its profile in a line below.
func (i *installation) security() (lines []string) {
	for _, option := range i.SecurityOptions {
		for field := range strings.SplitSeq(option, ",") {
			key, value, _ := strings.Cut(field, "=")
			if key == "profile" {
				value = " Profile: " + value
			}
			lines = append(lines, value)
		}
	}
	return lines
}
