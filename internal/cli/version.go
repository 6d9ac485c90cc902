package cli

import (
	"context"
	"fmt"
	"runtime"
	"runtime/debug"

	"github.com/spf13/cobra"

	"strake/internal/engine"
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

// apiVersion is the version of Docker's API whose objects inspect shows.
const apiVersion = "1.56"

// versionInfo is what version shows, under docker's names. There is no server:
// Server says what it would for scripts that ask for it.
type versionInfo struct {
	Client clientVersion
	Server serverVersion
}

type clientVersion struct {
	Platform          platformInfo
	Version           string
	APIVersion        string `json:"ApiVersion"`
	DefaultAPIVersion string
	GitCommit         string
	GoVersion         string
	Os                string
	Arch              string
	BuildTime         string
	Context           string
}

type serverVersion struct {
	Platform      platformInfo
	Version       string
	APIVersion    string `json:"ApiVersion"`
	MinAPIVersion string
	Os            string
	Arch          string
	Components    []component
	GitCommit     string
	GoVersion     string
	KernelVersion string
	Experimental  bool
	BuildTime     string
}

type platformInfo struct{ Name string }

// component is a part of the server: there is one.
type component struct {
	Name    string
	Version string
	Details map[string]string
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
	c := clientVersion{
		Version: release, APIVersion: apiVersion, DefaultAPIVersion: apiVersion, GitCommit: commit, BuildTime: at,
		GoVersion: runtime.Version(), Os: runtime.GOOS, Arch: runtime.GOARCH, Context: theContext,
	}
	if opts.format != "" {
		return writeFormat(s.Out, "version", opts.format, versionInfo{c, c.server()})
	}
	_, err := fmt.Fprintf(s.Out, "Client:\n Version:           %s\n API version:       %s\n Go version:        %s\n Git commit:        %s\n"+
		" Built:             %s\n OS/Arch:           %s/%s\n Context:           %s\n",
		c.Version, c.APIVersion, c.GoVersion, c.GitCommit, c.BuildTime, c.Os, c.Arch, c.Context)
	return err
}

// server is what docker's would say that is this program.
func (c *clientVersion) server() serverVersion {
	v := serverVersion{
		Version: c.Version, APIVersion: c.APIVersion, MinAPIVersion: c.APIVersion, Os: c.Os, Arch: c.Arch,
		GitCommit: c.GitCommit, GoVersion: c.GoVersion, BuildTime: c.BuildTime, KernelVersion: engine.KernelVersion(),
	}
	v.Components = []component{{"Engine", v.Version, map[string]string{
		"ApiVersion": v.APIVersion, "MinAPIVersion": v.MinAPIVersion, "Os": v.Os, "Arch": v.Arch, "GitCommit": v.GitCommit,
		"GoVersion": v.GoVersion, "KernelVersion": v.KernelVersion, "BuildTime": v.BuildTime, "Experimental": "false",
	}}}
	return v
}
