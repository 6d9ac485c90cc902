package engine

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/events"

	"strake/internal/reference"
	"strake/internal/store"
)

// EventsOptions say which events to tell.
type EventsOptions struct {
	Since   string // a time or a duration before now; "" is now
	Until   string // the same; "" is for ever
	Filters map[string][]string
	// Each is told the events, the oldest first.
	Each func(events.Message) error
}

// pollEvents is how often the store is asked for new events.
const pollEvents = 100 * time.Millisecond

// CheckTime fails unless value is one for Since or Until.
func CheckTime(value string) error {
	if value == "" {
		return nil
	}
	_, err := parseTime(value, time.Now())
	return err
}

// Events tells what happens to images, in docker's words: what happened since
// Since, and then what happens, until Until or until ctx ends. The store keeps
// the last thousand events.
func Events(ctx context.Context, env *Env, opts EventsOptions) error {
	now := time.Now()
	since, until := now, time.Time{}
	var err error
	if opts.Since != "" {
		if since, err = parseTime(opts.Since, now); err != nil {
			return err
		}
	}
	if opts.Until != "" {
		if until, err = parseTime(opts.Until, now); err != nil {
			return err
		}
		if opts.Since == "" {
			since = until // nothing that was, as docker has it
			if until.After(now) {
				since = now
			}
		}
	}
	keep, err := eventFilter(opts.Filters)
	if err != nil {
		return err
	}
	var last int64
	for {
		over := !until.IsZero() && !time.Now().Before(until)
		list, err := env.Store.Events(ctx, last)
		if err != nil {
			return err
		}
		for _, e := range list {
			last = e.ID
			m := message(e)
			if e.Time.Before(since) || !until.IsZero() && e.Time.After(until) || !keep(m) {
				continue
			}
			if err := opts.Each(m); err != nil {
				return err
			}
		}
		if over {
			return nil
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(pollEvents):
		}
	}
}

// message is an event in docker's form.
func message(e store.Event) events.Message {
	return events.Message{
		Type: events.Type(e.Type), Action: events.Action(e.Action),
		Actor: events.Actor{ID: e.Actor, Attributes: e.Attributes},
		Scope: "local", Time: e.Time.Unix(), TimeNano: e.Time.UnixNano(),
	}
}

// eventFilter makes one test of docker's filters: values of one are
// alternatives, all filters must hold.
func eventFilter(filters map[string][]string) (func(events.Message) bool, error) {
	var tests []func(events.Message) bool
	for _, name := range slices.Sorted(maps.Keys(filters)) {
		values := filters[name]
		var match func(events.Message, string) bool
		switch name {
		case "event":
			match = func(m events.Message, v string) bool { return string(m.Action) == v }
		case "type":
			match = func(m events.Message, v string) bool { return string(m.Type) == v }
		case "scope":
			match = func(m events.Message, v string) bool { return m.Scope == v }
		case "label":
			tests = append(tests, func(m events.Message) bool {
				return !slices.ContainsFunc(values, func(v string) bool { return !matchLabel(m.Actor.Attributes, v) })
			})
			continue
		case "image":
			match = matchEventImage
		case "config", "container", "daemon", "network", "node", "plugin", "secret", "service", "volume":
			match = func(m events.Message, v string) bool {
				return strings.HasPrefix(m.Actor.ID, v) || strings.HasPrefix(m.Actor.Attributes["name"], v)
			}
		default:
			return nil, messageError{fmt.Sprintf("invalid filter '%s'", name), errdefs.ErrInvalidArgument}
		}
		tests = append(tests, func(m events.Message) bool {
			return slices.ContainsFunc(values, func(v string) bool { return match(m, v) })
		})
	}
	return func(m events.Message) bool {
		return !slices.ContainsFunc(tests, func(test func(events.Message) bool) bool { return !test(m) })
	}, nil
}

// matchEventImage compares an image filter with what an event names, with and
// without its tag.
func matchEventImage(m events.Message, value string) bool {
	name := m.Actor.Attributes["name"]
	if m.Type != events.ImageEventType {
		name = m.Actor.Attributes["image"]
	}
	for _, n := range []string{m.Actor.ID, name} {
		if n == value {
			return true
		}
		if named, err := reference.Parse(n); err == nil && named.Familiar().Name() == value {
			return true
		}
	}
	return false
}
