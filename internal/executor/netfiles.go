package executor

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/containerd/errdefs"
)

// maxHostFile bounds what is taken over of a file in the host's /etc.
const maxHostFile = 1 << 20

// hostsBase is what docker puts into a container's /etc/hosts.
const hostsBase = `127.0.0.1	localhost
::1	localhost ip6-localhost ip6-loopback
fe00::	ip6-localnet
ff00::	ip6-mcastprefix
ff02::1	ip6-allnodes
ff02::2	ip6-allrouters
`

// stepHosts is what BuildKit puts into a step's /etc/hosts, whatever its network.
const stepHosts = "127.0.0.1\tlocalhost %s\n::1\tlocalhost ip6-localhost ip6-loopback\n"

// writeNetFiles writes the files that are mounted over /etc/hosts, /etc/hostname and /etc/resolv.conf into the bundle, and
// returns their mounts. They are gone after the container, which may write to them unless it is a step.
func writeNetFiles(s Spec) ([]Mount, error) {
	resolv, err := readHostFile("/etc/resolv.conf")
	if err != nil {
		return nil, err
	}
	hosts := []byte(hostsBase)
	if s.AsStep {
		hosts = fmt.Appendf(nil, stepHosts, s.Hostname)
	} else if s.Network == NetworkHost {
		host, err := readHostFile("/etc/hosts")
		if err != nil {
			return nil, err
		}
		if len(host) > 0 {
			hosts = host
		}
	}
	if len(hosts) > 0 && hosts[len(hosts)-1] != '\n' {
		hosts = append(hosts, '\n')
	}
	for _, h := range s.ExtraHosts {
		hosts = fmt.Appendf(hosts, "%s\t%s\n", h.IP, h.Name)
	}
	if s.Hosts != nil {
		hosts = s.Hosts
	}
	if s.Resolv != nil {
		resolv = s.Resolv
	}
	var mounts []Mount
	for _, f := range []struct {
		name string
		data []byte
	}{{"resolv.conf", resolv}, {"hostname", []byte(s.Hostname + "\n")}, {"hosts", hosts}} {
		options := []string{"rbind", "rprivate"}
		if s.AsStep {
			if f.name == "hostname" {
				continue
			}
			options = []string{"rbind", "nosuid", "noexec", "nodev", "ro"}
		}
		if s.ReadOnly {
			options = append(options, "ro")
		}
		path := filepath.Join(s.Bundle, f.name)
		if err := writeScratch(path, f.data, 0o644); err != nil {
			return nil, err
		}
		mounts = append(mounts, Mount{
			Type: "bind", Source: path, Target: "/etc/" + f.name, Options: options,
		})
	}
	return mounts, nil
}

// readHostFile returns a small file of the host; nothing if it is missing.
func readHostFile(path string) ([]byte, error) {
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("take over the host's %s: %w", path, err)
	}
	defer func() { _ = f.Close() }() // only read
	var buf bytes.Buffer
	n, err := io.Copy(&buf, io.LimitReader(f, maxHostFile+1))
	if err != nil {
		return nil, fmt.Errorf("take over the host's %s: %w", path, err)
	}
	if n > maxHostFile {
		return nil, fmt.Errorf("take over the host's %s: larger than %d bytes: %w", path, maxHostFile, errdefs.ErrOutOfRange)
	}
	return buf.Bytes(), nil
}

// writeScratch writes a file that nobody needs after a crash, so it is not synced, whatever the umask.
func writeScratch(path string, data []byte, mode fs.FileMode) error {
	if err := os.WriteFile(path, data, mode); err != nil {
		return fmt.Errorf("fill the bundle: %w", err)
	}
	if err := os.Chmod(path, mode); err != nil {
		return fmt.Errorf("fill the bundle: %w", err)
	}
	return nil
}
