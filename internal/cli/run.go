package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/containerd/errdefs"
	"github.com/spf13/cobra"

	"strake/internal/engine"
)

type runOptions struct {
	image       string
	args        []string
	interactive bool
	tty         bool
	env         []string
	envFiles    []string
	volumes     []string
	workdir     string
	user        string
	entrypoint  string
	setEntry    bool // entrypoint was given, perhaps empty
	network     string
	name        string
	hostname    string
	readOnly    bool
	pull        string
	quiet       bool
	platform    string
	sigProxy    bool
}

func newRunCommand(s *session) *cobra.Command {
	var opts runOptions
	cmd := &cobra.Command{
		Use:   "run [OPTIONS] IMAGE [COMMAND] [ARG...]",
		Short: "Create and run a new container from an image",
		Args:  argsBetween(1, -1),
		RunE: func(cmd *cobra.Command, args []string) error {
			opts.image, opts.args = args[0], args[1:]
			opts.setEntry = cmd.Flags().Changed("entrypoint")
			code, err := runRun(cmd.Context(), s, opts)
			if err != nil {
				return runError(cmd, err)
			}
			if code != 0 {
				return statusError{code: code}
			}
			return nil
		},
		Annotations:           map[string]string{topKey: "1", aliasesKey: "strake container run, strake run"},
		DisableFlagsInUseLine: true,
	}
	flags := cmd.Flags()
	flags.SetInterspersed(false)
	flags.BoolVarP(&opts.interactive, "interactive", "i", false, "Keep STDIN open even if not attached")
	flags.BoolVarP(&opts.tty, "tty", "t", false, "Allocate a pseudo-TTY")
	flags.Bool("rm", false, "Automatically remove the container and its associated anonymous volumes when it exits")
	list(flags, &opts.env, "env", "e", "Set environment variables")
	list(flags, &opts.envFiles, "env-file", "", "Read in a file of environment variables")
	list(flags, &opts.volumes, "volume", "v", "Bind mount a volume")
	flags.StringVarP(&opts.workdir, "workdir", "w", "", "Working directory inside the container")
	flags.StringVarP(&opts.user, "user", "u", "", "Username or UID (format: <name|uid>[:<group|gid>])")
	flags.StringVar(&opts.entrypoint, "entrypoint", "", "Overwrite the default ENTRYPOINT of the image")
	flags.StringVar(&opts.network, "network", "default", "Connect a container to a network: \"host\" or \"none\" (\"default\" is \"host\")")
	flags.StringVar(&opts.network, "net", "default", "")
	flags.Lookup("net").Hidden = true
	flags.StringVar(&opts.name, "name", "", "Assign a name to the container")
	flags.StringVarP(&opts.hostname, "hostname", "h", "", "Container host name")
	flags.BoolVar(&opts.readOnly, "read-only", false, "Mount the container's root filesystem as read only")
	flags.StringVar(&opts.pull, "pull", "missing", `Pull image before running ("always", "missing", "never")`)
	flags.BoolVarP(&opts.quiet, "quiet", "q", false, "Suppress the pull output")
	flags.BoolVar(&opts.sigProxy, "sig-proxy", true, "Proxy received signals to the process")
	flags.Bool("help", false, "Print usage") // without -h, which is the host name
	platformFlag(flags, &opts.platform)
	obsolete(flags, "disable-content-trust")
	return cmd
}

// runRun runs the container and returns the exit code of its process.
func runRun(ctx context.Context, s *session, opts runOptions) (int, error) {
	switch opts.pull {
	case "always", "missing", "never", "":
	default:
		return 0, fmt.Errorf("invalid pull option: '%s': must be one of %q, %q or %q", opts.pull, "always", "missing", "never")
	}
	if opts.platform != "" {
		if err := checkPlatforms([]string{opts.platform}); err != nil {
			return 0, fmt.Errorf("error parsing specified platform: %w", err)
		}
	}
	if opts.interactive && opts.tty && !isTerminal(s.In) {
		return 0, errors.New("the input device is not a TTY")
	}
	variables, err := environment(opts)
	if err != nil {
		return 0, err
	}
	env, err := s.contained(ctx)
	if err != nil {
		return 0, err
	}
	if opts.pull == "always" {
		if err := pullForRun(ctx, s, env, opts); err != nil {
			return 0, err
		}
	}
	run := engine.RunOptions{
		Ref: opts.image, Platform: opts.platform, Args: opts.args, Env: variables, Workdir: opts.workdir, User: opts.user,
		Hostname: opts.hostname, Network: opts.network, Name: opts.name, ReadOnly: opts.readOnly, Volumes: absolute(opts.volumes),
		Terminal: opts.tty, Stdout: s.Out, Stderr: s.Err,
		Warn: func(text string) { fmt.Fprintln(s.Err, "WARNING:", text) },
	}
	if opts.setEntry {
		run.Entrypoint = &opts.entrypoint
	}
	if opts.interactive {
		run.Stdin = s.In
	}
	runCtx := ctx
	if opts.sigProxy {
		signals := make(chan os.Signal, 16)
		run.Signals = signals
		defer proxySignals(signals)()
		runCtx = context.WithoutCancel(ctx) // the process decides what a signal does
	}
	result, err := engine.Run(runCtx, env, run)
	if errdefs.IsNotFound(err) && isMissingImage(err) && opts.pull != "never" && opts.pull != "always" {
		if named, parseErr := engine.ParseName(opts.image); parseErr == nil && !opts.quiet {
			fmt.Fprintf(s.Err, "Unable to find image '%s' locally\n", named.Familiar().String())
		}
		if err := pullForRun(ctx, s, env, opts); err != nil {
			return 0, err
		}
		result, err = engine.Run(runCtx, env, run)
	}
	return result.ExitCode, fromEngine(err)
}

// isMissingImage reports whether the image is not here, or not for the platform.
func isMissingImage(err error) bool {
	return strings.HasPrefix(err.Error(), "No such image: ") || strings.HasPrefix(err.Error(), "image with reference ")
}

// pullForRun pulls and tells of it on stderr: stdout is the container's.
func pullForRun(ctx context.Context, s *session, env *engine.Env, opts runOptions) error {
	out := s.Err
	if opts.quiet {
		out = io.Discard
	}
	named, err := engine.ParseName(opts.image)
	if err != nil {
		return err
	}
	pull := engine.PullOptions{}
	if opts.platform != "" {
		pull.Platforms = []string{opts.platform}
	}
	updated, err := pullOne(ctx, env, out, named, pull)
	if err != nil {
		return err
	}
	printStatus(out, updated, named.Familiar().String())
	return nil
}

// proxySignals passes the signals that a user or a supervisor sends on to the
// container, until the returned function is called.
func proxySignals(signals chan os.Signal) func() {
	signal.Notify(signals, syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP, syscall.SIGQUIT, syscall.SIGUSR1, syscall.SIGUSR2)
	return func() { signal.Stop(signals) }
}

// absolute makes the relative sources ./x and ../x of volumes absolute.
func absolute(volumes []string) []string {
	out := make([]string, len(volumes))
	for i, v := range volumes {
		out[i] = v
		source, rest, ok := strings.Cut(v, ":")
		if !ok || !strings.HasPrefix(source, ".") {
			continue
		}
		if path, err := filepath.Abs(source); err == nil {
			out[i] = path + ":" + rest
		}
	}
	return out
}

// environment is what --env-file and --env set, in docker's order.
func environment(opts runOptions) ([]string, error) {
	vars, err := readPairFiles(opts.envFiles, os.LookupEnv)
	if err != nil {
		return nil, fmt.Errorf("--env-file: %w", err)
	}
	for _, e := range opts.env {
		e, err := variable(e)
		if err != nil {
			return nil, err
		}
		vars = append(vars, e)
	}
	return vars, nil
}
