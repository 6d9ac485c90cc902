package cli

import (
	"context"
	"fmt"
	"runtime"
	"runtime/debug"

	"github.com/spf13/cobra"
)

// release is Strake's version.
const release = "0.1.0"

// version is the release and the commit that it was built from.
func version() string {
	if commit, _ := built(); commit != "" {
		return release + ", build " + commit[:min(7, len(commit))]
	}
	return release
}

// built tells the commit and its time, where the build recorded them.
func built() (commit, at string) {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return "", ""
	}
	for _, s := range info.Settings {
		switch s.Key {
		case "vcs.revision":
			commit = s.Value
		case "vcs.time":
			at = s.Value
		}
	}
	return commit, at
}

// versionInfo is what version shows, under docker's names. There is no server:
// Server says what it would for scripts that ask for it.
type versionInfo struct {
	Client versionPart
	Server versionPart
}

type versionPart struct {
	Version   string
	GitCommit string
	GoVersion string
	Os        string
	Arch      string
	BuildTime string
}

type versionOptions struct{ format string }

func newVersionCommand(s *session) *cobra.Command {
	var opts versionOptions
	cmd := &cobra.Command{
		Use:   "version [OPTIONS]",
		Short: "Show the Strake version information",
		Args:  argsBetween(0, 0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			return runVersion(cmd.Context(), s, opts)
		},
		Annotations:           map[string]string{topKey: "11"},
		DisableFlagsInUseLine: true,
	}
	cmd.Flags().StringVarP(&opts.format, "format", "f", "", inspectFormatHelp)
	return cmd
}

func runVersion(_ context.Context, s *session, opts versionOptions) error {
	commit, at := built()
	part := versionPart{
		Version: release, GitCommit: commit, BuildTime: at,
		GoVersion: runtime.Version(), Os: runtime.GOOS, Arch: runtime.GOARCH,
	}
	if opts.format != "" {
		return writeFormat(s.Out, "version", opts.format, versionInfo{part, part})
	}
	_, err := fmt.Fprintf(s.Out, "Client:\n Version:           %s\n Go version:        %s\n Git commit:        %s\n"+
		" Built:             %s\n OS/Arch:           %s/%s\n",
		part.Version, part.GoVersion, part.GitCommit, part.BuildTime, part.Os, part.Arch)
	return err
}
