package engine

import (
	"context"
	"errors"
	"fmt"
	"slices"
)

// ResumeContainers starts the containers that are to run by their restart policies and do not, as after a boot: those of always, those
// of unless-stopped that no command stopped, and those of on-failure that failed. It returns the names of those that it started; one
// that fails keeps no other from being started.
func ResumeContainers(ctx context.Context, env *Env) (started []string, err error) {
	list, err := containers(env).List(ctx)
	if err != nil {
		return nil, err
	}
	var failed []error
	for _, c := range slices.Backward(list) { // the oldest first: others may need it
		if c.State.Running() || !resumes(c) {
			continue
		}
		if _, err := StartContainer(ctx, env, StartOptions{Ref: c.ID}); err != nil {
			failed = append(failed, fmt.Errorf("start %s: %w", c.Name, err))
			continue
		}
		started = append(started, c.Name)
	}
	return started, errors.Join(failed...)
}

// resumes reports whether a container that does not run is to be started after a boot. One that was never started is not.
func resumes(c *Container) bool {
	policy := c.Spec.HostConfig.RestartPolicy
	switch {
	case c.State.Started.IsZero():
		return false
	case policy.IsAlways():
		return true
	case policy.IsUnlessStopped():
		return !c.State.Stopped
	case policy.IsOnFailure():
		return !c.State.Stopped && c.State.ExitCode != 0 && (policy.MaximumRetryCount == 0 || c.State.RestartCount < policy.MaximumRetryCount)
	}
	return false
}
