package cli

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/spf13/cobra"
	"golang.org/x/term"

	"strake/internal/engine"
)

type loginOptions struct {
	server        string
	username      string
	password      string
	passwordStdin bool
	usernameSet   bool
	passwordSet   bool
	plain         bool
}

func newLoginCommand(s *session) *cobra.Command {
	var opts loginOptions
	cmd := &cobra.Command{
		Use:   "login [OPTIONS] [SERVER]",
		Short: "Authenticate to a registry",
		Long: `Authenticate to a registry.
Defaults to Docker Hub if no server is specified.

The credential is kept by the credential helper that docker's config.json names, or else encrypted.
The username "<token>" says that the password is an identity token.`,
		Args: argsBetween(0, 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) > 0 {
				opts.server = args[0]
			}
			opts.usernameSet = cmd.Flags().Changed("username")
			opts.passwordSet = cmd.Flags().Changed("password")
			return runLogin(cmd.Context(), s, opts)
		},
		Annotations:           map[string]string{topKey: "8"},
		DisableFlagsInUseLine: true,
	}
	flags := cmd.Flags()
	flags.StringVarP(&opts.username, "username", "u", "", "Username")
	flags.StringVarP(&opts.password, "password", "p", "", `Password or Personal Access Token (PAT), or "-" to read from stdin`)
	flags.BoolVar(&opts.passwordStdin, "password-stdin", false, "Take the Password or Personal Access Token (PAT) from stdin")
	flags.BoolVar(&opts.plain, "plain", false, "Without a credential helper, store the credential unencrypted in docker's config.json, where docker finds it")
	return cmd
}

// check fails where the flags contradict each other.
func (o *loginOptions) check() error {
	fromStdin := o.passwordStdin || o.password == "-"
	switch {
	case fromStdin && o.passwordSet && o.password != "-":
		return errors.New("conflicting options: cannot specify both --password and --password-stdin")
	case fromStdin && !o.usernameSet:
		return errors.New("the --password-stdin option requires --username to be set")
	case o.usernameSet && o.username == "":
		return errors.New("username is empty")
	case o.passwordSet && o.password == "":
		return errors.New("password is empty")
	}
	if fromStdin {
		o.password, o.passwordStdin = "", true
	}
	return nil
}

func runLogin(ctx context.Context, s *session, opts loginOptions) error {
	if err := opts.check(); err != nil {
		return err
	}
	if opts.password != "" {
		fmt.Fprintln(s.Err, "WARNING! Using --password via the CLI is insecure. Use --password-stdin.")
	}
	if opts.passwordStdin {
		b, err := io.ReadAll(io.LimitReader(s.In, maxSecret))
		if err != nil {
			return err
		}
		opts.password = strings.TrimSuffix(strings.TrimSuffix(string(b), "\n"), "\r")
		if strings.TrimSpace(opts.password) == "" {
			return errors.New("password is empty")
		}
	}
	env, err := s.registries(ctx)
	if err != nil {
		return err
	}
	if opts.username == "" && opts.password == "" {
		result, err := engine.Login(ctx, env, engine.LoginOptions{Server: opts.server})
		if err == nil {
			fmt.Fprintf(s.Err, "Authenticating with existing credentials... [Username: %s]\n", result.Username)
			fmt.Fprintln(s.Out, "Login Succeeded")
			return nil
		}
		if errdefs.IsUnauthorized(err) {
			fmt.Fprintln(s.Err, "Stored credentials invalid or expired")
		} else if !errdefs.IsNotFound(err) {
			return fromEngine(err)
		}
	}
	if err := prompt(s, &opts); err != nil {
		return err
	}
	if _, err := engine.Login(ctx, env, engine.LoginOptions{Server: opts.server, Username: opts.username, Password: opts.password, Plain: opts.plain}); err != nil {
		return fromEngine(err)
	}
	_, err = fmt.Fprintln(s.Out, "Login Succeeded")
	return err
}

// maxSecret bounds what is read as a password.
const maxSecret = 1 << 20

// prompt asks for what is missing.
func prompt(s *session, opts *loginOptions) error {
	if opts.username != "" && opts.password != "" {
		return nil
	}
	fd, ok := terminalFD(s.In)
	if !ok {
		return errors.New("error: cannot perform an interactive login from a non-TTY device")
	}
	if opts.username == "" {
		fmt.Fprint(s.Out, "Username: ")
		line, err := bufio.NewReader(s.In).ReadString('\n')
		if err != nil {
			return err
		}
		if opts.username = strings.TrimSpace(line); opts.username == "" {
			return errors.New("error: username is required")
		}
	}
	if opts.password == "" {
		fmt.Fprint(s.Out, "Password: ")
		secret, err := term.ReadPassword(fd)
		fmt.Fprintln(s.Out)
		if err != nil {
			return err
		}
		if opts.password = string(secret); opts.password == "" {
			return errors.New("error: password is required")
		}
	}
	return nil
}

func newLogoutCommand(s *session) *cobra.Command {
	return &cobra.Command{
		Use:   "logout [SERVER]",
		Short: "Log out from a registry",
		Long:  "Log out from a registry.\nIf no server is specified, the default is Docker Hub.",
		Args:  argsBetween(0, 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			server := ""
			if len(args) > 0 {
				server = args[0]
			}
			return runLogout(cmd.Context(), s, server)
		},
		Annotations:           map[string]string{topKey: "9"},
		DisableFlagsInUseLine: true,
	}
}

func runLogout(ctx context.Context, s *session, server string) error {
	env, err := s.registries(ctx)
	if err != nil {
		return err
	}
	shown := strings.TrimPrefix(strings.TrimPrefix(server, "https://"), "http://")
	if server == "" {
		shown = "https://index.docker.io/v1/"
	}
	fmt.Fprintln(s.Out, "Removing login credentials for", shown)
	if err := engine.Logout(ctx, env, engine.LogoutOptions{Server: server}); err != nil {
		fmt.Fprintf(s.Err, "WARNING: could not erase credentials:\n%s: %s\n", shown, err)
	}
	return nil
}
