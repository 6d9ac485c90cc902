package cli

import (
	"encoding/csv"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path"
	"regexp"
	"strconv"
	"strings"

	"github.com/docker/go-units"
	"github.com/moby/moby/api/types/blkiodev"
	"github.com/moby/moby/api/types/container"
	"github.com/spf13/pflag"
)

// The values of single flags of run and create, with docker's words for what is wrong with them.

func (f *containerFlags) addStream(v string) error {
	stream := strings.ToLower(v)
	switch stream {
	case "stdin", "stdout", "stderr":
		f.attach = append(f.attach, stream)
		return nil
	}
	return errors.New("valid streams are STDIN, STDOUT and STDERR")
}

// variable returns KEY=value; without a value the one that our own environment has, else KEY alone, which takes it from the image's.
func variable(v string) (string, error) {
	key, _, set := strings.Cut(v, "=")
	if key == "" {
		return "", fmt.Errorf("invalid environment variable: %s", v)
	}
	if value, ok := os.LookupEnv(key); ok && !set {
		return key + "=" + value, nil
	}
	return v, nil
}

func checkLabel(v string) error {
	key, _, _ := strings.Cut(v, "=")
	key = strings.TrimLeft(key, " \t")
	if key == "" {
		return fmt.Errorf("invalid label '%s': empty name", v)
	}
	if strings.ContainsAny(key, " \t") {
		return fmt.Errorf("label '%s' contains whitespaces", key)
	}
	return nil
}

// checkSysctl lets only what belongs to a namespace be set.
func checkSysctl(v string) error {
	key, _, ok := strings.Cut(v, "=")
	if ok {
		switch key {
		case "kernel.msgmax", "kernel.msgmnb", "kernel.msgmni", "kernel.sem",
			"kernel.shmall", "kernel.shmmax", "kernel.shmmni", "kernel.shm_rmid_forced":
			return nil
		}
		if strings.HasPrefix(key, "net.") || strings.HasPrefix(key, "fs.mqueue.") {
			return nil
		}
	}
	return fmt.Errorf("sysctl '%s' is not allowed", v)
}

func parseIP(v string) (netip.Addr, error) {
	ip := net.ParseIP(strings.TrimSpace(v))
	if ip == nil {
		return netip.Addr{}, fmt.Errorf("IP address is not correctly formatted: %s", v)
	}
	addr, _ := netip.AddrFromSlice(ip) // of a right length
	return addr.Unmap(), nil
}

// extraHost reads HOST:IP or HOST=IP and returns the first.
func extraHost(v string) (string, error) {
	host, ip, ok := strings.Cut(v, "=")
	if !ok {
		host, ip, ok = strings.Cut(v, ":")
	}
	if !ok || host == "" || strings.Contains(host, ":") {
		return "", fmt.Errorf("bad format for add-host: %q", v)
	}
	if ip == "host-gateway" {
		return host + ":" + ip, nil
	}
	if len(ip) > 2 && ip[0] == '[' && ip[len(ip)-1] == ']' {
		ip = ip[1 : len(ip)-1]
	}
	if _, err := parseIP(ip); err != nil {
		return "", fmt.Errorf("invalid IP address in add-host: %q", ip)
	}
	return host + ":" + ip, nil
}

// searchDomain returns a domain without its last dot; "." is none at all.
func searchDomain(v string) (string, error) {
	if v = strings.Trim(v, " "); v == "." {
		return v, nil
	}
	domain := strings.TrimSuffix(strings.TrimSpace(v), ".")
	valid := len(domain) < 255 && strings.ContainsFunc(domain, func(r rune) bool { return r|0x20 >= 'a' && r|0x20 <= 'z' })
	for name := range strings.SplitSeq(strings.TrimPrefix(domain, ":"), ".") {
		valid = valid && name != "" && strings.Trim(name, "-") == name &&
			strings.Trim(name, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-") == ""
	}
	if !valid {
		return "", fmt.Errorf("%s is not a valid domain", v)
	}
	return domain, nil
}

func checkLink(v string) error {
	switch {
	case v == "":
		return errors.New("empty string specified for links")
	case strings.Count(v, ":") > 1:
		return fmt.Errorf("bad format for links: %s", v)
	}
	return nil
}

func checkDeviceRule(v string) error {
	valid, err := regexp.MatchString(`^[acb] ([0-9]+|\*):([0-9]+|\*) [rwm]{1,3}$`, v)
	if err != nil || !valid {
		return fmt.Errorf("invalid device cgroup format '%s'", v)
	}
	return nil
}

// parseWeight reads /dev/NAME:WEIGHT.
func parseWeight(v string) (*blkiodev.WeightDevice, error) {
	device, number, err := cutDevice(v)
	if err != nil {
		return nil, err
	}
	weight, err := strconv.ParseUint(number, 10, 16)
	if err != nil || weight > 0 && (weight < 10 || weight > 1000) {
		return nil, fmt.Errorf("invalid weight for device: %s", v)
	}
	return &blkiodev.WeightDevice{Path: device, Weight: uint16(weight)}, nil
}

func cutDevice(v string) (device, value string, err error) {
	device, value, ok := strings.Cut(v, ":")
	if !ok || device == "" {
		return "", "", fmt.Errorf("bad format: %s", v)
	}
	if !strings.HasPrefix(device, "/dev/") {
		return "", "", fmt.Errorf("bad format for device path: %s", v)
	}
	return device, value, nil
}

func throttle(flags *pflag.FlagSet, devices *[]*blkiodev.ThrottleDevice, name, about string, parse func(string) (uint64, error)) {
	each(flags, "list", name, "", about, func(v string) error {
		device, value, err := cutDevice(v)
		if err != nil {
			return err
		}
		rate, err := parse(value)
		if err != nil {
			return fmt.Errorf("invalid rate for device: %s. %w", v, err)
		}
		*devices = append(*devices, &blkiodev.ThrottleDevice{Path: device, Rate: rate})
		return nil
	})
}

func parseByteRate(v string) (uint64, error) {
	rate, err := units.RAMInBytes(v)
	if err != nil || rate < 0 {
		return 0, errors.New("The correct format is <device-path>:<number>[<unit>]. Number must be a positive integer. Unit is optional and can be kb, mb, or gb") //nolint:staticcheck // docker's words
	}
	return uint64(rate), nil
}

func parseRate(v string) (uint64, error) {
	rate, err := strconv.ParseUint(v, 10, 64)
	if err != nil {
		return 0, errors.New("The correct format is <device-path>:<number>. Number must be a positive integer") //nolint:staticcheck // docker's words
	}
	return rate, nil
}

// parseDevice reads HOST[:CONTAINER][:MODE].
func parseDevice(v string) (container.DeviceMapping, error) {
	parts := strings.Split(v, ":")
	if len(parts) > 3 || parts[0] == "" {
		return container.DeviceMapping{}, fmt.Errorf("bad format for path: %s", v)
	}
	d := container.DeviceMapping{PathOnHost: parts[0], PathInContainer: parts[0], CgroupPermissions: "rwm"}
	switch {
	case len(parts) == 3 && !isDeviceMode(parts[2]):
		return d, fmt.Errorf("bad mode specified: %s", parts[2])
	case len(parts) == 3:
		d.PathInContainer, d.CgroupPermissions = parts[1], parts[2]
	case len(parts) == 2 && isDeviceMode(parts[1]):
		d.CgroupPermissions = parts[1]
	case len(parts) == 2:
		d.PathInContainer = path.Clean(parts[1])
	}
	if len(parts) == 1 || len(parts) == 2 && isDeviceMode(parts[1]) {
		d.PathOnHost = path.Clean(d.PathOnHost)
		d.PathInContainer = d.PathOnHost
	}
	if !path.IsAbs(d.PathInContainer) {
		return d, fmt.Errorf("%s is not an absolute path", d.PathInContainer)
	}
	return d, nil
}

// isDeviceMode reports whether v is made of r, w and m, each once at most.
func isDeviceMode(v string) bool {
	for _, c := range v {
		if !strings.ContainsRune("rwm", c) || strings.Count(v, string(c)) > 1 {
			return false
		}
	}
	return v != ""
}

// isCDI reports whether v is the name of a device that a vendor describes: VENDOR/CLASS=NAME.
func isCDI(v string) bool {
	kind, name, ok := strings.Cut(v, "=")
	vendor, class, both := strings.Cut(kind, "/")
	return ok && both && vendor != "" && class != "" && name != ""
}

func parseGPUs(v string) (container.DeviceRequest, error) {
	request := container.DeviceRequest{Options: map[string]string{}, Capabilities: [][]string{{"gpu"}}}
	fields, err := csv.NewReader(strings.NewReader(v)).Read()
	if err != nil {
		return request, err
	}
	seen := map[string]bool{}
	for _, field := range fields {
		key, value, set := strings.Cut(field, "=")
		if seen[key] {
			return request, fmt.Errorf("gpu request key '%s' can be specified only once", key)
		}
		seen[key] = true
		if !set {
			key, value = "count", key
			seen[key] = true
		}
		switch key {
		case "driver":
			request.Driver = value
		case "count":
			request.Count, err = gpuCount(value)
		case "device":
			request.DeviceIDs = strings.Split(value, ",")
		case "capabilities":
			request.Capabilities = [][]string{append(strings.Split(value, ","), "gpu")}
		case "options":
			var options []string
			if options, err = csv.NewReader(strings.NewReader(value)).Read(); err != nil {
				err = fmt.Errorf("failed to read gpu options: %w", err)
			}
			request.Options = pairMap(options)
		default:
			err = fmt.Errorf("unexpected key '%s' in '%s'", key, field)
		}
		if err != nil {
			return request, err
		}
	}
	if !seen["count"] && request.DeviceIDs == nil {
		request.Count = 1
	}
	return request, nil
}

func gpuCount(v string) (int, error) {
	if v == "all" {
		return -1, nil
	}
	n, err := strconv.Atoi(v)
	if number, ok := errors.AsType[*strconv.NumError](err); ok {
		return 0, fmt.Errorf(`invalid count (%s): value must be either "all" or an integer: %w`, v, number.Err)
	}
	return n, nil
}

// pairMap reads KEY[=VALUE].
func pairMap(values []string) map[string]string {
	m := make(map[string]string, len(values))
	for _, v := range values {
		key, value, _ := strings.Cut(v, "=")
		m[key] = value
	}
	return m
}
