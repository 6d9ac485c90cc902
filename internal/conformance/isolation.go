package conformance

import (
	"os"
	"strings"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"strake/internal/executor"
	"strake/internal/userns"
	"strake/internal/usertest"
)

// testIsolation looks at each part of an Isolation from inside of a container.
func testIsolation(t *testing.T, b *box) {
	b.write(t, "etc/group", "audio:x:29:\n", 0o644)
	const profile = `{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"names":["mkdir","mkdirat"],"action":"SCMP_ACT_ERRNO"}]}`
	for _, c := range []struct {
		name      string
		isolation executor.Isolation
		script    string
		want      string
	}{
		{
			"defaults",
			executor.Isolation{},
			"grep -E '^(Cap(Inh|Eff|Amb)|NoNewPrivs|Seccomp):' /proc/self/status | tr -d '\t' | tr '\n' ' '",
			"CapInh:0000000000000000 CapEff:00000000a80425fb CapAmb:0000000000000000 NoNewPrivs:0 Seccomp:2",
		},
		{
			"capabilities",
			executor.Isolation{CapAdd: []string{"net_admin", "CAP_SYS_TIME"}, CapDrop: []string{"MKNOD"}},
			"grep CapBnd: /proc/self/status | cut -f2", "00000000a20435fb",
		},
		{"no capabilities", executor.Isolation{CapDrop: []string{"ALL"}}, "grep -E 'CapEff|CapBnd' /proc/self/status | cut -f2 | sort -u", "0000000000000000"},
		{"one capability", executor.Isolation{CapDrop: []string{"all"}, CapAdd: []string{"CHOWN"}}, "grep CapEff /proc/self/status | cut -f2", "0000000000000001"},
		{"no new privileges", executor.Isolation{NoNewPrivileges: true}, "grep NoNewPrivs /proc/self/status | cut -f2", "1"},
		{"no seccomp", executor.Isolation{Seccomp: "unconfined"}, "grep Seccomp: /proc/self/status | cut -f2", "0"},
		{"own seccomp", executor.Isolation{Seccomp: profile}, "mkdir /x 2>/dev/null || echo no", "no"},
		{
			"privileged",
			executor.Isolation{Privileged: true},
			"grep Seccomp: /proc/self/status | cut -f2; ls /dev/mem /dev/fuse /dev/loop-control 2>/dev/null | head -1 | wc -l; : > /proc/sys/kernel/hostname && echo w; mount | grep -c ' /sys .*rw,'", "0\n1\nw\n1",
		},
		{"groups", executor.Isolation{Groups: []string{"audio", "77"}}, "id -G", "0 29 77"},
		{"umask", executor.Isolation{Umask: new(uint32(0o027))}, "umask", "0027"},
		{"oom score", executor.Isolation{OOMScore: 321}, "cat /proc/self/oom_score_adj", "321"},
		{"domain name", executor.Isolation{Domainname: "example"}, "cat /proc/sys/kernel/domainname", "example"},
		{
			"sysctls",
			executor.Isolation{Sysctls: map[string]string{"kernel.shm_rmid_forced": "1", "net.ipv4.ip_forward": "1"}},
			"cat /proc/sys/kernel/shm_rmid_forced /proc/sys/net/ipv4/ip_forward", "1\n1",
		},
		{
			"masked",
			executor.Isolation{MaskedPaths: []string{"/etc/group"}, ReadonlyPaths: []string{"/etc"}},
			"wc -c < /etc/group; (: > /etc/new) 2>/dev/null || echo ro", "0\nro",
		},
		{"device", executor.Isolation{
			Devices:     []specs.LinuxDevice{{Path: "/dev/deep/loop", Type: "c", Major: 10, Minor: 237}},
			DeviceRules: []specs.LinuxDeviceCgroup{{Allow: true, Type: "c", Major: new(int64(10)), Minor: new(int64(237)), Access: "r"}},
		}, "(: < /dev/deep/loop) && echo r; (: > /dev/deep/loop) 2>/dev/null || echo no", "r\nno"},
		{
			"host's namespaces",
			executor.Isolation{PIDNamespace: executor.HostNamespace, IPCNamespace: executor.HostNamespace, UTSNamespace: executor.HostNamespace},
			"for n in pid ipc uts; do readlink /proc/self/ns/$n; done", links(t, "pid", "ipc", "uts"),
		},
		{
			"joined namespaces",
			executor.Isolation{PIDNamespace: "/proc/self/ns/pid", IPCNamespace: "/proc/self/ns/ipc"},
			"for n in pid ipc; do readlink /proc/self/ns/$n; done", links(t, "pid", "ipc"),
		},
		{"init", executor.Isolation{Init: true}, "tr '\\0' ' ' < /proc/1/cmdline | cut -c1-20", "/sbin/docker-init --"},
	} {
		if !userns.IsRoot() {
			switch c.name {
			case "privileged": // the kernel keeps its settings for root of the machine
				c.script = strings.Replace(c.script, "/proc/sys/kernel/hostname", "/proc/sys/net/ipv4/ip_forward", 1)
			case "device", "domain name", "joined namespaces": // devices are the host's, and not all are there; runc before 1.2 sets no name
				continue
			}
		}
		if c.name == "groups" && userns.IDs() == 1 {
			continue // the kernel lets a user with one id set none
		}
		spec := b.spec(c.script)
		spec.Isolation = c.isolation
		if got := b.out(t, spec); got != c.want {
			t.Errorf("%s: %q, want %q", c.name, got, c.want)
		}
	}
}

// links are the names of our own namespaces.
func links(t *testing.T, names ...string) string {
	t.Helper()
	list := make([]string, len(names))
	for i, name := range names {
		link, err := os.Readlink("/proc/self/ns/" + name)
		must(t, err)
		list[i] = link
	}
	return strings.Join(list, "\n")
}

// testResources reads the limits of a container from its cgroups, of whichever version.
func testResources(t *testing.T, b *box) {
	usertest.NeedRoot(t, "to make cgroups")
	limit, shares, quota, period, pids := int64(64<<20), uint64(512), int64(50_000), uint64(100_000), int64(33)
	spec := b.spec(`d=/sys/fs/cgroup
for f in $d/memory/memory.limit_in_bytes $d/memory.max; do [ -e $f ] && cat $f; done
for f in $d/cpu/cpu.cfs_quota_us $d/cpu.max; do [ -e $f ] && cut -d' ' -f1 $f; done
for f in $d/pids/pids.max $d/pids.max; do [ -e $f ] && cat $f; done
for f in $d/cpuset/cpuset.cpus $d/cpuset.cpus; do [ -e $f ] && cat $f; done; true`)
	spec.Isolation.Resources = &specs.LinuxResources{
		Memory: &specs.LinuxMemory{Limit: &limit}, CPU: &specs.LinuxCPU{Shares: &shares, Quota: &quota, Period: &period, Cpus: "0"},
		Pids: &specs.LinuxPids{Limit: &pids},
	}
	if got, want := b.out(t, spec), "67108864\n50000\n33\n0"; got != want {
		t.Errorf("limits: %q, want %q", got, want)
	}
	// Somebody who needs more than the limit dies.
	spec = b.spec("head -c 100000000 /dev/zero | tail -c 100000000 | wc -c")
	spec.Args[2] = "x=$(head -c 100000000 /dev/zero | tr '\\0' x); echo ${#x}"
	spec.Isolation.Resources = &specs.LinuxResources{Memory: &specs.LinuxMemory{Limit: &limit}}
	if code, err := b.Run(t.Context(), spec); code == 0 || err != nil {
		t.Errorf("beyond the memory: exit code %d, %v", code, err)
	}
}
