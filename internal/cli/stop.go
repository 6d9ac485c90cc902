package cli

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"strake/internal/engine"
)

// atOnce is how many containers a command does something to at a time, as docker's does.
const atOnce = 50

// goneError says that there was nothing to do, which is told, and is no failure.
type goneError struct{ error }

// eachContainer does something to each container that is named, to many at a time, and prints the names of those where it could,
// in order.
func eachContainer(s *session, refs []string, do func(ref string) error) error {
	results := make([]chan error, len(refs))
	places := make(chan struct{}, atOnce)
	for i, ref := range refs {
		results[i] = make(chan error, 1)
		go func() {
			places <- struct{}{}
			results[i] <- do(ref)
			<-places
		}()
	}
	var errs []error
	for i, ref := range refs {
		err := <-results[i]
		if gone, ok := errors.AsType[goneError](err); ok {
			fmt.Fprintln(s.Err, fromEngine(gone.error))
			continue
		}
		if err != nil {
			errs = append(errs, fromEngine(err))
			continue
		}
		fmt.Fprintln(s.Out, ref)
	}
	return errors.Join(errs...)
}

type stopOptions struct {
	refs    []string
	signal  string
	timeout int
	timed   bool
}

// add adds the flags of stop and restart.
func (o *stopOptions) add(cmd *cobra.Command) {
	flags := cmd.Flags()
	flags.StringVarP(&o.signal, "signal", "s", "", "Signal to send to the container")
	flags.IntVarP(&o.timeout, "timeout", "t", 0, "Seconds to wait before killing the container")
	flags.IntVar(&o.timeout, "time", 0, "Seconds to wait before killing the container (deprecated: use --timeout)")
	flags.Lookup("time").Hidden = true
}

// set takes the command line.
func (o *stopOptions) set(cmd *cobra.Command, args []string) error {
	if cmd.Flags().Changed("time") && cmd.Flags().Changed("timeout") {
		return errors.New("conflicting options: cannot specify both --timeout and --time")
	}
	o.refs, o.timed = args, cmd.Flags().Changed("timeout") || cmd.Flags().Changed("time")
	return nil
}

// verb is what the verbs take.
func (o *stopOptions) verb(ref string) engine.StopOptions {
	opts := engine.StopOptions{Ref: ref, Signal: o.signal}
	if o.timed {
		timeout := time.Duration(o.timeout) * time.Second
		opts.Timeout = &timeout
	}
	return opts
}

func newStopCommand(s *session) *cobra.Command {
	var opts stopOptions
	cmd := &cobra.Command{
		Use:   "stop [OPTIONS] CONTAINER [CONTAINER...]",
		Short: "Stop one or more running containers",
		Args:  argsBetween(1, -1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := opts.set(cmd, args); err != nil {
				return err
			}
			return runStop(cmd.Context(), s, opts)
		},
		Annotations:           map[string]string{aliasesKey: "strake container stop, strake stop"},
		DisableFlagsInUseLine: true,
	}
	opts.add(cmd)
	return cmd
}

func runStop(ctx context.Context, s *session, opts stopOptions) error {
	env, err := s.contained(ctx)
	if err != nil {
		return err
	}
	return eachContainer(s, opts.refs, func(ref string) error { return engine.StopContainer(ctx, env, opts.verb(ref)) })
}
