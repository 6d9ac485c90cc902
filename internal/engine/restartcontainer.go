package engine

import "context"

// RestartContainer stops a container, if it runs, and starts it.
func RestartContainer(ctx context.Context, env *Env, opts StopOptions) error {
	if err := StopContainer(ctx, env, opts); err != nil {
		return err
	}
	_, err := StartContainer(ctx, env, StartOptions{Ref: opts.Ref})
	return err
}
