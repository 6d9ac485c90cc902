package engine

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/moby/moby/api/types/blkiodev"
	containertypes "github.com/moby/moby/api/types/container"
	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// TestResourcesOfOldKernels asks for all limits where there are none: each is left out with docker's warning, and nothing fails.
func TestResourcesOfOldKernels(t *testing.T) {
	device := []*blkiodev.ThrottleDevice{{Path: "/dev/null", Rate: 1}}
	r := containertypes.Resources{
		Memory: 64 << 20, MemoryReservation: 32 << 20, MemorySwappiness: new(int64(5)), OomKillDisable: new(true), PidsLimit: new(int64(5)),
		CPUShares: 5, CPUPeriod: 5000, CpusetCpus: "0", BlkioWeight: 100, BlkioWeightDevice: []*blkiodev.WeightDevice{{Path: "/dev/null", Weight: 10}},
		BlkioDeviceReadBps: device, BlkioDeviceWriteBps: device, BlkioDeviceReadIOps: device, BlkioDeviceWriteIOps: device,
	}
	var said []string
	if err := completeResources(&r, kernelLimits{}, func(text string) { said = append(said, text) }); err != nil {
		t.Fatal(err)
	}
	for _, text := range said {
		if !strings.HasPrefix(text, "Your kernel does not support ") || !strings.HasSuffix(text, " discarded.") {
			t.Errorf("warning %q", text)
		}
	}
	if len(said) != 14 {
		t.Errorf("%d warnings:\n%s", len(said), strings.Join(said, "\n"))
	}
	if left, err := linuxResources(r); left != nil || err != nil {
		t.Errorf("left: %+v, %v", left, err)
	}
	// Limits of memory without those of swap, as many machines have them.
	r = containertypes.Resources{Memory: 64 << 20}
	said = nil
	if err := completeResources(&r, kernelLimits{"memory": true}, func(text string) { said = append(said, text) }); err != nil {
		t.Fatal(err)
	}
	want := []string{"Your kernel does not support swap limit capabilities or the cgroup is not mounted. Memory limited without swap."}
	if diff := cmp.Diff(want, said); diff != "" || r.MemorySwap != -1 {
		t.Errorf("swap %d (-want +got):\n%s", r.MemorySwap, diff)
	}
}

func TestLinuxResources(t *testing.T) {
	got, err := linuxResources(containertypes.Resources{
		Memory: 1 << 30, MemorySwap: 2 << 30, NanoCPUs: 1_500_000_000, CPUShares: 512, PidsLimit: new(int64(7)), OomKillDisable: new(false),
		BlkioDeviceReadBps: []*blkiodev.ThrottleDevice{{Path: "/dev/null", Rate: 9}},
	})
	read := specs.LinuxThrottleDevice{Rate: 9}
	read.Major, read.Minor = 1, 3
	want := &specs.LinuxResources{
		Memory:  &specs.LinuxMemory{Limit: new(int64(1 << 30)), Swap: new(int64(2 << 30))},
		CPU:     &specs.LinuxCPU{Quota: new(int64(150_000)), Period: new(uint64(100_000)), Shares: new(uint64(512))},
		Pids:    &specs.LinuxPids{Limit: new(int64(7))},
		BlockIO: &specs.LinuxBlockIO{ThrottleReadBpsDevice: []specs.LinuxThrottleDevice{read}},
	}
	if diff := cmp.Diff(want, got, cmp.AllowUnexported(specs.LinuxThrottleDevice{})); err != nil || diff != "" {
		t.Errorf("%v (-want +got):\n%s", err, diff)
	}
}

func TestParseNumbers(t *testing.T) {
	got, err := parseNumbers("0-2,5")
	if diff := cmp.Diff([]int{0, 1, 2, 5}, got); err != nil || diff != "" {
		t.Errorf("%v (-want +got):\n%s", err, diff)
	}
	for _, bad := range []string{"", "a", "1-", "-1", "3-1", "0-999999999", "1,,2"} {
		if got, err := parseNumbers(bad); err == nil {
			t.Errorf("parseNumbers(%q) = %v", bad, got)
		}
	}
}

func TestParseDeviceRule(t *testing.T) {
	r, err := parseDeviceRule("c 1:* rw")
	if err != nil || *r.Major != 1 || *r.Minor != -1 || r.Access != "rw" || r.Type != "c" {
		t.Errorf("%+v, %v", r, err)
	}
	for _, bad := range []string{"", "x 1:2 r", "c 1 r", "c 1:2 z", "c 99999999999:1 r", "c 1:2"} {
		if _, err := parseDeviceRule(bad); err == nil {
			t.Errorf("parseDeviceRule(%q) is no error", bad)
		}
	}
}
