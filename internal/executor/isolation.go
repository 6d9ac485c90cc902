package executor

import specs "github.com/opencontainers/runtime-spec/specs-go"

// HostNamespace stands for the host's namespace in an Isolation.
const HostNamespace = "host"

// Isolation says in what a container differs from docker's defaults, which the zero value is.
type Isolation struct {
	Domainname string
	Groups     []string // more groups of the process: names of the image's group file, or ids
	Umask      *uint32
	OOMScore   int
	Init       bool // the first process is an init, which starts the command and reaps orphans

	Privileged      bool     // all capabilities and devices, no seccomp profile, nothing masked or read-only
	CapAdd, CapDrop []string // as docker's flags have them: NET_ADMIN, CAP_NET_ADMIN, ALL
	NoNewPrivileges bool
	Seccomp         string   // "" and "builtin" = docker's profile, "unconfined" = none, else a profile of docker's in JSON
	AppArmor        string   // profile; "" = none
	MaskedPaths     []string // nil = docker's
	ReadonlyPaths   []string // nil = docker's
	WritableCgroups bool
	NoShm           bool // there is no /dev/shm

	Resources   *specs.LinuxResources // without devices; nil = none
	Devices     []specs.LinuxDevice
	DeviceRules []specs.LinuxDeviceCgroup // besides docker's
	Sysctls     map[string]string
	Annotations map[string]string // for the runtime

	// Namespaces: "" = one of its own, HostNamespace, or the path of one that is joined. "" of cgroups is the host's where these are
	// of version 1; "private" is one of its own in any case.
	PIDNamespace, IPCNamespace, UTSNamespace, CgroupNamespace string
}

// needsCgroups reports whether the runtime has to make the container's cgroups.
func (s *Spec) needsCgroups() bool {
	return s.Insecure || s.CgroupParent != "" || len(s.Devices) > 0 || s.Isolation.needsCgroups()
}

func (i *Isolation) needsCgroups() bool {
	return i.Privileged || i.WritableCgroups || i.Resources != nil || len(i.Devices)+len(i.DeviceRules) > 0
}
