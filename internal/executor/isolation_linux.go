package executor

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"

	"github.com/moby/profiles/seccomp"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"strake/internal/userns"
)

// apply changes a config with docker's defaults to what an Isolation says, and gives it a seccomp profile.
func (i *Isolation) apply(config *specs.Spec) error {
	config.Process.NoNewPrivileges, config.Process.ApparmorProfile = i.NoNewPrivileges, i.AppArmor
	config.Process.User.Umask = i.Umask
	if i.OOMScore != 0 {
		config.Process.OOMScoreAdj = &i.OOMScore
	}
	config.Annotations = maps.Clone(i.Annotations)
	if i.MaskedPaths != nil {
		config.Linux.MaskedPaths = i.MaskedPaths
	}
	if i.ReadonlyPaths != nil {
		config.Linux.ReadonlyPaths = i.ReadonlyPaths
	}
	i.setSysctls(config)
	i.setNamespaces(config)
	if err := i.setCapabilities(config); err != nil {
		return err
	}
	if err := i.setDevices(config); err != nil {
		return err
	}
	if i.Privileged || i.WritableCgroups {
		for n, m := range config.Mounts {
			if m.Type == "cgroup" || i.Privileged && m.Destination == "/sys" {
				config.Mounts[n].Options = slices.DeleteFunc(slices.Clone(m.Options), func(o string) bool { return o == "ro" })
			}
		}
	}
	return i.setSeccomp(config)
}

// protectedScore is the kernel's for containerd's shims: it takes them when there is almost nothing else.
const protectedScore = -998

// oomScoreFile says how soon the kernel takes this process, and those that it starts, when it wants memory.
const oomScoreFile = "/proc/self/oom_score_adj"

// Protect keeps the kernel, when it wants memory, from taking this process before a container. Containers are not protected with it. It
// does nothing for ordinary users, who may not do so.
func Protect() {
	_ = os.WriteFile(oomScoreFile, []byte(strconv.Itoa(protectedScore)), 0) // it is there
}

// unprotecting is held while this process gives its protection up.
var unprotecting sync.Mutex

// unprotected calls start, which starts a process, while this one is not protected: the other inherits that, and crun 1.8 ignores a score of 0.
func unprotected(start func() error) (err error) {
	unprotecting.Lock()
	defer unprotecting.Unlock()
	if text, err := os.ReadFile(oomScoreFile); err != nil || strings.TrimSpace(string(text)) != strconv.Itoa(protectedScore) {
		return start()
	}
	if err := os.WriteFile(oomScoreFile, []byte("0"), 0); err != nil { // it is there
		return err
	}
	defer Protect()
	return start()
}

// setSysctls sets what belongs to the container's namespaces, and the domain name, for which older runtimes have no other way.
func (i *Isolation) setSysctls(config *specs.Spec) {
	if config.Linux.Sysctl == nil {
		config.Linux.Sysctl = map[string]string{}
	}
	switch {
	case i.Domainname == "" || i.UTSNamespace == HostNamespace:
	case userns.IDs() > 0: // where nobody may write to it
		config.Domainname = i.Domainname
	default:
		config.Linux.Sysctl["kernel.domainname"] = i.Domainname
	}
	maps.Copy(config.Linux.Sysctl, i.Sysctls)
}

// showHosts shows a user's container the host's mounts of what the kernel lets nobody mount but who made the namespace.
func (i *Isolation) showHosts(config *specs.Spec) {
	show := func(kind, source string) {
		config.Mounts = slices.DeleteFunc(config.Mounts, func(m specs.Mount) bool { return m.Type == kind && !exists(source) })
		for n, m := range config.Mounts {
			if m.Type == kind {
				config.Mounts[n] = specs.Mount{Destination: m.Destination, Type: "none", Source: source, Options: []string{"rbind", "nosuid", "noexec", "nodev"}}
			}
		}
	}
	if i.PIDNamespace == HostNamespace {
		show("proc", "/proc")
	}
	if i.IPCNamespace == HostNamespace {
		show("mqueue", "/dev/mqueue")
	}
}

// setNamespaces chooses the namespaces that the container is in.
func (i *Isolation) setNamespaces(config *specs.Spec) {
	set := func(kind specs.LinuxNamespaceType, value string) {
		if value == "" {
			return
		}
		list := slices.DeleteFunc(config.Linux.Namespaces, func(n specs.LinuxNamespace) bool { return n.Type == kind })
		switch value {
		case HostNamespace:
		case "private":
			list = append(list, specs.LinuxNamespace{Type: kind})
		default:
			list = append(list, specs.LinuxNamespace{Type: kind, Path: value})
		}
		config.Linux.Namespaces = list
	}
	set(specs.PIDNamespace, i.PIDNamespace)
	set(specs.IPCNamespace, i.IPCNamespace)
	set(specs.UTSNamespace, i.UTSNamespace)
	set(specs.CgroupNamespace, i.CgroupNamespace)
	if userns.IDs() > 0 {
		i.showHosts(config)
	}
	if i.UTSNamespace == HostNamespace {
		config.Hostname = ""
	}
}

// setCapabilities leaves the inheritable and the ambient ones empty, as docker does since CVE-2022-24769.
func (i *Isolation) setCapabilities(config *specs.Spec) error {
	if !i.Privileged && len(i.CapAdd)+len(i.CapDrop) == 0 {
		return nil
	}
	all, err := ownCapabilities()
	if err != nil {
		return err
	}
	list := all
	if !i.Privileged {
		if list, err = Capabilities(all, i.CapAdd, i.CapDrop); err != nil {
			return err
		}
	}
	config.Process.Capabilities = &specs.LinuxCapabilities{Bounding: list, Effective: list, Permitted: list}
	return nil
}

// setDevices gives the container its devices, and all of the host's if it is privileged.
func (i *Isolation) setDevices(config *specs.Spec) error {
	resources := config.Linux.Resources
	resources.Devices = append(resources.Devices, i.DeviceRules...)
	config.Linux.Devices = append(config.Linux.Devices, i.Devices...)
	if !i.Privileged {
		return nil
	}
	config.Linux.MaskedPaths, config.Linux.ReadonlyPaths = i.MaskedPaths, i.ReadonlyPaths
	resources.Devices = []specs.LinuxDeviceCgroup{{Allow: true, Access: "rwm"}}
	host, err := DevicesBelow("/dev", "/dev")
	if err != nil {
		return err
	}
	for _, d := range host {
		if !slices.ContainsFunc(config.Linux.Devices, func(own specs.LinuxDevice) bool { return own.Path == d.Path }) {
			config.Linux.Devices = append(config.Linux.Devices, d)
		}
	}
	return nil
}

// DevicesBelow returns the devices of the host below a directory, or the one at a path, as target has them in a container. What belongs to
// terminals, and file systems that lie in /dev, are left out, as docker does.
func DevicesBelow(host, target string) ([]specs.LinuxDevice, error) {
	var list []specs.LinuxDevice
	err := filepath.WalkDir(host, func(path string, e fs.DirEntry, err error) error {
		if err != nil {
			if errors.Is(err, fs.ErrNotExist) && path != host {
				return nil // gone meanwhile
			}
			return err
		}
		if e.IsDir() {
			switch path {
			case "/dev/pts", "/dev/shm", "/dev/fd", "/dev/mqueue", "/dev/.lxc", "/dev/.lxd-mounts", "/dev/.udev":
				return fs.SkipDir
			}
			return nil
		}
		if path == "/dev/console" || e.Type()&fs.ModeDevice == 0 {
			return nil
		}
		d, err := device(path)
		if err != nil {
			if errors.Is(err, fs.ErrNotExist) {
				return nil
			}
			return err
		}
		d.Path = filepath.Join(target, path[len(host):])
		list = append(list, d)
		return nil
	})
	return list, err
}

// device describes a device of the host.
func device(path string) (specs.LinuxDevice, error) {
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil {
		return specs.LinuxDevice{}, &fs.PathError{Op: "stat", Path: path, Err: err}
	}
	d := specs.LinuxDevice{
		Path: path, Major: int64(unix.Major(st.Rdev)), Minor: int64(unix.Minor(st.Rdev)),
		FileMode: new(os.FileMode(st.Mode & 0o7777)), UID: &st.Uid, GID: &st.Gid,
	}
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFCHR:
		d.Type = "c"
	case unix.S_IFBLK:
		d.Type = "b"
	default:
		return d, fmt.Errorf("%s is not a device node", path)
	}
	if userns.IDs() > 0 { // the runtime shows the host's file
		d.UID, d.GID, d.FileMode = nil, nil, nil
	}
	return d, nil
}

// setSeccomp gives the container its profile.
func (i *Isolation) setSeccomp(config *specs.Spec) (err error) {
	var profile *specs.LinuxSeccomp
	switch {
	case i.Seccomp == "unconfined" || i.Privileged && i.Seccomp == "":
		return nil
	case i.Seccomp == "" || i.Seccomp == "builtin":
		if profile, err = seccomp.GetDefaultProfile(config); err == nil {
			// Kernels have the x32 system calls switched off. Without rules for them, which forbids them, runc starts 4 ms sooner.
			profile.Architectures = slices.DeleteFunc(profile.Architectures, func(a specs.Arch) bool { return a == specs.ArchX32 })
		}
	default:
		profile, err = seccomp.LoadProfile(i.Seccomp, config)
	}
	if err != nil {
		return fmt.Errorf("make the seccomp profile: %w", err)
	}
	config.Linux.Seccomp = profile
	return nil
}
