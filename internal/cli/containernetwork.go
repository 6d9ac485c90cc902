package cli

import (
	"encoding/csv"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"reflect"
	"regexp"
	"strconv"
	"strings"

	"github.com/docker/go-connections/nat"
	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/network"
)

// attachment is what --network says of one network.
type attachment struct {
	name       string
	aliases    []string
	options    map[string]string
	links      []string
	ipv4, ipv6 netip.Addr
	linkLocal  []netip.Addr
	mac        string
	priority   int
}

// parseAttachment reads a network's name, or a list of KEY=VALUE, which docker reads in lower case.
func parseAttachment(v string) (attachment, error) {
	long, err := regexp.MatchString(`\w+=\w+`, v)
	if err != nil || !long {
		return attachment{name: v}, err
	}
	fields, err := csv.NewReader(strings.NewReader(v)).Read()
	if err != nil {
		return attachment{}, err
	}
	var a attachment
	for _, field := range fields {
		key, value, ok := strings.Cut(strings.ToLower(field), "=")
		if !ok || key == "" {
			return a, fmt.Errorf("invalid field %s", field)
		}
		if err := a.set(strings.TrimSpace(key), strings.TrimSpace(value)); err != nil {
			return a, err
		}
	}
	if a.name == "" {
		return a, errors.New("network name/id is not specified")
	}
	return a, nil
}

func (a *attachment) set(key, value string) (err error) {
	switch key {
	case "name":
		a.name = value
	case "alias":
		a.aliases = append(a.aliases, value)
	case "ip":
		a.ipv4, err = netip.ParseAddr(value)
	case "ip6":
		a.ipv6, err = netip.ParseAddr(value)
	case "mac-address":
		a.mac = value
	case "link-local-ip":
		var ip netip.Addr
		ip, err = netip.ParseAddr(value)
		a.linkLocal = append(a.linkLocal, ip)
	case "driver-opt":
		name, option, ok := strings.Cut(value, "=")
		if !ok || name == "" {
			return errors.New("invalid key value pair format in driver options")
		}
		if a.options == nil {
			a.options = map[string]string{}
		}
		a.options[strings.TrimSpace(name)] = strings.TrimSpace(option)
	case "gw-priority":
		a.priority, err = strconv.Atoi(value)
		if number, ok := errors.AsType[*strconv.NumError](err); ok {
			return fmt.Errorf("invalid gw-priority (%s): %w", value, number.Err)
		}
	default:
		return errors.New("invalid field key " + key)
	}
	return err
}

// addFirst adds what the flags without a network's name say.
func (a *attachment) addFirst(first attachment, links []string) error {
	for _, both := range []struct {
		given bool
		what  string
	}{
		{len(a.aliases) > 0 && len(first.aliases) > 0, "--network-alias and per-network alias"},
		{a.ipv4.IsValid() && first.ipv4.IsValid(), "--ip and per-network IPv4 address"},
		{a.ipv6.IsValid() && first.ipv6.IsValid(), "--ip6 and per-network IPv6 address"},
		{a.mac != "" && first.mac != "", "--mac-address and per-network MAC address"},
		{len(a.linkLocal) > 0 && len(first.linkLocal) > 0, "--link-local-ip and per-network link-local IP addresses"},
	} {
		if both.given {
			return fmt.Errorf("conflicting options: cannot specify both %s", both.what)
		}
	}
	if len(first.aliases) > 0 {
		a.aliases = first.aliases
	}
	if container.NetworkMode(a.name).IsUserDefined() {
		a.links = links // of the container, on other networks
	}
	if first.ipv4.IsValid() {
		a.ipv4 = first.ipv4
	}
	if first.ipv6.IsValid() {
		a.ipv6 = first.ipv6
	}
	if first.mac != "" {
		a.mac = first.mac
	}
	if len(first.linkLocal) > 0 {
		a.linkLocal = first.linkLocal
	}
	return nil
}

// settings returns docker's type for it.
func (a *attachment) settings() (*network.EndpointSettings, error) {
	if strings.TrimSpace(a.name) == "" {
		return nil, errors.New("no name set for network")
	}
	if !container.NetworkMode(a.name).IsUserDefined() {
		if len(a.aliases) > 0 {
			return nil, errors.New("network-scoped aliases are only supported for user-defined networks")
		}
		if len(a.links) > 0 {
			return nil, errors.New("links are only supported for user-defined networks")
		}
	}
	s := &network.EndpointSettings{Aliases: a.aliases, DriverOpts: a.options, Links: a.links, GwPriority: a.priority}
	if a.ipv4.IsValid() || a.ipv6.IsValid() || len(a.linkLocal) > 0 {
		s.IPAMConfig = &network.EndpointIPAMConfig{IPv4Address: a.ipv4, IPv6Address: a.ipv6, LinkLocalIPs: a.linkLocal}
	}
	if a.mac != "" {
		mac, err := parseMAC(a.mac)
		if err != nil {
			return nil, err
		}
		s.MacAddress = network.HardwareAddr(mac)
	}
	return s, nil
}

func parseMAC(v string) (net.HardwareAddr, error) {
	mac, err := net.ParseMAC(strings.TrimSpace(v))
	if err != nil {
		return nil, fmt.Errorf("%s is not a valid mac address", v)
	}
	return mac, nil
}

// readNetworks makes the endpoints of the networks, and the network mode, which is the name of the first. A single network of which
// nothing is said has no endpoint, as docker has it.
func (f *containerFlags) readNetworks() (map[string]*network.EndpointSettings, error) {
	all := f.networks
	if len(all) == 0 {
		all = []attachment{{name: network.NetworkDefault}}
	}
	f.host.NetworkMode = container.NetworkMode(all[0].name)
	endpoints := map[string]*network.EndpointSettings{}
	var user, other bool
	for i, a := range all {
		if i == 0 {
			if err := a.addFirst(f.firstNetwork, f.host.Links); err != nil {
				return nil, err
			}
		}
		settings, err := a.settings()
		if err != nil {
			return nil, err
		}
		if _, ok := endpoints[a.name]; ok {
			return nil, fmt.Errorf("network %q is specified multiple times", a.name)
		}
		if defined := container.NetworkMode(a.name).IsUserDefined(); defined {
			user = true
		} else {
			other = true
		}
		if len(f.networks) == 1 && reflect.ValueOf(*settings).IsZero() {
			continue
		}
		endpoints[a.name] = settings
	}
	if user && other {
		return nil, errors.New("conflicting options: cannot attach both user-defined and non-user-defined network-modes")
	}
	return endpoints, nil
}

// readPorts reads --publish and --expose.
func (f *containerFlags) readPorts() error {
	specs := make([]string, len(f.publish))
	for i, spec := range f.publish {
		if strings.Contains(spec, "=") { // published=80,target=80,protocol=tcp
			fields := map[string]string{"protocol": "tcp"}
			for field := range strings.SplitSeq(spec, ",") {
				key, value, ok := strings.Cut(field, "=")
				if !ok || key == "" {
					return fmt.Errorf("invalid publish opts format (should be name=value but got '%s')", field)
				}
				fields[key] = value
			}
			spec = fmt.Sprintf("%s:%s/%s", fields["published"], fields["target"], fields["protocol"])
		}
		specs[i] = spec
	}
	_, published, err := nat.ParsePortSpecs(specs)
	if err != nil {
		return err
	}
	f.host.PortBindings, f.config.ExposedPorts = network.PortMap{}, network.PortSet{}
	for name, bindings := range published {
		port, err := network.ParsePort(string(name))
		if err != nil {
			return err
		}
		f.config.ExposedPorts[port] = struct{}{}
		for _, b := range bindings {
			binding := network.PortBinding{HostPort: b.HostPort}
			if b.HostIP != "" {
				if binding.HostIP, err = netip.ParseAddr(b.HostIP); err != nil {
					return err
				}
			}
			f.host.PortBindings[port] = append(f.host.PortBindings[port], binding)
		}
	}
	for _, v := range f.expose {
		ports, err := network.ParsePortRange(v)
		if err != nil {
			return fmt.Errorf("invalid range format for --expose: %w", err)
		}
		for port := range ports.All() {
			f.config.ExposedPorts[port] = struct{}{}
		}
	}
	return nil
}
