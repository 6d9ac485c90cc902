package cli

import (
	"context"
	"errors"
	"fmt"

	"github.com/docker/go-units"
	"github.com/moby/moby/api/types/container"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"strake/internal/engine"
)

type updateOptions struct {
	refs    []string
	config  container.UpdateConfig
	restart string
	pids    int64
}

func newUpdateCommand(s *session) *cobra.Command {
	var opts updateOptions
	cmd := &cobra.Command{
		Use:   "update [OPTIONS] CONTAINER [CONTAINER...]",
		Short: "Update configuration of one or more containers",
		Args:  argsBetween(1, -1),
		RunE: func(cmd *cobra.Command, args []string) error {
			opts.refs = args
			if cmd.Flags().NFlag() == 0 {
				return errors.New("you must provide one or more flags when using this command")
			}
			if cmd.Flags().Changed("pids-limit") {
				opts.config.PidsLimit = &opts.pids
			}
			return runUpdate(cmd.Context(), s, opts)
		},
		Annotations:           map[string]string{aliasesKey: "strake container update, strake update"},
		DisableFlagsInUseLine: true,
	}
	opts.add(cmd.Flags())
	return cmd
}

func (o *updateOptions) add(flags *pflag.FlagSet) {
	r := &o.config.Resources
	size := func(name, short, about string, place *int64) {
		each(flags, "bytes", name, short, about, func(v string) (err error) {
			*place, err = units.RAMInBytes(v)
			return err
		})
	}
	flags.Uint16Var(&r.BlkioWeight, "blkio-weight", 0, `Block IO (relative weight), between 10 and 1000, or 0 to disable (default 0)`)
	flags.Int64Var(&r.CPUPeriod, "cpu-period", 0, "Limit CPU CFS (Completely Fair Scheduler) period")
	flags.Int64Var(&r.CPUQuota, "cpu-quota", 0, "Limit CPU CFS (Completely Fair Scheduler) quota")
	flags.Int64Var(&r.CPURealtimePeriod, "cpu-rt-period", 0, "Limit the CPU real-time period in microseconds")
	flags.Int64Var(&r.CPURealtimeRuntime, "cpu-rt-runtime", 0, "Limit the CPU real-time runtime in microseconds")
	flags.Int64VarP(&r.CPUShares, "cpu-shares", "c", 0, "CPU shares (relative weight)")
	each(flags, "decimal", "cpus", "", "Number of CPUs", func(v string) (err error) {
		r.NanoCPUs, err = parseCPUs(v)
		return err
	})
	flags.StringVar(&r.CpusetCpus, "cpuset-cpus", "", "CPUs in which to allow execution (0-3, 0,1)")
	flags.StringVar(&r.CpusetMems, "cpuset-mems", "", "MEMs in which to allow execution (0-3, 0,1)")
	size("memory", "m", "Memory limit", &r.Memory)
	size("memory-reservation", "", "Memory soft limit", &r.MemoryReservation)
	each(flags, "bytes", "memory-swap", "", "Swap limit equal to memory plus swap: -1 to enable unlimited swap", func(v string) (err error) {
		if r.MemorySwap = -1; v != "-1" {
			r.MemorySwap, err = units.RAMInBytes(v)
		}
		return err
	})
	flags.Int64Var(&o.pids, "pids-limit", 0, "Tune container pids limit (set -1 for unlimited)")
	flags.StringVar(&o.restart, "restart", "", "Restart policy to apply when a container exits")
}

func runUpdate(ctx context.Context, s *session, opts updateOptions) (err error) {
	if opts.restart != "" {
		if opts.config.RestartPolicy, err = parseRestart(opts.restart); err != nil {
			return err
		}
	}
	env, err := s.engine(ctx)
	if err != nil {
		return err
	}
	warn := func(text string) { fmt.Fprintln(s.Err, text) }
	return eachContainer(s, opts.refs, func(ref string) error { return engine.UpdateContainer(ctx, env, ref, opts.config, warn) })
}
