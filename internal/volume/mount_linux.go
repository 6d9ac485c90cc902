package volume

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/url"
	"strings"

	"golang.org/x/sys/unix"

	"strake/internal/mount"
)

// Device says what is mounted on a volume with options; the address of a server in it is an IP then, as the kernel wants it.
func (v *Volume) Device(ctx context.Context) (Device, error) {
	d := Device{Type: v.Options["type"], Source: v.Options["device"], Options: v.Options["o"]}
	if d.Type != "nfs" && d.Type != "cifs" {
		return d, nil
	}
	for o := range strings.SplitSeq(d.Options, ",") {
		host, ok := strings.CutPrefix(o, "addr=")
		if !ok || host == "" {
			continue
		}
		ip, err := resolve(ctx, host)
		d.Options = strings.Replace(d.Options, o, "addr="+ip, 1)
		return d, err
	}
	if d.Type == "nfs" {
		return d, nil
	}
	server, err := url.Parse(d.Source)
	if err != nil || server.Host == "" {
		return d, err
	}
	if server.Host, err = resolve(ctx, server.Host); err != nil {
		return d, err
	}
	d.Source, err = url.QueryUnescape(server.String())
	return d, err
}

func resolve(ctx context.Context, host string) (string, error) {
	if net.ParseIP(host) != nil {
		return host, nil
	}
	ips, err := net.DefaultResolver.LookupIP(ctx, "ip", host)
	if err != nil {
		return "", fmt.Errorf("error resolving passed in network volume address: %w", err)
	}
	return ips[0].String(), nil
}

// Device is a file system for a volume.
type Device struct{ Type, Source, Options string }

// IsNone reports whether there is none: the volume is its directory.
func (d Device) IsNone() bool { return d.Type == "" }

// Mount mounts a volume's file system on its directory, in the mount namespace of the calling thread.
func (t *Table) Mount(name string, d Device) error {
	if d.IsNone() {
		return nil
	}
	err := mount.Device(d.Source, t.Path(name), d.Type, d.Options)
	if err == nil {
		return nil
	}
	for o := range strings.SplitSeq(d.Options, ",") {
		if password, ok := strings.CutPrefix(o, "password="); ok && password != "" {
			err = errors.New(strings.ReplaceAll(err.Error(), password, "********"))
		}
	}
	return fmt.Errorf("failed to mount local volume: %w", err)
}

// BindSubpath shows the directory or file that subpath leads to in a volume at target, which does not exist. A link in it that leads out of
// the volume is refused, as is a missing one, with docker's words.
func (t *Table) BindSubpath(name, subpath, target string) error {
	err := mount.BindIn(t.Path(name), subpath, target, false)
	if errors.Is(err, unix.ENOENT) {
		return errorText{fmt.Sprintf("cannot access path %s: no such file or directory", subpath), err}
	}
	return err
}
