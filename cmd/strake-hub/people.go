package main

import (
	"bufio"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"time"

	"strake/internal/auth"
	"strake/internal/sqldb"
)

func userCommands() []command {
	return []command{
		{name: "add", args: "NAME", summary: "Make a user and show their password, once", prepare: prepareUserAdd},
		{name: "disable", args: "NAME", summary: "End all that was given out to a user, at once", prepare: prepareUserFlag(true)},
		{name: "enable", args: "NAME", summary: "Let a disabled user log in again", prepare: prepareUserFlag(false)},
		{name: "list", summary: "List users and organizations", prepare: prepareUserList},
		{name: "passwd", args: "NAME", summary: "Give a user a new password and show it, once", prepare: prepareUserPasswd},
	}
}

func tokenCommands() []command {
	return []command{
		{name: "create", args: "ACCOUNT NAME", summary: "Make a token and show it, once", prepare: prepareTokenCreate},
		{name: "list", args: "ACCOUNT", summary: "List the tokens of an account", prepare: prepareTokenList},
		{name: "remove", args: "ACCOUNT ID", summary: "End a token and what was given out for it", prepare: prepareTokenRemove},
	}
}

// passwordFrom reads a password from standard input, or makes one and says so.
func passwordFrom(s streams, stdin bool) (password string, made bool, err error) {
	if !stdin {
		return auth.NewPassword(), true, nil
	}
	line, err := bufio.NewReader(io.LimitReader(s.in, 4096)).ReadString('\n')
	if err != nil && !errors.Is(err, io.EOF) {
		return "", false, fmt.Errorf("read password: %w", err)
	}
	return strings.TrimRight(line, "\r\n"), false, nil
}

func prepareUserAdd(f *flag.FlagSet) action {
	var p place
	var u auth.NewUser
	var stdin, none bool
	p.define(f)
	f.StringVar(&u.Email, "email", "", "E-mail `address`")
	f.StringVar(&u.FullName, "full-name", "", "Full `name`")
	f.BoolVar(&u.Admin, "admin", false, "Administers the Hub")
	f.BoolVar(&u.Reviewer, "reviewer", false, "Decides what is published")
	f.BoolVar(&u.Verified, "verified", false, "Publishes without review")
	f.BoolVar(&stdin, "password-stdin", false, "Read the password from standard input")
	f.BoolVar(&none, "no-password", false, "No password: logs in by OIDC alone")
	return func(ctx context.Context, s streams, args []string) error {
		password, made, err := passwordFrom(s, stdin)
		if err != nil {
			return err
		}
		if u.Name, u.Password = args[0], password; none {
			u.Password, made = "", false
		}
		if err := p.with(ctx, func(ctx context.Context, db *sqldb.DB) error { return auth.AddUser(ctx, db, u) }); err != nil {
			return err
		}
		if made {
			fmt.Fprintf(s.out, "Password of %s: %s\n", u.Name, password)
		}
		return nil
	}
}

func prepareUserFlag(disabled bool) func(f *flag.FlagSet) action {
	return func(f *flag.FlagSet) action {
		var p place
		p.define(f)
		return func(ctx context.Context, _ streams, args []string) error {
			return p.with(ctx, func(ctx context.Context, db *sqldb.DB) error {
				return auth.ChangeAccount(ctx, db, args[0], auth.AccountChange{Disabled: &disabled})
			})
		}
	}
}

func prepareUserPasswd(f *flag.FlagSet) action {
	var p place
	var stdin, reset bool
	p.define(f)
	f.BoolVar(&stdin, "password-stdin", false, "Read the password from standard input")
	f.BoolVar(&reset, "reset", false, "Also make them an enabled administrator and forget failed logins: for who is locked out")
	return func(ctx context.Context, s streams, args []string) error {
		password, made, err := passwordFrom(s, stdin)
		if err != nil {
			return err
		}
		err = p.with(ctx, func(ctx context.Context, db *sqldb.DB) error {
			if err := auth.SetPassword(ctx, db, args[0], "", password); err != nil || !reset {
				return err
			}
			yes, no := true, false
			return errors.Join(auth.ChangeAccount(ctx, db, args[0], auth.AccountChange{Admin: &yes, Disabled: &no}), auth.ForgetFailures(ctx, db))
		})
		if err == nil && made {
			fmt.Fprintf(s.out, "Password of %s: %s\n", args[0], password)
		}
		return err
	}
}

func prepareUserList(f *flag.FlagSet) action {
	var p place
	p.define(f)
	return func(ctx context.Context, s streams, _ []string) error {
		w := tabwriter.NewWriter(s.out, 20, 1, 3, ' ', 0)
		fmt.Fprintln(w, "NAME\tKIND\tFULL NAME\tE-MAIL\tCREATED\tFLAGS")
		err := p.with(ctx, func(ctx context.Context, db *sqldb.DB) error {
			for after := ""; ; {
				page, err := auth.Accounts(ctx, db, after, 1000)
				if err != nil || len(page) == 0 {
					return err
				}
				for _, a := range page {
					fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\n", a.Name, kind(a), a.FullName, a.Email, a.Created.Format(time.DateOnly), flagsOf(a))
				}
				after = page[len(page)-1].Name
			}
		})
		return errors.Join(err, w.Flush())
	}
}

func kind(a auth.Account) string {
	if a.Organization {
		return "organization"
	}
	return "user"
}

// flagsOf are an account's flags in words.
func flagsOf(a auth.Account) string {
	var words []string
	for _, f := range []struct {
		on   bool
		word string
	}{{a.Admin, "admin"}, {a.Reviewer, "reviewer"}, {a.Verified, "verified"}, {a.SSO, "sso"}, {a.Disabled, "disabled"}} {
		if f.on {
			words = append(words, f.word)
		}
	}
	return strings.Join(words, ",")
}

func prepareTokenCreate(f *flag.FlagSet) action {
	var p place
	var t auth.NewToken
	var scopes list
	var life time.Duration
	p.define(f)
	f.BoolVar(&t.Robot, "robot", false, "A robot, which logs in as ACCOUNT+NAME")
	f.Var(&scopes, "scope", "`REPOSITORY:ROLE` that it allows: read, write or admin, of one name or of team/*; may be repeated")
	f.DurationVar(&life, "expires", 0, "`duration` until it ends, such as 2160h; 0 is never")
	return func(ctx context.Context, s streams, args []string) error {
		t.Name = args[1]
		for _, text := range scopes {
			i := strings.LastIndexByte(text, ':')
			if i < 0 {
				return usageError{fmt.Errorf("--scope %q: not REPOSITORY:ROLE", text)}
			}
			role, err := auth.ParseRole(text[i+1:])
			if err != nil {
				return usageError{err}
			}
			t.Scopes = append(t.Scopes, auth.Scope{Repository: text[:i], Role: role})
		}
		if life != 0 {
			t.Expires = time.Now().Add(life)
		}
		return p.with(ctx, func(ctx context.Context, db *sqldb.DB) error {
			secret, made, err := auth.AddToken(ctx, db, args[0], t)
			if err == nil {
				fmt.Fprintf(s.out, "User name: %s\nToken:     %s\n", made.Login, secret)
			}
			return err
		})
	}
}

func prepareTokenList(f *flag.FlagSet) action {
	var p place
	p.define(f)
	return func(ctx context.Context, s streams, args []string) error {
		w := tabwriter.NewWriter(s.out, 16, 1, 3, ' ', 0)
		fmt.Fprintln(w, "ID\tKIND\tNAME\tCREATED\tUSED\tEXPIRES\tSCOPES")
		err := p.with(ctx, func(ctx context.Context, db *sqldb.DB) error {
			tokens, err := auth.Tokens(ctx, db, args[0])
			for _, t := range tokens {
				allows := make([]string, 0, len(t.Scopes))
				for _, scope := range t.Scopes {
					allows = append(allows, scope.Repository+":"+scope.Role.String())
				}
				fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\t%s\n", t.ID, t.Kind, t.Name, day(&t.Created), day(t.Used), day(t.Expires), strings.Join(allows, " "))
			}
			return err
		})
		return errors.Join(err, w.Flush())
	}
}

func day(t *time.Time) string {
	if t == nil {
		return "never"
	}
	return t.Format(time.DateOnly)
}

func prepareTokenRemove(f *flag.FlagSet) action {
	var p place
	p.define(f)
	return func(ctx context.Context, _ streams, args []string) error {
		return p.with(ctx, func(ctx context.Context, db *sqldb.DB) error { return auth.RemoveToken(ctx, db, args[0], args[1]) })
	}
}
