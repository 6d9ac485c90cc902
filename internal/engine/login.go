package engine

import (
	"context"

	"github.com/containerd/errdefs"

	"strake/internal/remote"
)

// LoginOptions say who logs in where.
type LoginOptions struct {
	Server   string // a registry's host; "" is Docker Hub
	Username string // "": use what is stored; "<token>": Password is an identity token
	Password string
	Plain    bool // without a helper, keep it in the clear, where docker finds it
}

// LoginResult says who has logged in.
type LoginResult struct {
	Username string
}

// tokenUser is the name under which docker keeps an identity token.
const tokenUser = "<token>"

// Login checks a credential at the registry and keeps it: with docker's
// credential helper, else encrypted. Without a username it checks the one that
// is kept, and fails with errdefs.ErrNotFound where there is none.
func Login(ctx context.Context, env *Env, opts LoginOptions) (LoginResult, error) {
	host := remote.CanonicalHost(opts.Server)
	if opts.Username == "" {
		return loginAgain(ctx, env, host)
	}
	cred := remote.Credential{Username: opts.Username, Password: opts.Password}
	if opts.Username == tokenUser {
		cred = remote.Credential{IdentityToken: opts.Password}
	}
	if err := env.Remote.Login(ctx, host, cred); err != nil {
		return LoginResult{}, loginError(err)
	}
	return LoginResult{Username: opts.Username}, env.Credentials.Set(ctx, host, cred, opts.Plain)
}

func loginAgain(ctx context.Context, env *Env, host string) (LoginResult, error) {
	cred, err := env.Credentials.Get(ctx, host)
	if err != nil {
		return LoginResult{}, err
	}
	user := cred.Username
	if cred.IdentityToken != "" {
		user = tokenUser
	} else if cred.Username == "" || cred.Password == "" {
		return LoginResult{}, messageError{"not logged in to " + host, errdefs.ErrNotFound}
	}
	if err := env.Remote.Login(ctx, host, cred); err != nil {
		return LoginResult{}, loginError(err)
	}
	return LoginResult{Username: user}, nil
}

// LogoutOptions say where to log out.
type LogoutOptions struct {
	Server string // a registry's host; "" is Docker Hub
}

// Logout forgets the credential of a registry. Having none is no error.
func Logout(ctx context.Context, env *Env, opts LogoutOptions) error {
	return env.Credentials.Erase(ctx, remote.CanonicalHost(opts.Server))
}
