package engine

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"path"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
)

// ImagesOptions say which images to list.
type ImagesOptions struct {
	// All lists images without a tag too.
	All bool
	// Filters are docker's: dangling, label, label!, before, since, until and
	// reference; and unused-for (a duration, also in days and weeks, for which
	// nobody made, pulled, pushed or ran the image) and keep-last (a number: all
	// but so many of the newest images of each repository). Values of one filter
	// that is reference are alternatives; all others must hold.
	Filters map[string][]string
	// Whole reads all of each image. Without it they have ID, Created, Size,
	// Names and RepoDigests at least.
	Whole bool
}

// Images lists images, the newest first. It reads no blob. Under a reference
// filter the images have only those names that match.
func Images(ctx context.Context, env *Env, opts ImagesOptions) ([]Image, error) {
	filter, err := imageFilter(ctx, env, opts)
	if err != nil {
		return nil, err
	}
	read := env.Store.Overview
	for name := range opts.Filters {
		opts.Whole = opts.Whole || name != "dangling" && name != "reference"
	}
	if opts.Whole {
		read = env.Store.Images
	}
	list, err := read(ctx)
	if err != nil {
		return nil, err
	}
	return filter(list), nil
}

// imageFilter chooses of all images what opts ask for. It may take names off an
// image.
func imageFilter(ctx context.Context, env *Env, opts ImagesOptions) (func([]Image) []Image, error) {
	var tests []func(*Image) bool
	hideDangling, keepLast := !opts.All, -1
	for _, name := range slices.Sorted(maps.Keys(opts.Filters)) {
		values := opts.Filters[name]
		switch name {
		case "dangling":
			hideDangling = false
		case "reference":
			for _, pattern := range values {
				if _, err := path.Match(pattern, ""); err != nil {
					return nil, messageError{err.Error(), errdefs.ErrInvalidArgument}
				}
			}
			tests = append(tests, func(img *Image) bool { return matchReference(img, values) })
			continue
		case "keep-last":
			n, err := strconv.ParseUint(values[len(values)-1], 10, 31)
			if err != nil {
				return nil, messageError{fmt.Sprintf("invalid filter 'keep-last=%s': it takes a number", values[len(values)-1]), errdefs.ErrInvalidArgument}
			}
			keepLast = int(n)
			continue
		}
		for _, value := range values {
			test, err := imageTest(ctx, env, name, value)
			if err != nil {
				return nil, err
			}
			tests = append(tests, test)
		}
	}
	return func(list []Image) []Image {
		kept := map[digest.Digest]bool{}
		if keepLast >= 0 {
			kept = newest(list, keepLast)
		}
		out := list[:0]
		for i := range list {
			img := &list[i]
			if kept[img.ID] || hideDangling && len(img.Names)+len(img.RepoDigests) == 0 ||
				slices.ContainsFunc(tests, func(test func(*Image) bool) bool { return !test(img) }) {
				continue
			}
			out = append(out, *img)
		}
		return out
	}, nil
}

// newest chooses the newest n images of each repository: by the time at which
// they were made and, where that is the same, at which they were named.
func newest(list []Image, n int) map[digest.Digest]bool {
	repositories := map[string][]*Image{}
	for i := range list {
		of := map[string]bool{}
		for _, name := range slices.Concat(list[i].Names, list[i].RepoDigests) {
			of[Repository(name)] = true
		}
		for repository := range of {
			repositories[repository] = append(repositories[repository], &list[i])
		}
	}
	chosen := map[digest.Digest]bool{}
	for _, images := range repositories {
		slices.SortStableFunc(images, func(a, b *Image) int {
			return cmp.Or(b.Created.Compare(a.Created), b.Tagged.Compare(a.Tagged))
		})
		for _, img := range images[:min(n, len(images))] {
			chosen[img.ID] = true
		}
	}
	return chosen
}

func imageTest(ctx context.Context, env *Env, name, value string) (func(*Image) bool, error) {
	switch name {
	case "dangling":
		want, err := parseFlag(value)
		if err != nil {
			return nil, messageError{fmt.Sprintf("invalid filter 'dangling=[%s]'", value), errdefs.ErrInvalidArgument}
		}
		if !want { // an image that was pulled by its digest is listed with and without
			return func(img *Image) bool { return len(img.Names)+len(img.RepoDigests) > 0 }, nil
		}
		return func(img *Image) bool { return len(img.Names) == 0 }, nil
	case "label", "label!":
		want := name == "label"
		return func(img *Image) bool { return matchLabel(img.Labels(), value) == want }, nil
	case "before", "since":
		other, err := find(ctx, env, value, "")
		if err != nil {
			return nil, err
		}
		if name == "before" {
			return func(img *Image) bool { return !img.Created.IsZero() && img.Created.Before(other.Created) }, nil
		}
		return func(img *Image) bool { return img.Created.After(other.Created) }, nil
	case "until":
		at, err := parseTime(value, time.Now())
		if err != nil {
			return nil, err
		}
		return func(img *Image) bool { return !img.Created.IsZero() && img.Created.Before(at) }, nil
	case "unused-for":
		age, err := parseAge(value)
		if err != nil {
			return nil, err
		}
		at := time.Now().Add(-age)
		return func(img *Image) bool { return img.Used.Before(at) }, nil
	}
	return nil, messageError{fmt.Sprintf("invalid filter '%s'", name), errdefs.ErrInvalidArgument}
}

// parseFlag reads a boolean as docker's filters do.
func parseFlag(value string) (bool, error) {
	switch strings.ToLower(value) {
	case "1", "true":
		return true, nil
	case "0", "false":
		return false, nil
	}
	return false, errdefs.ErrInvalidArgument
}

func matchLabel(labels map[string]string, filter string) bool {
	key, want, hasValue := strings.Cut(filter, "=")
	got, ok := labels[key]
	return ok && (!hasValue || got == want)
}

// matchReference leaves the names that match a pattern, and reports whether any
// does.
func matchReference(img *Image, patterns []string) bool {
	match := func(name string) bool {
		short := familiar(name)
		for _, pattern := range patterns {
			if ok, err := path.Match(pattern, short); err == nil && ok {
				return true
			}
			if ok, err := path.Match(pattern, Repository(short)); err == nil && ok {
				return true
			}
		}
		return false
	}
	miss := func(name string) bool { return !match(name) }
	img.Names = slices.DeleteFunc(img.Names, miss)
	img.RepoDigests = slices.DeleteFunc(img.RepoDigests, miss)
	return len(img.Names)+len(img.RepoDigests) > 0
}

// Repository is a name without its tag or digest.
func Repository(name string) string {
	name, _, _ = strings.Cut(name, "@")
	if at := strings.LastIndexByte(name, ':'); at > strings.LastIndexByte(name, '/') {
		name = name[:at]
	}
	return name
}

// parseTime reads a point in time as docker's until filter does: a duration
// before now, RFC 3339 and its prefixes, or seconds of the epoch.
func parseTime(value string, now time.Time) (time.Time, error) {
	if d, err := time.ParseDuration(value); err == nil {
		return now.Add(-d), nil
	}
	for _, form := range []string{time.RFC3339Nano, "2006-01-02T15:04:05", "2006-01-02T15:04", "2006-01-02T15", "2006-01-02Z07:00", "2006-01-02"} {
		if t, err := time.ParseInLocation(form, value, time.Local); err == nil {
			return t, nil
		}
	}
	seconds, fraction, _ := strings.Cut(value, ".")
	n, err := strconv.ParseInt(seconds, 10, 64)
	if err != nil {
		return time.Time{}, messageError{fmt.Sprintf("failed to parse value as time or duration: %q", value), errdefs.ErrInvalidArgument}
	}
	nanos, err := strconv.ParseInt((fraction + "000000000")[:9], 10, 64)
	if err != nil {
		return time.Time{}, messageError{fmt.Sprintf("failed to parse value as time or duration: %q", value), errdefs.ErrInvalidArgument}
	}
	return time.Unix(n, nanos), nil
}
