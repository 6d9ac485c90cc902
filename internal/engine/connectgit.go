package engine

import (
	"context"
	"fmt"
	"io"
	"os"

	"strake/internal/build"
)

// ConnectGitCommand is the command of the command line that is ConnectGit: ConnectGitCommand HOST PORT.
const ConnectGitCommand = "git-connect"

// ConnectGitOptions say what to connect.
type ConnectGitOptions struct {
	Host, Port string
	In         io.Reader
	Out        io.Writer
}

// ConnectGit connects In and Out to a server, for git and ssh that a build runs: by way of that build, which refuses addresses
// that nothing is fetched from.
func ConnectGit(ctx context.Context, opts ConnectGitOptions) error {
	return build.Connect(ctx, opts.Host, opts.Port, opts.In, opts.Out)
}

// connectGit is the command line of ConnectGit.
func connectGit() ([]string, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, fmt.Errorf("find this program: %w", err)
	}
	return []string{self, ConnectGitCommand}, nil
}
