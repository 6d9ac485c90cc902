package container

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/moby/moby/api/types/container"

	"strake/internal/executor"
)

// Docker's defaults and bounds of health checks.
const (
	probeInterval      = 30 * time.Second
	probeTimeout       = 30 * time.Second
	probeStartInterval = 5 * time.Second
	probeRetries       = 3
	maxProbeOutput     = 4096
	maxProbeResults    = 5
)

// probes check the health of one run of a container. The zero value checks nothing.
type probes struct {
	monitor *Monitor
	process *executor.Process
	config  *container.HealthConfig
	cancel  context.CancelFunc
	running sync.WaitGroup
}

func (m *Monitor) newProbes(p *executor.Process) *probes {
	config := m.record().Spec.Config.Healthcheck
	if config == nil || len(config.Test) == 0 || config.Test[0] == "NONE" {
		return &probes{}
	}
	return &probes{monitor: m, process: p, config: config}
}

// first is the health at the start; nil without checks.
func (p *probes) first() *container.Health {
	if p.config == nil {
		return nil
	}
	return &container.Health{Status: container.Starting}
}

// start begins to check.
func (p *probes) start(ctx context.Context) {
	if p.config == nil {
		return
	}
	ctx, p.cancel = context.WithCancel(ctx)
	p.running.Go(func() { p.loop(ctx) })
}

// end stops checking.
func (p *probes) end() {
	if p.cancel != nil {
		p.cancel()
		p.running.Wait()
	}
}

func orDefault(d, otherwise time.Duration) time.Duration {
	if d == 0 {
		return otherwise
	}
	return d
}

func (p *probes) loop(ctx context.Context) {
	started := time.Now()
	for {
		wait := orDefault(p.config.Interval, probeInterval)
		health := p.monitor.record().State.Health
		if health != nil && health.Status == container.Starting && time.Since(started) < p.config.StartPeriod {
			wait = orDefault(p.config.StartInterval, probeStartInterval)
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(wait):
		}
		if p.monitor.record().State.Status == container.StatePaused {
			continue
		}
		result := p.probe(ctx)
		if ctx.Err() != nil {
			return
		}
		p.note(ctx, result, time.Since(started) < p.config.StartPeriod)
	}
}

// probe runs the check once.
func (p *probes) probe(ctx context.Context) *container.HealthcheckResult {
	args := p.config.Test[1:]
	if p.config.Test[0] == "CMD-SHELL" {
		shell := p.monitor.record().Spec.Config.Shell
		if len(shell) == 0 {
			shell = []string{"/bin/sh", "-c"}
		}
		args = append(append([]string{}, shell...), strings.Join(args, " "))
	}
	result := &container.HealthcheckResult{Start: time.Now()}
	timeout := orDefault(p.config.Timeout, probeTimeout)
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	output, code, err := p.run(ctx, args)
	result.End, result.Output, result.ExitCode = time.Now(), output, code
	switch {
	case errors.Is(err, context.DeadlineExceeded):
		result.ExitCode, result.Output = -1, "Health check exceeded timeout ("+timeout.String()+")"
		if output != "" {
			result.Output += ": " + output
		}
	case err != nil:
		result.ExitCode, result.Output = -1, err.Error()
	}
	return result
}

// run runs a command in the container and returns the beginning of what it says.
func (p *probes) run(ctx context.Context, args []string) (output string, code int, err error) {
	read, write, err := os.Pipe()
	if err != nil {
		return "", 0, err
	}
	var said bytes.Buffer
	var reading sync.WaitGroup
	reading.Go(func() {
		_, _ = io.CopyN(&said, read, maxProbeOutput)
		_, _ = io.Copy(io.Discard, read) // the rest, so that it can go on
	})
	code, err = p.process.Exec(ctx, executor.ExecSpec{Args: args, Stdout: write, Stderr: write}, func(func(executor.Size)) {})
	_ = write.Close() // the process had its own
	stop := time.AfterFunc(time.Second, func() { _ = read.Close() })
	reading.Wait()
	stop.Stop()
	_ = read.Close() // only read
	return said.String(), code, err
}

// note writes what a check found. Failures in the start period do not count.
func (p *probes) note(ctx context.Context, result *container.HealthcheckResult, starting bool) {
	retries := p.config.Retries
	if retries <= 0 {
		retries = probeRetries
	}
	record := p.monitor.record()
	old := record.State.Health
	if old == nil {
		old = p.first()
	}
	health := *old
	health.Log = append(append([]*container.HealthcheckResult{}, old.Log...), result)
	if n := len(health.Log); n > maxProbeResults {
		health.Log = health.Log[n-maxProbeResults:]
	}
	switch {
	case result.ExitCode == 0:
		health.FailingStreak, health.Status = 0, container.Healthy
	case starting && health.Status == container.Starting:
	default:
		health.FailingStreak++
		if health.FailingStreak >= retries {
			health.Status = container.Unhealthy
		}
	}
	action := ""
	if health.Status != old.Status {
		action = "health_status: " + string(health.Status)
	}
	_ = p.monitor.set(ctx, action, nil, func(s *State) { s.Health = &health }) // the next one tries again
}
