package engine

import (
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"strings"

	"github.com/containerd/errdefs"
	containertypes "github.com/moby/moby/api/types/container"
	specs "github.com/opencontainers/runtime-spec/specs-go"

	"strake/internal/dockerfile"
	"strake/internal/executor"
	"strake/internal/sshagent"
)

// BuildRun is what the commands of a build are given beside its files.
type BuildRun struct {
	Network      string      // host, none, "" or default (host)
	Secrets      []Secret    // values that are in no layer, log or record
	SSH          []SSHSource // agents that are lent
	Allow        []string    // entitlements: network.host, security.insecure, device[=name[,alias=name]]
	AddHosts     []string    // NAME:IP or NAME=IP lines of /etc/hosts
	Limits       []Limit     // of its processes
	CgroupParent string
	Resources    *containertypes.Resources // limits of a command and all that it starts; nil: none
	Warn         func(string)              // told of those that the machine does not have; required with Resources
	ShmSize      int64                     // of /dev/shm, bytes; 0 is the usual
	Strict       bool                      // what warns of secrets in the image fails
}

// SSHSource says where the keys of one ID come from.
type SSHSource = sshagent.Source

// Limit is a resource limit of a process.
type Limit = executor.Limit

// Secret is a value that commands may be shown; of File and Env, one is set.
type Secret struct {
	ID   string
	File string // that has it
	Env  string // variable of this process that has it
}

// maxSecret bounds a secret, in bytes, as for BuildKit.
const maxSecret = 500 << 10

// secretValues reads secrets when they are asked for.
type secretValues map[string]Secret

// newSecretValues checks that the secrets are there: a variable, or else a file, is named as the ID unless it is said.
func newSecretValues(secrets []Secret) (secretValues, error) {
	values := secretValues{}
	for _, s := range secrets {
		if s.ID == "" {
			return nil, invalid("secret missing ID")
		}
		if s.File == "" && s.Env == "" {
			if _, ok := os.LookupEnv(s.ID); ok {
				s.Env = s.ID
			} else {
				s.File = s.ID
			}
		}
		if s.Env == "" {
			info, err := os.Stat(s.File)
			if err != nil {
				return nil, fmt.Errorf("failed to stat %s: %w", s.File, errors.Unwrap(err))
			}
			if info.Size() > maxSecret {
				return nil, tooLarge(s.ID)
			}
		}
		values[s.ID] = s
	}
	return values, nil
}

func tooLarge(id string) error {
	return invalid("secret %s too big. max size %dKB", id, maxSecret>>10)
}

// Secret is build.Secrets'.
func (v secretValues) Secret(id string) (value []byte, err error) {
	s, ok := v[id]
	if !ok {
		return nil, errdefs.ErrNotFound
	}
	if s.Env != "" {
		return []byte(os.Getenv(s.Env)), nil
	}
	f, err := os.Open(s.File)
	if err != nil {
		return nil, err
	}
	defer closing(&err, f.Close)
	value, err = io.ReadAll(io.LimitReader(f, maxSecret+1))
	if len(value) > maxSecret {
		return nil, tooLarge(id)
	}
	return value, err
}

// openedRun is a BuildRun that was found to be possible.
type openedRun struct {
	BuildRun
	secrets secretValues
	agents  *sshagent.Agents
	hosts   []executor.Host
	limits  *specs.LinuxResources
}

// open looks whether all is there.
func (r BuildRun) open() (o openedRun, err error) {
	o.BuildRun = r
	for _, e := range r.Allow {
		if err := dockerfile.CheckEntitlement(e); err != nil {
			return o, invalid("%v", err)
		}
	}
	if o.secrets, err = newSecretValues(r.Secrets); err != nil {
		return o, err
	}
	if o.agents, err = sshagent.Open(r.SSH); err != nil {
		return o, err
	}
	if o.hosts, err = extraHosts(r.AddHosts); err != nil || r.Resources == nil {
		return o, err
	}
	resources := *r.Resources
	if err := completeResources(&resources, readKernelLimits(), r.Warn); err != nil {
		return o, err
	}
	o.limits, err = linuxResources(resources)
	return o, err
}

// apply puts the options where the compiler has them.
func (o openedRun) apply(compile *dockerfile.Options) {
	compile.Network, compile.Allow, compile.ExtraHosts = o.Network, o.Allow, o.hosts
	compile.Devices = executor.Devices
	compile.Limits, compile.CgroupParent, compile.Resources, compile.ShmSize = o.Limits, o.CgroupParent, o.limits, o.ShmSize
}

// secretsRule is the check of Dockerfiles that finds secrets in ARG and ENV, in BuildKit's words.
const secretsRule = "SecretsUsedInArgOrEnv: "

// check fails where a build is strict and the checks of its Dockerfile warned of secrets.
func (o openedRun) check(warnings []Warning) error {
	for _, w := range warnings {
		if what, ok := strings.CutPrefix(w.String(), secretsRule); ok && o.Strict {
			return invalid("%s: give it to RUN by --mount=type=secret", what)
		}
	}
	return nil
}

// hostGateway is the address that docker finds out: that of the machine, as its containers see it.
const hostGateway = "host-gateway"

// extraHosts parses NAME:IP and NAME=IP; an IPv6 address may have brackets.
func extraHosts(lines []string) ([]executor.Host, error) {
	var hosts []executor.Host
	for _, line := range lines {
		name, address, ok := strings.Cut(line, "=")
		if !ok {
			name, address, ok = strings.Cut(line, ":")
		}
		if !ok || name == "" || strings.ContainsAny(name, " \t\n#") {
			return nil, invalid("invalid host %s: not NAME:IP", line)
		}
		if address == hostGateway {
			address = "127.0.0.1" // commands share the machine's network
		}
		ip, err := netip.ParseAddr(strings.TrimSuffix(strings.TrimPrefix(address, "["), "]"))
		if err != nil {
			return nil, invalid("invalid IP address in add-host: %q", address)
		}
		hosts = append(hosts, executor.Host{Name: name, IP: ip.String()})
	}
	return hosts, nil
}
