package cli

import (
	"encoding/csv"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"

	"github.com/docker/go-units"
	"github.com/moby/moby/api/types/container"
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
	resources    []string
	limits       []string // those of flags of their own, which resources go over
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
	flags.StringArrayVar(&o.resources, "resource", nil, `Resource limits for build containers (format: "memory=2g", "cpu-quota=50000")`)
	for key, short := range map[string]string{
		"memory": "m", "memory-swap": "", "cpu-shares": "c", "cpu-period": "", "cpu-quota": "", "cpuset-cpus": "", "cpuset-mems": "",
	} {
		each(flags, "string", key, short, "", func(v string) error {
			o.limits = append(o.limits, key+"="+v)
			return nil
		})
		flags.Lookup(key).Hidden = true // as in buildx
	}
	flags.BoolVar(&o.strict, "strict", false, "Fail where a secret may be in the image, instead of a warning")
}

// run is what the flags say, with the entitlements that were allowed.
func (o *buildRunOptions) run(allow []string, warn func(string)) (engine.BuildRun, error) {
	r := engine.BuildRun{
		Network: o.network, AddHosts: o.addHosts, Limits: o.ulimits, CgroupParent: o.cgroupParent, ShmSize: int64(o.shmSize),
		Strict: o.strict, Allow: allow, Warn: warn,
	}
	var err error
	if r.Resources, err = parseResources(slices.Concat(o.limits, o.resources)); err != nil {
		return r, err
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

// parseResources reads KEY=VALUE limits of commands, of which the last counts.
func parseResources(texts []string) (*container.Resources, error) {
	if len(texts) == 0 {
		return nil, nil
	}
	r, err := &container.Resources{}, error(nil)
	for _, text := range texts {
		key, value, ok := strings.Cut(text, "=")
		if !ok {
			return nil, fmt.Errorf("invalid resource %q, expected key=value", text)
		}
		key, value = strings.TrimSpace(key), strings.TrimSpace(value)
		switch key {
		case "memory":
			r.Memory, err = units.RAMInBytes(value)
		case "memory-swap":
			if r.MemorySwap = -1; value != "-1" {
				r.MemorySwap, err = units.RAMInBytes(value)
			}
		case "cpu-shares":
			r.CPUShares, err = strconv.ParseInt(value, 10, 64)
		case "cpu-period":
			r.CPUPeriod, err = strconv.ParseInt(value, 10, 64)
		case "cpu-quota":
			r.CPUQuota, err = strconv.ParseInt(value, 10, 64)
		case "cpuset-cpus":
			r.CpusetCpus = value
		case "cpuset-mems":
			r.CpusetMems = value
		default:
			return nil, fmt.Errorf("unknown resource %q", key)
		}
		if err != nil {
			return nil, fmt.Errorf("invalid value %q for resource %s: %w", value, key, err)
		}
	}
	return r, nil
}

// ulimits is a flag whose values are as NAME=SOFT[:HARD].
type ulimits []engine.Limit

// Set is pflag.Value's; a limit that is given again takes the place of the first.
func (u *ulimits) Set(text string) error {
	l, err := units.ParseUlimit(text)
	if err != nil {
		return err
	}
	*u = slices.DeleteFunc(*u, func(other engine.Limit) bool { return other.Name == l.Name })
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
