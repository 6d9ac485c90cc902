package engine

import (
	"cmp"
	"context"
	"fmt"

	"github.com/containerd/errdefs"
	containertypes "github.com/moby/moby/api/types/container"

	"strake/internal/container"
)

// UpdateContainer changes limits of a container, at once where it runs, and its restart policy. What is zero stays as it is. Warn is
// told what a user should know.
func UpdateContainer(ctx context.Context, env *Env, ref string, update containertypes.UpdateConfig, warn func(string)) error {
	table := containers(env)
	c, err := table.Get(ctx, ref)
	if err != nil {
		return err
	}
	cannot := func(err error) error {
		return messageError{fmt.Sprintf("Cannot update container %s: %v", c.ID, err), kindOf(err)}
	}
	if update.RestartPolicy.Name != "" {
		if err := containertypes.ValidateRestartPolicy(update.RestartPolicy); err != nil {
			return messageError{err.Error(), errdefs.ErrInvalidArgument}
		}
		if c.Spec.HostConfig.AutoRemove && !update.RestartPolicy.IsNone() {
			return cannot(messageError{"Restart policy cannot be updated because AutoRemove is enabled for the container", errdefs.ErrInvalidArgument})
		}
	}
	merged := c.Spec.HostConfig.Resources
	if err := mergeResources(&merged, update.Resources); err != nil {
		return cannot(err)
	}
	if err := completeResources(&merged, limitsOf(c), warn); err != nil {
		return err
	}
	limits, err := linuxResources(merged)
	if err != nil {
		return err
	}
	if c.State.Running() && c.State.Pid > 0 && limits != nil {
		_, err := table.Call(ctx, c.ID, container.Request{Op: container.OpUpdate, Resources: limits})
		if err != nil && !errdefs.IsUnavailable(err) {
			return cannot(err)
		}
	}
	err = table.SetSpec(ctx, c.ID, func(s *container.Spec) error {
		s.HostConfig.Resources = merged
		if update.RestartPolicy.Name != "" {
			s.HostConfig.RestartPolicy = update.RestartPolicy
		}
		return nil
	})
	if err != nil {
		return err
	}
	return reload(ctx, table, c)
}

// kindOf is an error's errdefs kind.
func kindOf(err error) error {
	switch {
	case errdefs.IsInvalidArgument(err):
		return errdefs.ErrInvalidArgument
	case errdefs.IsConflict(err):
		return errdefs.ErrConflict
	}
	return errdefs.ErrUnknown
}

// mergeResources sets in old what is set in more, and refuses what docker refuses.
func mergeResources(old *containertypes.Resources, more containertypes.Resources) error {
	invalid := func(text string) error { return messageError{text, errdefs.ErrInvalidArgument} }
	switch {
	case more.NanoCPUs > 0 && old.CPUPeriod > 0:
		return invalid("Conflicting options: Nano CPUs cannot be updated as CPU Period has already been set")
	case more.NanoCPUs > 0 && old.CPUQuota > 0:
		return invalid("Conflicting options: Nano CPUs cannot be updated as CPU Quota has already been set")
	case more.CPUPeriod > 0 && old.NanoCPUs > 0:
		return invalid("Conflicting options: CPU Period cannot be updated as NanoCPUs has already been set")
	case more.CPUQuota > 0 && old.NanoCPUs > 0:
		return invalid("Conflicting options: CPU Quota cannot be updated as NanoCPUs has already been set")
	case more.Memory != 0 && more.MemorySwap == 0 && old.MemorySwap > 0 && more.Memory > old.MemorySwap:
		return invalid("Memory limit should be smaller than already set memoryswap limit, update the memoryswap at the same time")
	}
	for _, f := range []struct{ to, from *int64 }{
		{&old.CPUShares, &more.CPUShares},
		{&old.NanoCPUs, &more.NanoCPUs},
		{&old.CPUPeriod, &more.CPUPeriod},
		{&old.CPUQuota, &more.CPUQuota},
		{&old.CPURealtimePeriod, &more.CPURealtimePeriod},
		{&old.CPURealtimeRuntime, &more.CPURealtimeRuntime},
		{&old.Memory, &more.Memory},
		{&old.MemorySwap, &more.MemorySwap},
		{&old.MemoryReservation, &more.MemoryReservation},
	} {
		if *f.from != 0 {
			*f.to = *f.from
		}
	}
	old.CpusetCpus, old.CpusetMems = cmp.Or(more.CpusetCpus, old.CpusetCpus), cmp.Or(more.CpusetMems, old.CpusetMems)
	if more.BlkioWeight != 0 {
		old.BlkioWeight = more.BlkioWeight
	}
	if more.PidsLimit != nil {
		old.PidsLimit = more.PidsLimit
	}
	return nil
}
