package engine

import (
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/blkiodev"
	containertypes "github.com/moby/moby/api/types/container"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"strake/internal/executor"
)

// cgroupRoot is where cgroups are mounted by convention.
const cgroupRoot = "/sys/fs/cgroup"

// minMemory is the least memory that docker lets a container be limited to.
const minMemory = 6 << 20

// kernelLimits are the limits that the machine's cgroups have, by our names.
type kernelLimits map[string]bool

// readKernelLimits looks at the cgroups, of either version, that this user can make.
func readKernelLimits() kernelLimits { return limitsWith(executor.UnifiedControllers()) }

// limitsOf are those that a container has which runs: a command elsewhere may be able to make other cgroups, or none.
func limitsOf(c *Container) kernelLimits {
	if c.State.Running() && c.State.Pid > 0 {
		if controllers, ok := executor.ControllersOf(c.State.Pid); ok {
			return limitsWith(controllers)
		}
	}
	return readKernelLimits()
}

// limitsWith are the limits of cgroups with these controllers where they are of version 2 alone.
func limitsWith(controllers []string) kernelLimits {
	k := kernelLimits{}
	if executor.UnifiedCgroups() {
		of := map[string][]string{
			"memory": {"memory", "swap", "reservation"}, "cpu": {"shares", "cfs"}, "cpuset": {"cpuset"}, "pids": {"pids"},
			"io": {"weight", "weight device", "read bps", "write bps", "read iops", "write iops"},
		}
		for _, controller := range controllers {
			for _, limit := range of[controller] {
				k[limit] = true
			}
		}
		return k
	}
	for limit, file := range map[string]string{
		"memory": "memory/memory.limit_in_bytes", "swap": "memory/memory.memsw.limit_in_bytes", "reservation": "memory/memory.soft_limit_in_bytes",
		"swappiness": "memory/memory.swappiness", "oom": "memory/memory.oom_control", "shares": "cpu/cpu.shares", "cfs": "cpu/cpu.cfs_quota_us", "cpuset": "cpuset/cpuset.cpus",
		"pids": "pids/cgroup.procs", "weight": "blkio/blkio.weight", "weight device": "blkio/blkio.weight_device",
		"read bps": "blkio/blkio.throttle.read_bps_device", "write bps": "blkio/blkio.throttle.write_bps_device",
		"read iops": "blkio/blkio.throttle.read_iops_device", "write iops": "blkio/blkio.throttle.write_iops_device",
	} {
		path := filepath.Join(cgroupRoot, file)
		_, err := os.Stat(path)
		k[limit] = err == nil && unix.Access(filepath.Dir(path), unix.W_OK) == nil
	}
	return k
}

// any reports whether there is a limit at all: whether containers have cgroups.
func (k kernelLimits) any() bool {
	return slices.Contains(slices.Collect(maps.Values(k)), true)
}

func invalidText(format string, args ...any) error {
	return messageError{fmt.Sprintf(format, args...), errdefs.ErrInvalidArgument}
}

// completeResources refuses impossible limits, and leaves out those that the machine does not have, with docker's words to warn.
func completeResources(r *containertypes.Resources, k kernelLimits, warn func(string)) error {
	for _, check := range []func(*containertypes.Resources, kernelLimits, func(string)) error{completeMemory, completeCPU, completeBlkio} {
		if err := check(r, k, warn); err != nil {
			return err
		}
	}
	if r.PidsLimit != nil && !k["pids"] {
		if *r.PidsLimit > 0 {
			warn("Your kernel does not support PIDs limit capabilities or the cgroup is not mounted. PIDs limit discarded.")
		}
		r.PidsLimit = nil
	}
	return nil
}

func completeMemory(r *containertypes.Resources, k kernelLimits, warn func(string)) error {
	if r.Memory > 0 && r.MemorySwap == 0 {
		r.MemorySwap = 2 * r.Memory
	}
	if r.MemorySwappiness != nil && *r.MemorySwappiness == -1 {
		r.MemorySwappiness = nil
	}
	if r.Memory != 0 && r.Memory < minMemory {
		return invalidText("Minimum memory limit allowed is 6MB")
	}
	if r.Memory > 0 && !k["memory"] {
		warn("Your kernel does not support memory limit capabilities or the cgroup is not mounted. Limitation discarded.")
		r.Memory, r.MemorySwap = 0, -1
	}
	if r.Memory > 0 && r.MemorySwap != -1 && !k["swap"] {
		warn("Your kernel does not support swap limit capabilities or the cgroup is not mounted. Memory limited without swap.")
		r.MemorySwap = -1
	}
	switch {
	case r.Memory > 0 && r.MemorySwap > 0 && r.MemorySwap < r.Memory:
		return invalidText("Minimum memoryswap limit should be larger than memory limit, see usage")
	case r.Memory == 0 && r.MemorySwap > 0:
		return invalidText("You should always set the Memory limit when using Memoryswap limit, see usage")
	}
	if r.MemorySwappiness != nil && !k["swappiness"] {
		warn("Your kernel does not support memory swappiness capabilities or the cgroup is not mounted. Memory swappiness discarded.")
		r.MemorySwappiness = nil
	}
	if r.MemoryReservation > 0 && !k["reservation"] {
		warn("Your kernel does not support memory soft limit capabilities or the cgroup is not mounted. Limitation discarded.")
		r.MemoryReservation = 0
	}
	switch {
	case r.MemorySwappiness != nil && (*r.MemorySwappiness < 0 || *r.MemorySwappiness > 100):
		return invalidText("Invalid value: %v, valid memory swappiness range is 0-100", *r.MemorySwappiness)
	case r.MemoryReservation > 0 && r.MemoryReservation < minMemory:
		return invalidText("Minimum memory reservation allowed is 6MB")
	case r.Memory > 0 && r.MemoryReservation > 0 && r.Memory < r.MemoryReservation:
		return invalidText("Minimum memory limit can not be less than memory reservation limit, see usage")
	}
	if r.OomKillDisable != nil && *r.OomKillDisable {
		if !k["oom"] {
			warn("Your kernel does not support OomKillDisable. OomKillDisable discarded.")
			r.OomKillDisable = nil
		} else if r.Memory == 0 {
			warn("OOM killer is disabled for the container, but no memory limit is set, this can result in the system running out of resources.")
		}
	}
	return nil
}

func completeCPU(r *containertypes.Resources, k kernelLimits, warn func(string)) error {
	switch n := runtime.NumCPU(); {
	case r.NanoCPUs > 0 && r.CPUPeriod > 0:
		return invalidText("Conflicting options: Nano CPUs and CPU Period cannot both be set")
	case r.NanoCPUs > 0 && r.CPUQuota > 0:
		return invalidText("Conflicting options: Nano CPUs and CPU Quota cannot both be set")
	case r.NanoCPUs > 0 && !k["cfs"]:
		return invalidText("NanoCPUs can not be set, as your kernel does not support CPU CFS scheduler or the cgroup is not mounted")
	case r.NanoCPUs < 0 || r.NanoCPUs > int64(n)*1e9:
		return invalidText("range of CPUs is from 0.01 to %[1]d.00, as there are only %[1]d CPUs available", n)
	case r.CPUShares < 0:
		return invalidText("invalid CPU shares (%d): value must be a positive integer", r.CPUShares)
	}
	if r.CPUShares > 0 && !k["shares"] {
		warn("Your kernel does not support CPU shares or the cgroup is not mounted. Shares discarded.")
		r.CPUShares = 0
	}
	if (r.CPUPeriod != 0 || r.CPUQuota != 0) && !k["cfs"] {
		warn("Your kernel does not support CPU CFS scheduler. CPU period/quota discarded.")
		r.CPUPeriod, r.CPUQuota = 0, 0
	}
	if r.CPUPeriod != 0 && (r.CPUPeriod < 1000 || r.CPUPeriod > 1_000_000) {
		return invalidText("CPU cfs period can not be less than 1ms (i.e. 1000) or larger than 1s (i.e. 1000000)")
	}
	if r.CPUQuota > 0 && r.CPUQuota < 1000 {
		return invalidText("CPU cfs quota can not be less than 1ms (i.e. 1000)")
	}
	if (r.CpusetCpus != "" || r.CpusetMems != "") && !k["cpuset"] {
		warn("Your kernel does not support cpuset or the cgroup is not mounted. Cpuset discarded.")
		r.CpusetCpus, r.CpusetMems = "", ""
	}
	for _, set := range []struct{ wanted, file, short, long string }{
		{r.CpusetCpus, "cpuset.cpus", "cpuset cpus", "CPUs"}, {r.CpusetMems, "cpuset.mems", "cpuset mems", "memory nodes"},
	} {
		if set.wanted == "" {
			continue
		}
		wanted, err := parseNumbers(set.wanted)
		if err != nil {
			return invalidText("Invalid value %s for %s: %v", set.wanted, set.short, err)
		}
		text, there := availableSet(set.file)
		if slices.ContainsFunc(wanted, func(n int) bool { return !slices.Contains(there, n) }) {
			return invalidText("Requested %s are not available - requested %s, available: %s", set.long, set.wanted, text)
		}
	}
	return nil
}

// availableSet reads which processors or memory nodes there are.
func availableSet(file string) (text string, numbers []int) {
	for _, path := range []string{file + ".effective", "cpuset/" + file} {
		if b, err := os.ReadFile(filepath.Join(cgroupRoot, path)); err == nil {
			text = strings.TrimSpace(string(b))
			if numbers, err = parseNumbers(text); err == nil {
				return text, numbers
			}
		}
	}
	return text, nil
}

// maxNumber bounds the numbers of processors and memory nodes.
const maxNumber = 8192

// parseNumbers reads a list as 0-3,7.
func parseNumbers(v string) ([]int, error) {
	var list []int
	for part := range strings.SplitSeq(v, ",") {
		first, last, isRange := strings.Cut(part, "-")
		low, err := strconv.Atoi(first)
		high := low
		if err == nil && isRange {
			high, err = strconv.Atoi(last)
		}
		if err != nil || low < 0 || high < low || high > maxNumber {
			return nil, fmt.Errorf("invalid format: %s", v)
		}
		for n := low; n <= high; n++ {
			list = append(list, n)
		}
	}
	return list, nil
}

func completeBlkio(r *containertypes.Resources, k kernelLimits, warn func(string)) error {
	if r.BlkioWeight > 0 && !k["weight"] {
		warn("Your kernel does not support Block I/O weight or the cgroup is not mounted. Weight discarded.")
		r.BlkioWeight = 0
	}
	if r.BlkioWeight > 0 && (r.BlkioWeight < 10 || r.BlkioWeight > 1000) {
		return invalidText("Range of blkio weight is from 10 to 1000")
	}
	if len(r.BlkioWeightDevice) > 0 && !k["weight device"] {
		warn("Your kernel does not support Block I/O weight_device or the cgroup is not mounted. Weight-device discarded.")
		r.BlkioWeightDevice = nil
	}
	for _, rate := range []struct {
		limit   string
		devices *[]*blkiodev.ThrottleDevice
		words   [2]string
	}{
		{"read bps", &r.BlkioDeviceReadBps, [2]string{"BPS Block I/O read limit", "Block I/O BPS read limit"}},
		{"write bps", &r.BlkioDeviceWriteBps, [2]string{"BPS Block I/O write limit", "Block I/O BPS write limit"}},
		{"read iops", &r.BlkioDeviceReadIOps, [2]string{"IOPS Block read limit", "Block I/O IOPS read limit"}},
		{"write iops", &r.BlkioDeviceWriteIOps, [2]string{"IOPS Block write limit", "Block I/O IOPS write limit"}},
	} {
		if len(*rate.devices) > 0 && !k[rate.limit] {
			warn(fmt.Sprintf("Your kernel does not support %s or the cgroup is not mounted. %s discarded.", rate.words[0], rate.words[1]))
			*rate.devices = nil
		}
	}
	return nil
}

// linuxResources is what the runtime is to limit, nil for nothing.
func linuxResources(r containertypes.Resources) (*specs.LinuxResources, error) {
	var out specs.LinuxResources
	positive := func(v int64) *int64 {
		if v <= 0 {
			return nil
		}
		return &v
	}
	memory := specs.LinuxMemory{Limit: positive(r.Memory), Reservation: positive(r.MemoryReservation), Swap: positive(r.MemorySwap)}
	if r.MemorySwappiness != nil {
		memory.Swappiness = new(uint64(*r.MemorySwappiness))
	}
	if r.OomKillDisable != nil && *r.OomKillDisable {
		memory.DisableOOMKiller = r.OomKillDisable
	}
	if memory != (specs.LinuxMemory{}) {
		out.Memory = &memory
	}
	out.CPU = linuxCPU(r)
	if r.PidsLimit != nil && *r.PidsLimit > 0 {
		out.Pids = &specs.LinuxPids{Limit: r.PidsLimit}
	}
	blkio, err := linuxBlkio(r)
	if err != nil {
		return nil, err
	}
	out.BlockIO = blkio
	if out.Memory == nil && out.CPU == nil && out.Pids == nil && out.BlockIO == nil {
		return nil, nil
	}
	return &out, nil
}

func linuxCPU(r containertypes.Resources) *specs.LinuxCPU {
	cpu := specs.LinuxCPU{Cpus: r.CpusetCpus, Mems: r.CpusetMems}
	if r.CPUShares > 0 {
		cpu.Shares = new(uint64(r.CPUShares))
	}
	if r.NanoCPUs > 0 {
		const period = 100_000 // microseconds
		cpu.Period, cpu.Quota = new(uint64(period)), new(r.NanoCPUs*period/1e9)
	}
	if r.CPUPeriod != 0 {
		cpu.Period = new(uint64(r.CPUPeriod))
	}
	if r.CPUQuota != 0 {
		cpu.Quota = &r.CPUQuota
	}
	if r.CPURealtimePeriod != 0 {
		cpu.RealtimePeriod = new(uint64(r.CPURealtimePeriod))
	}
	if r.CPURealtimeRuntime != 0 {
		cpu.RealtimeRuntime = &r.CPURealtimeRuntime
	}
	if cpu == (specs.LinuxCPU{}) {
		return nil
	}
	return &cpu
}

func linuxBlkio(r containertypes.Resources) (*specs.LinuxBlockIO, error) {
	var out specs.LinuxBlockIO
	set := false
	if r.BlkioWeight > 0 {
		out.Weight, set = &r.BlkioWeight, true
	}
	for _, w := range r.BlkioWeightDevice {
		major, minor, err := deviceNumber(w.Path)
		if err != nil {
			return nil, err
		}
		d := specs.LinuxWeightDevice{Weight: &w.Weight}
		d.Major, d.Minor = major, minor
		out.WeightDevice, set = append(out.WeightDevice, d), true
	}
	for _, rate := range []struct {
		devices []*blkiodev.ThrottleDevice
		to      *[]specs.LinuxThrottleDevice
	}{
		{r.BlkioDeviceReadBps, &out.ThrottleReadBpsDevice},
		{r.BlkioDeviceWriteBps, &out.ThrottleWriteBpsDevice},
		{r.BlkioDeviceReadIOps, &out.ThrottleReadIOPSDevice},
		{r.BlkioDeviceWriteIOps, &out.ThrottleWriteIOPSDevice},
	} {
		for _, device := range rate.devices {
			major, minor, err := deviceNumber(device.Path)
			if err != nil {
				return nil, err
			}
			d := specs.LinuxThrottleDevice{Rate: device.Rate}
			d.Major, d.Minor = major, minor
			*rate.to, set = append(*rate.to, d), true
		}
	}
	if !set {
		return nil, nil
	}
	return &out, nil
}

func deviceNumber(path string) (major, minor int64, err error) {
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil {
		return 0, 0, &fs.PathError{Op: "stat", Path: path, Err: err}
	}
	return int64(unix.Major(st.Rdev)), int64(unix.Minor(st.Rdev)), nil
}
