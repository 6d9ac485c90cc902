package cli

import (
	"encoding/csv"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/docker/go-units"
	"github.com/spf13/pflag"

	"strake/internal/engine"
)

// buildRunOptions are the flags of build that are about RUN.
type buildRunOptions struct {
	network      string
	addHosts     []string
	secrets      []string
	ssh          []string
	ulimits      ulimits
	shmSize      bytesFlag
	cgroupParent string
	strict       bool
}

func (o *buildRunOptions) add(flags *pflag.FlagSet) {
	flags.StringVar(&o.network, "network", "default", `Set the networking mode for the "RUN" instructions during build`)
	flags.StringSliceVar(&o.addHosts, "add-host", nil, `Add a custom host-to-IP mapping (format: "host:ip")`)
	flags.StringArrayVar(&o.secrets, "secret", nil, `Secret to expose to the build (format: "id=mysecret[,src=/local/secret]")`)
	flags.StringArrayVar(&o.ssh, "ssh", nil,
		`SSH agent socket or keys to expose to the build (format: "default|<id>[=<socket>|<key>[,<key>]]")`)
	flags.Var(&o.ulimits, "ulimit", "Ulimit options")
	flags.Var(&o.shmSize, "shm-size", "Shared memory size for build containers")
	flags.StringVar(&o.cgroupParent, "cgroup-parent", "", `Set the parent cgroup for the "RUN" instructions during build`)
	flags.BoolVar(&o.strict, "strict", false, "Fail where a secret may be in the image, instead of a warning")
}

// run is what the flags say, with the entitlements that were allowed.
func (o *buildRunOptions) run(allow []string) (engine.BuildRun, error) {
	r := engine.BuildRun{
		Network: o.network, AddHosts: o.addHosts, Limits: o.ulimits, CgroupParent: o.cgroupParent, ShmSize: int64(o.shmSize),
		Strict: o.strict, Allow: allow,
	}
	for _, text := range o.secrets {
		s, err := parseSecret(text)
		if err != nil {
			return r, err
		}
		r.Secrets = append(r.Secrets, s)
	}
	for _, text := range o.ssh {
		id, paths, given := strings.Cut(text, "=")
		source := engine.SSHSource{ID: id}
		if given && paths != "" {
			source.Paths = strings.Split(paths, ",")
		}
		r.SSH = append(r.SSH, source)
	}
	return r, nil
}

// allowDelete is an entitlement that is about outputs.
const allowDelete = "buildx.local.delete"

// parseSecret parses id=ID[,type=file|env][,src=FILE][,env=VARIABLE].
func parseSecret(text string) (engine.Secret, error) {
	var s engine.Secret
	fields, err := csv.NewReader(strings.NewReader(text)).Read()
	if err != nil && !errors.Is(err, io.EOF) {
		return s, fmt.Errorf("failed to parse csv secret: %w", err)
	}
	kind := ""
	for _, field := range fields {
		key, value, ok := strings.Cut(field, "=")
		if !ok {
			return s, fmt.Errorf("invalid field '%s' must be a key=value pair", field)
		}
		switch strings.ToLower(key) {
		case "type":
			if value != "file" && value != "env" {
				return s, fmt.Errorf("unsupported secret type %q", value)
			}
			kind = value
		case "id":
			s.ID = value
		case "source", "src":
			s.File = value
		case "env":
			s.Env = value
		default:
			return s, fmt.Errorf("unexpected key '%s' in '%s'", key, field)
		}
	}
	if kind == "env" && s.Env == "" {
		s.Env, s.File = s.File, ""
	}
	return s, nil
}

// ulimits is a flag whose values are as NAME=SOFT[:HARD].
type ulimits []engine.Limit

// Set is pflag.Value's; a limit that is given again takes the place of the first.
func (u *ulimits) Set(text string) error {
	l, err := units.ParseUlimit(text)
	if err != nil {
		return err
	}
	for i, other := range *u {
		if other.Name == l.Name {
			*u = append((*u)[:i], (*u)[i+1:]...)
			break
		}
	}
	*u = append(*u, engine.Limit{Name: l.Name, Soft: l.Soft, Hard: l.Hard})
	return nil
}

// String is pflag.Value's.
func (u *ulimits) String() string {
	var list []string
	for _, l := range *u {
		list = append(list, fmt.Sprintf("%s=%d:%d", l.Name, l.Soft, l.Hard))
	}
	return fmt.Sprint(list)
}

// Type is pflag.Value's.
func (*ulimits) Type() string { return "ulimit" }
