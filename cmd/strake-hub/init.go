package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"strake/internal/auth"
	"strake/internal/hubdb"
	"strake/internal/sqldb"
)

// initOptions are the flags of init.
type initOptions struct {
	place
	admin     string
	hosts     list
	port      int
	cert, key string
}

func prepareInit(f *flag.FlagSet) action {
	var o initOptions
	o.define(f)
	f.StringVar(&o.admin, "admin", "operator", "`name` of the first administrator")
	f.Var(&o.hosts, "host", "`name` or address by which clients reach the Hub; may be repeated, the first is shown (default this host's name)")
	f.IntVar(&o.port, "port", 5000, "`port` by which clients reach the Hub")
	f.StringVar(&o.cert, "tls-cert", "", "`file` of a certificate to use, in PEM, instead of an authority of the Hub's own")
	f.StringVar(&o.key, "tls-key", "", "`file` of the certificate's key")
	return func(ctx context.Context, s streams, _ []string) error { return initialise(ctx, s, o) }
}

// initialise makes what a Hub needs to ask for logins. It refuses a Hub that has
// accounts already.
func initialise(ctx context.Context, s streams, o initOptions) (err error) {
	if err := o.check(); err != nil {
		return err
	}
	if (o.cert == "") != (o.key == "") {
		return usageError{errors.New("--tls-cert and --tls-key come together")}
	}
	var err1, err2 error
	o.cert, err1 = absolute(o.cert)
	o.key, err2 = absolute(o.key)
	if err := errors.Join(err1, err2); err != nil {
		return err
	}
	if len(o.hosts) == 0 {
		name, err := os.Hostname()
		if err != nil {
			return fmt.Errorf("--host: %w", err)
		}
		o.hosts = list{strings.ToLower(name)}
	}
	for _, h := range o.hosts {
		if strings.Trim(h, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.-") != "" && net.ParseIP(h) == nil {
			return usageError{fmt.Errorf("--host %q: neither a name nor an address", h)}
		}
	}
	_, err = os.Stat(o.databaseAt())
	served := err == nil // maybe
	if err := os.MkdirAll(o.data, 0o700); err != nil {
		return err
	}
	db, err := hubdb.Open(ctx, o.databaseAt())
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	ready, err := initialised(ctx, db)
	if err != nil {
		return err
	}
	if ready {
		return fmt.Errorf("%s has accounts already; 'strake-hub user passwd --reset' is for who is locked out", o.data)
	}
	if err := o.certificate(ctx, db); err != nil {
		return err
	}
	password := auth.NewPassword()
	if err := auth.AddUser(system(ctx), db, auth.NewUser{Name: o.admin, Password: password, Admin: true, Reviewer: true, Verified: true}); err != nil {
		return err
	}
	fmt.Fprintf(s.out, "Administrator: %s\nPassword:      %s\n(it is shown once; 'strake-hub user passwd %s' makes another)\n\n", o.admin, password, o.admin)
	if err := showTrust(ctx, s, &o.place, db); err != nil {
		return err
	}
	if served || o.database != "" {
		fmt.Fprintln(s.out, "\nA strake-hub that served this without logins ends within seconds: start it again, as follows.")
	}
	fmt.Fprintf(s.out, "\nNext:\n  strake-hub serve --data %s --addr :%d\n", o.data, o.port)
	fmt.Fprintf(s.out, "  strake login -u %s %s\n", o.admin, net.JoinHostPort(o.hosts[0], strconv.Itoa(o.port)))
	return nil
}

// certificate takes the certificate that was given, or makes an authority, and
// keeps by which name the Hub is reached.
func (o *initOptions) certificate(ctx context.Context, db *sqldb.DB) error {
	if o.cert != "" {
		c := certificate{cert: o.cert, key: o.key}
		if err := c.load(time.Now()); err != nil {
			return err
		}
	} else if _, err := os.Stat(o.file(caCert)); errors.Is(err, fs.ErrNotExist) {
		hosts := append([]string{}, o.hosts...)
		for _, h := range []string{"localhost", "127.0.0.1", "::1"} {
			if !slices.Contains(hosts, h) {
				hosts = append(hosts, h)
			}
		}
		now := time.Now()
		if err := makeAuthority(&o.place, hosts, now); err != nil {
			return fmt.Errorf("make authority: %w", err)
		}
		if err := makeCertificate(&o.place, now); err != nil {
			return fmt.Errorf("make certificate: %w", err)
		}
	}
	settings := map[string]string{"host": net.JoinHostPort(o.hosts[0], strconv.Itoa(o.port)), "tls-cert": o.cert, "tls-key": o.key}
	for name, value := range settings {
		if err := auth.SetSetting(system(ctx), db, name, value); err != nil {
			return err
		}
	}
	return nil
}

func prepareTrust(f *flag.FlagSet) action {
	var p place
	p.define(f)
	return func(ctx context.Context, s streams, _ []string) error {
		return p.with(ctx, func(ctx context.Context, db *sqldb.DB) error { return showTrust(ctx, s, &p, db) })
	}
}

// comparePort warns where the command of showTrust names another port than the one
// that the Hub listens on.
func comparePort(ctx context.Context, db *sqldb.DB, listens net.Addr, log *slog.Logger) error {
	host, err := auth.Setting(ctx, db, "host")
	if err != nil {
		return err
	}
	_, named, err1 := net.SplitHostPort(host)
	_, port, err2 := net.SplitHostPort(listens.String())
	if err1 == nil && err2 == nil && named != port {
		log.Warn("the command that makes clients trust this Hub names another port than it listens on: put the port of --addr into it twice, "+
			"unless something passes the one on to the other", "named", host, "listens", listens.String())
	}
	return nil
}

// showTrust prints the one command that makes a client trust the Hub's own
// authority: it fetches the certificate, looks whether it is the one whose
// digest stands here, and only then puts it where docker, podman, skopeo and
// strake look.
func showTrust(ctx context.Context, s streams, p *place, db *sqldb.DB) error {
	cert, err := auth.Setting(ctx, db, "tls-cert")
	if err != nil || cert != "" {
		return err
	}
	host, err := auth.Setting(ctx, db, "host")
	if err != nil {
		return err
	}
	sum, err := fingerprint(p.file(caCert))
	if err != nil {
		return fmt.Errorf("authority: %w", err)
	}
	fmt.Fprintf(s.out, "On each client, as root, so that docker, podman, skopeo and strake trust this Hub:\n"+
		"  c=$(mktemp) && curl -fsSk https://%s/ca.crt -o $c && echo \"%s  $c\" | sha256sum -c --quiet && install -D -m 644 $c \"/etc/docker/certs.d/%s/ca.crt\"; rm -f $c\n",
		host, sum, host)
	return nil
}
