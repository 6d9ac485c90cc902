package cli

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/network"
	"github.com/spf13/pflag"
)

// containerConfig is what docker's client sends to make a container.
type containerConfig struct {
	config   *container.Config
	host     *container.HostConfig
	networks *network.NetworkingConfig
}

// read checks the flags as docker's client does, and makes of them what it sends. It is called once, after they were parsed.
func (f *containerFlags) read(flags *pflag.FlagSet, image string, args []string) (containerConfig, error) {
	c, h := &f.config, &f.host
	c.Image, c.Cmd = image, args
	if f.firstNetwork.mac != "" {
		if _, err := parseMAC(f.firstNetwork.mac); err != nil {
			return containerConfig{}, err
		}
	}
	if s := *h.MemorySwappiness; s < -1 || s > 100 {
		return containerConfig{}, fmt.Errorf("invalid value: %d. Valid memory swappiness range is 0-100", s)
	}
	f.readStreams()
	for _, step := range []func() error{
		f.readVolumes, f.readPorts, f.readDevices, f.readFiles, f.checkModes, f.readRestart, f.readLog, f.readSecurity, f.readStorage, f.readHealth,
	} {
		if err := step(); err != nil {
			return containerConfig{}, err
		}
	}
	if flags.Changed("entrypoint") {
		c.Entrypoint = []string{f.entrypoint} // "" for none
	}
	if flags.Changed("stop-timeout") {
		c.StopTimeout = &f.stopTimeout
	}
	if flags.Changed("init") {
		h.Init = &f.useInit
	}
	for _, name := range slices.Sorted(maps.Keys(f.ulimits)) {
		h.Ulimits = append(h.Ulimits, f.ulimits[name])
	}
	if h.AutoRemove && !h.RestartPolicy.IsNone() {
		return containerConfig{}, errors.New("conflicting options: cannot specify both --restart and --rm")
	}
	emptyLists(h)
	endpoints, err := f.readNetworks()
	if err != nil {
		return containerConfig{}, err
	}
	return containerConfig{c, h, &network.NetworkingConfig{EndpointsConfig: endpoints}}, nil
}

// emptyLists makes lists that nothing was added to the ones that docker's client sends, and inspect shows: empty, not null.
func emptyLists(h *container.HostConfig) {
	h.DNS, h.DNSOptions, h.DNSSearch = orEmpty(h.DNS), orEmpty(h.DNSOptions), orEmpty(h.DNSSearch)
	r := &h.Resources
	r.Devices, r.Ulimits, r.BlkioWeightDevice = orEmpty(r.Devices), orEmpty(r.Ulimits), orEmpty(r.BlkioWeightDevice)
	r.BlkioDeviceReadBps, r.BlkioDeviceWriteBps = orEmpty(r.BlkioDeviceReadBps), orEmpty(r.BlkioDeviceWriteBps)
	r.BlkioDeviceReadIOps, r.BlkioDeviceWriteIOps = orEmpty(r.BlkioDeviceReadIOps), orEmpty(r.BlkioDeviceWriteIOps)
}

// orEmpty is list, or an empty one for nil.
func orEmpty[T any](list []T) []T {
	if list == nil {
		return []T{}
	}
	return list
}

// readStreams says what to attach to: the outputs, unless -a says otherwise, and the input that -i keeps open.
func (f *containerFlags) readStreams() {
	c := &f.config
	c.AttachStdin = c.OpenStdin || slices.Contains(f.attach, "stdin")
	c.AttachStdout = len(f.attach) == 0 || slices.Contains(f.attach, "stdout")
	c.AttachStderr = len(f.attach) == 0 || slices.Contains(f.attach, "stderr")
	c.StdinOnce = c.OpenStdin && c.AttachStdin
	f.host.Tmpfs = map[string]string{}
	for _, v := range f.tmpfs {
		target, options, _ := strings.Cut(v, ":")
		f.host.Tmpfs[target] = options
	}
}

func (f *containerFlags) readDevices() error {
	var vendors []string
	for _, v := range f.devices {
		if isCDI(v) {
			vendors = append(vendors, v)
			continue
		}
		device, err := parseDevice(v)
		if err != nil {
			return err
		}
		f.host.Devices = append(f.host.Devices, device)
	}
	if len(vendors) > 0 {
		f.host.DeviceRequests = append(f.host.DeviceRequests, container.DeviceRequest{Driver: "cdi", DeviceIDs: vendors})
	}
	return nil
}

// readFiles puts what --env-file and --label-file say before what single flags do.
func (f *containerFlags) readFiles() error {
	vars, err := readPairFiles(f.envFiles, os.LookupEnv)
	if err != nil {
		return fmt.Errorf("--env-file: %w", err)
	}
	f.config.Env = append(vars, f.config.Env...)
	labels, err := readPairFiles(f.labelFiles, nil)
	if err != nil {
		return fmt.Errorf("--label-file: %w", err)
	}
	f.config.Labels = pairMap(append(labels, f.labels...))
	return nil
}

func (f *containerFlags) checkModes() error {
	h := &f.host
	switch {
	case !h.PidMode.Valid():
		return errors.New("--pid: invalid PID mode")
	case !h.UTSMode.Valid():
		return errors.New("--uts: invalid UTS mode")
	case !h.UsernsMode.Valid():
		return errors.New("--userns: invalid USER mode")
	case !h.CgroupnsMode.Valid():
		return errors.New("--cgroupns: invalid CGROUP mode")
	}
	return nil
}

func (f *containerFlags) readRestart() (err error) {
	f.host.RestartPolicy, err = parseRestart(f.restart)
	return err
}

// parseRestart reads NAME[:COUNT]; whether there is such a policy is not its question.
func parseRestart(v string) (container.RestartPolicy, error) {
	name, count, ok := strings.Cut(v, ":")
	if ok && name == "" {
		return container.RestartPolicy{}, errors.New("invalid restart policy format: no policy provided before colon")
	}
	policy := container.RestartPolicy{Name: container.RestartPolicyMode(name)}
	if count != "" {
		n, err := strconv.Atoi(count)
		if err != nil {
			return policy, errors.New("invalid restart policy format: maximum retry count must be an integer")
		}
		policy.MaximumRetryCount = n
	}
	return policy, nil
}

func (f *containerFlags) readLog() error {
	if f.host.LogConfig.Type == "none" && len(f.logOptions) > 0 {
		return errors.New("invalid logging opts for driver none")
	}
	f.host.LogConfig.Config = pairMap(f.logOptions)
	return nil
}

// readSecurity reads the seccomp profile that --security-opt names, and keeps to itself what is about masked paths.
func (f *containerFlags) readSecurity() error {
	var kept []string
	for _, option := range f.host.SecurityOpt {
		if option == "systempaths=unconfined" {
			f.host.MaskedPaths, f.host.ReadonlyPaths = []string{}, []string{}
			continue
		}
		key, value, ok := strings.Cut(option, "=")
		if !ok && key != "no-new-privileges" {
			key, value, ok = strings.Cut(option, ":")
		}
		if (!ok || value == "") && key != "no-new-privileges" {
			return fmt.Errorf("invalid --security-opt: %q", option)
		}
		if key == "seccomp" && value != "builtin" && value != "unconfined" {
			text, err := os.ReadFile(value)
			if err != nil {
				return fmt.Errorf("opening seccomp profile (%s) failed: %w", value, err)
			}
			var compact bytes.Buffer
			if err := json.Compact(&compact, text); err != nil {
				return fmt.Errorf("compacting json for seccomp profile (%s) failed: %w", value, err)
			}
			option = "seccomp=" + compact.String()
		}
		kept = append(kept, option)
	}
	f.host.SecurityOpt = kept
	return nil
}

func (f *containerFlags) readStorage() error {
	f.host.StorageOpt = map[string]string{}
	for _, option := range f.storageOptions {
		key, value, ok := strings.Cut(option, "=")
		if !ok {
			return errors.New("invalid storage option")
		}
		f.host.StorageOpt[key] = value
	}
	return nil
}

func (f *containerFlags) readHealth() error {
	h := f.health
	given := !reflect.ValueOf(h).IsZero()
	switch {
	case f.noHealthcheck && given:
		return errors.New("--no-healthcheck conflicts with --health-* options")
	case f.noHealthcheck:
		f.config.Healthcheck = &container.HealthConfig{Test: []string{"NONE"}}
		return nil
	case !given:
		return nil
	}
	for _, number := range []struct {
		flag     string
		negative bool
	}{
		{"--health-interval", h.Interval < 0},
		{"--health-timeout", h.Timeout < 0},
		{"--health-retries", h.Retries < 0},
		{"--health-start-period", h.StartPeriod < 0},
		{"--health-start-interval", h.StartInterval < 0},
	} {
		if number.negative {
			return fmt.Errorf("%s cannot be negative", number.flag)
		}
	}
	f.config.Healthcheck = &h
	return nil
}

// readPairFiles reads files of lines KEY[=VALUE]. A key without a value has the one that lookup knows, or is left out.
func readPairFiles(paths []string, lookup func(string) (string, bool)) ([]string, error) {
	var all []string
	for _, path := range paths {
		pairs, err := readPairFile(path, lookup)
		if err != nil {
			return nil, err
		}
		all = append(all, pairs...)
	}
	return all, nil
}

func readPairFile(path string, lookup func(string) (string, bool)) (pairs []string, err error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	lines := bufio.NewScanner(f)
	invalid := func(err error) error { return fmt.Errorf("invalid env file (%s): %w", path, err) }
	for n := 1; lines.Scan(); n++ {
		b := lines.Bytes()
		if !utf8.Valid(b) {
			return nil, invalid(fmt.Errorf("invalid utf8 bytes at line %d: %v", n, b))
		}
		if n == 1 {
			b = bytes.TrimPrefix(b, []byte("\xef\xbb\xbf"))
		}
		line := strings.TrimLeftFunc(string(b), unicode.IsSpace)
		if line == "" || line[0] == '#' {
			continue
		}
		key, _, set := strings.Cut(line, "=")
		switch {
		case key == "":
			return nil, invalid(fmt.Errorf("no variable name on line '%s'", line))
		case strings.ContainsAny(key, " \t"):
			return nil, invalid(fmt.Errorf("variable '%s' contains whitespaces", key))
		case set:
			pairs = append(pairs, line)
		case lookup != nil:
			if value, ok := lookup(line); ok {
				pairs = append(pairs, line+"="+value)
			}
		}
	}
	if err := lines.Err(); err != nil {
		return nil, invalid(err)
	}
	return pairs, nil
}
