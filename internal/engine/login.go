package engine

import (
	"context"

	"github.com/containerd/errdefs"

	"strake/internal/remote"
)

// LoginOptions say who logs in where.
type LoginOptions struct {
	Server   string // a registry's host; "" is Docker Hub
	Username string // "": use what is stored
	Password string
}

// LoginResult says where the credential is.
type LoginResult struct {
	Username string
	Helper   string // the credential helper that keeps it; "" is File, unencrypted
	File     string
}

// Login checks a credential at the registry and keeps it, as docker does, for
// docker and for Strake. Without a username it checks the one that is kept, and
// fails with errdefs.ErrNotFound where there is none.
func Login(ctx context.Context, env *Env, opts LoginOptions) (LoginResult, error) {
	host := remote.CanonicalHost(opts.Server)
	if opts.Username == "" {
		return loginAgain(ctx, env, host)
	}
	if err := env.Remote.Login(ctx, host, opts.Username, opts.Password); err != nil {
		return LoginResult{}, loginError(err)
	}
	result := LoginResult{Username: opts.Username}
	var err error
	if result.Helper, err = env.Credentials.Helper(host); err != nil {
		return LoginResult{}, err
	}
	if result.File, err = env.Credentials.File(); err != nil {
		return LoginResult{}, err
	}
	return result, env.Credentials.Set(ctx, host, remote.Credential{Username: opts.Username, Password: opts.Password})
}

func loginAgain(ctx context.Context, env *Env, host string) (LoginResult, error) {
	cred, err := env.Credentials.Get(ctx, host)
	if err != nil {
		return LoginResult{}, err
	}
	if cred.Username == "" || cred.Password == "" {
		return LoginResult{}, messageError{"not logged in to " + host, errdefs.ErrNotFound}
	}
	if err := env.Remote.Login(ctx, host, cred.Username, cred.Password); err != nil {
		return LoginResult{}, loginError(err)
	}
	return LoginResult{Username: cred.Username}, nil
}

func loginError(err error) error {
	if errdefs.IsUnauthorized(err) {
		return messageError{"unauthorized: " + answer(err, "incorrect username or password"), errdefs.ErrUnauthenticated}
	}
	return err
}

// LogoutOptions say where to log out.
type LogoutOptions struct {
	Server string // a registry's host; "" is Docker Hub
}

// Logout forgets the credential of a registry. Having none is no error.
func Logout(ctx context.Context, env *Env, opts LogoutOptions) error {
	return env.Credentials.Erase(ctx, remote.CanonicalHost(opts.Server))
}
