package engine

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	containertypes "github.com/moby/moby/api/types/container"

	"strake/internal/executor"
)

// gpuKinds are what vendors call their GPUs in CDI, by the driver that --gpus may name.
var gpuKinds = []struct{ driver, kind string }{{"nvidia", "nvidia.com/gpu"}, {"amd", "amd.com/gpu"}}

// checkDeviceRequests refuses what no driver gives: there is CDI, and GPUs by it.
func checkDeviceRequests(requests []containertypes.DeviceRequest) error {
	for _, r := range requests {
		if r.Driver != "cdi" && (!wantsGPU(r) || len(kindsOf(r.Driver)) == 0) {
			return noDriver(r)
		}
	}
	return nil
}

func wantsGPU(r containertypes.DeviceRequest) bool {
	return slices.ContainsFunc(r.Capabilities, func(all []string) bool { return slices.Contains(all, "gpu") })
}

// kindsOf are the kinds of GPUs that a driver gives; "" is any.
func kindsOf(driver string) (kinds []string) {
	for _, known := range gpuKinds {
		if driver == "" || driver == known.driver || driver == known.driver+".cdi" {
			kinds = append(kinds, known.kind)
		}
	}
	return kinds
}

func noDriver(r containertypes.DeviceRequest) error {
	return invalidText("could not select device driver %q with capabilities: %v", r.Driver, r.Capabilities)
}

// requestedDevices are the names by CDI of the devices that --gpus and --device VENDOR/CLASS=NAME ask for.
func requestedDevices(requests []containertypes.DeviceRequest) (names []string, err error) {
	if len(requests) == 0 {
		return nil, nil
	}
	list, broken := executor.Devices()
	for _, r := range requests {
		if r.Driver == "cdi" {
			names = append(names, r.DeviceIDs...)
			continue
		}
		kinds := slices.DeleteFunc(kindsOf(r.Driver), func(kind string) bool { return len(executor.FindDevices(list, kind)) == 0 })
		if len(kinds) == 0 {
			return nil, withBroken(noDriver(r), broken)
		}
		names = append(names, gpus(kinds[0], r)...)
	}
	var missing []string
	for _, name := range names {
		if !slices.ContainsFunc(list, func(d executor.Device) bool { return d.Name == name }) {
			missing = append(missing, name)
		}
	}
	if len(missing) > 0 {
		return nil, withBroken(invalidText("CDI device injection failed: unresolvable CDI devices %s", strings.Join(missing, ", ")), broken)
	}
	return names, nil
}

// withBroken is an error with the specifications that could not be read, which may be why.
func withBroken(err, broken error) error {
	if broken == nil {
		return err
	}
	return fmt.Errorf("%w; %w", err, broken)
}

// gpus are the names of the GPUs of a kind: those that were named, so many of them, or all.
func gpus(kind string, r containertypes.DeviceRequest) (names []string) {
	ids := slices.Clone(r.DeviceIDs)
	if r.Count < 0 {
		ids = append(ids, "all")
	}
	for i := range r.Count {
		ids = append(ids, strconv.Itoa(i))
	}
	for _, id := range ids {
		names = append(names, fmt.Sprintf("%s=%s", kind, id))
	}
	return names
}
