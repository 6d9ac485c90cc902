package dockerfile

import (
	"fmt"
	"net"
	"strconv"
	"strings"

	"github.com/moby/buildkit/frontend/dockerfile/instructions"
	"github.com/moby/buildkit/frontend/dockerfile/linter"
)

// maxPorts bounds one EXPOSE: every port of every protocol.
const maxPorts = 3 << 16

// expose adds an EXPOSE.
func (c *compiler) expose(s *stage, in *instructions.ExposeCommand) error {
	var ports []string
	for _, word := range in.Ports {
		if err := checkExpansion(word, &s.env); err != nil {
			return err
		}
		specs, err := c.lex.ProcessWords(word, &s.env)
		if err != nil {
			return err
		}
		for _, spec := range specs {
			p, err := s.port(in, spec)
			if err != nil {
				return err
			}
			ports = append(ports, p...)
			if len(ports) > maxPorts {
				return fmt.Errorf("EXPOSE of more than %d ports", maxPorts)
			}
		}
	}
	if s.image.Config.ExposedPorts == nil {
		s.image.Config.ExposedPorts = map[string]struct{}{}
	}
	for _, p := range ports {
		s.image.Config.ExposedPorts[p] = struct{}{}
	}
	s.record(fmt.Sprintf("EXPOSE %v", ports), false)
	return nil
}

// port is parsePort with the checks.
func (s *stage) port(in *instructions.ExposeCommand, spec string) ([]string, error) {
	ip, host, port := splitPort(spec)
	if _, proto, _ := strings.Cut(port, "/"); proto != strings.ToLower(proto) {
		s.lint.Run(&linter.RuleExposeProtoCasing, in.Location(), linter.RuleExposeProtoCasing.Format(spec))
	}
	if ip != "" || host != "" {
		s.lint.Run(&linter.RuleExposeInvalidFormat, in.Location(), linter.RuleExposeInvalidFormat.Format(spec))
	}
	return parsePort(spec)
}

// parsePort reads [[ip:][host]:]port[-port][/proto] and returns "port/proto"
// for each port.
func parsePort(spec string) ([]string, error) {
	ip, host, port := splitPort(spec)
	port, proto, _ := strings.Cut(port, "/")
	if port == "" {
		return nil, fmt.Errorf("invalid port: %q: no port specified", spec)
	}
	switch proto = strings.ToLower(proto); proto {
	case "":
		proto = "tcp"
	case "tcp", "udp", "sctp":
	default:
		return nil, fmt.Errorf("invalid port: %q: invalid proto: %s", spec, proto)
	}
	if ip != "" && net.ParseIP(strings.Trim(ip, "[]")) == nil {
		return nil, fmt.Errorf("invalid IP address: %s", ip)
	}
	first, last, ok := portRange(port)
	if !ok {
		return nil, fmt.Errorf("invalid containerPort: %s", port)
	}
	if host != "" {
		from, to, ok := portRange(host)
		if !ok {
			return nil, fmt.Errorf("invalid hostPort: %s", host)
		}
		if last-first != to-from && last != first {
			return nil, fmt.Errorf("invalid ranges specified for container and host Ports: %s and %s", port, host)
		}
	}
	var out []string
	for n := first; n <= last; n++ {
		out = append(out, strconv.Itoa(n)+"/"+proto)
	}
	return out, nil
}

func splitPort(spec string) (ip, host, port string) {
	parts := strings.Split(spec, ":")
	n := len(parts)
	switch n {
	case 1:
		return "", "", parts[0]
	case 2:
		return "", parts[0], parts[1]
	}
	return strings.Join(parts[:n-2], ":"), parts[n-2], parts[n-1]
}

func portRange(s string) (first, last int, ok bool) {
	a, b, isRange := strings.Cut(s, "-")
	if !isRange {
		b = a
	}
	x, errX := strconv.ParseUint(a, 10, 16)
	y, errY := strconv.ParseUint(b, 10, 16)
	if errX != nil || errY != nil || y < x {
		return 0, 0, false
	}
	return int(x), int(y), true
}

// validSignal reports whether a name or number is a signal of Linux.
func validSignal(s string) bool {
	if n, err := strconv.Atoi(s); err == nil {
		return n > 0 && n <= 64
	}
	name := strings.TrimPrefix(strings.ToUpper(s), "SIG")
	for _, base := range []string{"RTMIN", "RTMAX"} {
		if rest, ok := strings.CutPrefix(name, base); ok {
			if rest == "" {
				return true
			}
			n, err := strconv.Atoi(strings.TrimLeft(rest, "+-"))
			return err == nil && n <= 15 && (base == "RTMIN") == (rest[0] == '+')
		}
	}
	for known := range strings.FieldsSeq(signals) {
		if name == known {
			return true
		}
	}
	return false
}

const signals = `ABRT ALRM BUS CHLD CLD CONT FPE HUP ILL INT IO IOT KILL PIPE POLL PROF PWR QUIT SEGV STKFLT
STOP SYS TERM TRAP TSTP TTIN TTOU URG USR1 USR2 VTALRM WINCH XCPU XFSZ`
