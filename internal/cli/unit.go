package cli

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"strake/internal/engine"
	"strake/internal/userns"
)

func newSystemStartCommand(s *session) *cobra.Command {
	return &cobra.Command{
		Use:   "start-containers",
		Short: "Start the containers that run by their restart policies, as after a boot",
		Args:  argsBetween(0, 0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			return runSystemStart(cmd.Context(), s)
		},
		DisableFlagsInUseLine: true,
	}
}

func runSystemStart(ctx context.Context, s *session) error {
	env, err := s.contained(ctx)
	if err != nil {
		return err
	}
	started, err := engine.ResumeContainers(ctx, env)
	for _, name := range started {
		fmt.Fprintln(s.Out, name)
	}
	return fromEngine(err)
}

func newInstallUnitCommand(s *session) *cobra.Command {
	var output string
	cmd := &cobra.Command{
		Use:   "install-unit [OPTIONS]",
		Short: "Write a systemd unit that starts containers after a boot by their restart policies",
		Long: `Write a systemd unit that starts containers after a boot by their restart policies:
for root a unit of the system, for others one of the user.`,
		Args: argsBetween(0, 0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			return runInstallUnit(cmd.Context(), s, output)
		},
		DisableFlagsInUseLine: true,
	}
	cmd.Flags().StringVarP(&output, "output", "o", "", "Write the unit to this file, or with - to standard output")
	return cmd
}

// unitName is the name of the unit.
const unitName = "strake-containers.service"

// unit is the unit; its verbs are the program, the store's root and the target that wants it.
const unit = `[Unit]
Description=Containers of Strake that restart
Wants=network-online.target
After=network-online.target local-fs.target

[Service]
Type=oneshot
RemainAfterExit=yes
Delegate=yes
ExecStart=%s --root %s system start-containers
TimeoutStopSec=90

[Install]
WantedBy=%s
`

func runInstallUnit(ctx context.Context, s *session, output string) error {
	env, err := s.engine(ctx)
	if err != nil {
		return err
	}
	program, err := os.Executable()
	if err != nil {
		return err
	}
	dir, scope, target := "/etc/systemd/system", "", "multi-user.target"
	if !userns.IsRoot() {
		config, err := os.UserConfigDir()
		if err != nil {
			return err
		}
		dir, scope, target = filepath.Join(config, "systemd", "user"), "--user ", "default.target"
	}
	text := fmt.Sprintf(unit, unitWord(program), unitWord(env.Store.Root()), target)
	if output == "-" {
		_, err := fmt.Fprint(s.Out, text)
		return err
	}
	if output == "" {
		output = filepath.Join(dir, unitName)
	}
	//nolint:gosec // units are for all to read
	if err := errors.Join(os.MkdirAll(filepath.Dir(output), 0o755), os.WriteFile(output, []byte(text), 0o644)); err != nil {
		return fmt.Errorf("cannot write the unit: %w", err)
	}
	fmt.Fprintf(s.Out, "%s\nTo use it: systemctl %senable --now %s\n", output, scope, filepath.Base(output))
	return nil
}

// unitWord quotes a word of a command in a unit, as systemd.syntax(7) and systemd.service(5) have it.
func unitWord(word string) string {
	return `"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`, `%`, `%%`, `$`, `$$`, "\n", `\n`).Replace(word) + `"`
}
