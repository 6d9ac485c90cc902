package engine

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/containerd/errdefs"
	imagespec "github.com/moby/docker-image-spec/specs-go/v1"
	"github.com/opencontainers/go-digest"

	"strake/internal/layer"
	"strake/internal/scan"
)

// DiffImagesOptions say which images to compare, and what of them. With none of
// Files, Packages and Config, all three are compared.
type DiffImagesOptions struct {
	From, To LookOptions
	Files    bool
	Packages bool
	Config   bool
	Times    bool // files that differ in nothing but their times too
}

// DiffImagesResult is what makes To of From.
type DiffImagesResult struct {
	From, To digest.Digest // IDs
	Files    []FileDifference
	Packages []Difference
	Config   []Difference
	// Unread says what could not be compared; nil: nothing.
	Unread error
}

// Empty tells whether there is no difference.
func (r *DiffImagesResult) Empty() bool { return len(r.Files)+len(r.Packages)+len(r.Config) == 0 }

// FileDifference is a path that two images do not show alike.
type FileDifference struct {
	Kind     layer.ChangeKind
	Old, New *File    // nil: not there
	What     []string // of FileChanged: type, content, mode, owner, attributes, time
}

// Path is the path.
func (d *FileDifference) Path() string {
	if d.New != nil {
		return d.New.Path
	}
	return d.Old.Path
}

// Difference is a property that two images do not share.
type Difference struct {
	Kind     layer.ChangeKind
	Name     string // of a package, with its architecture, or its type where it is a language's; of a part of the config: "User", "Env PATH"
	Old, New string // the version; the value
}

// DiffImages compares two images, each of which may be here or in a registry.
// Without files and packages no layer is read.
func DiffImages(ctx context.Context, env *Env, opts DiffImagesOptions) (result DiffImagesResult, err error) {
	if !opts.Files && !opts.Packages && !opts.Config {
		opts.Files, opts.Packages, opts.Config = true, true, true
	}
	open := look
	if !opts.Files && !opts.Packages {
		open = func(ctx context.Context, env *Env, opts LookOptions) (*view, error) {
			return lookAtConfig(ctx, env, opts, false)
		}
	}
	from, err := open(ctx, env, opts.From)
	if err != nil {
		return result, err
	}
	defer closing(&err, from.close)
	to, err := open(ctx, env, opts.To)
	if err != nil {
		return result, err
	}
	defer closing(&err, to.close)
	result.From, result.To = from.id, to.id
	if opts.Config {
		if result.Config, err = diffConfigs(from.config, to.config); err != nil {
			return result, err
		}
	}
	if opts.Packages {
		result.Packages, result.Unread = diffPackages(from, to)
		if result.Unread != nil && !errdefs.IsNotImplemented(result.Unread) {
			return result, result.Unread
		}
	}
	if opts.Files {
		result.Files, err = diffFiles(ctx, from.files, to.files, opts.Times)
	}
	return result, err
}

func diffFiles(ctx context.Context, from, to *layer.FS, times bool) (list []FileDifference, err error) {
	err = layer.Compare(ctx, from, to, func(d layer.Difference) error {
		if d.Kind == layer.Changed && d.What == layer.Time && !times {
			return nil
		}
		diff := FileDifference{Kind: d.Kind, What: aspectNames(d.What)}
		if d.Old != nil {
			f, err := fileOf(from, d.Path, d.Old)
			if err != nil {
				return err
			}
			diff.Old = &f
		}
		if d.New != nil {
			f, err := fileOf(to, d.Path, d.New)
			if err != nil {
				return err
			}
			diff.New = &f
		}
		list = append(list, diff)
		return nil
	})
	return list, err
}

func aspectNames(what layer.Aspect) (names []string) {
	for _, a := range []struct {
		aspect layer.Aspect
		name   string
	}{
		{layer.Type, "type"},
		{layer.Content, "content"},
		{layer.Mode, "mode"},
		{layer.Owner, "owner"},
		{layer.Attributes, "attributes"},
		{layer.Time, "time"},
	} {
		if what&a.aspect != 0 {
			names = append(names, a.name)
		}
	}
	return names
}

func diffPackages(from, to *view) ([]Difference, error) {
	x, errX := packageVersions(from)
	y, errY := packageVersions(to)
	if errX != nil && errY != nil && errX.Error() == errY.Error() {
		errY = nil
	}
	return diffMaps(x, y), errors.Join(errX, errY)
}

// packageVersions lists the versions of an image's packages by name.
func packageVersions(v *view) (map[string]string, error) {
	list, err := scan.Packages(v.files)
	versions := map[string]string{}
	for _, p := range list {
		name := p.Name
		if !p.Distribution() {
			name = p.Type + "/" + name
		} else if p.Arch != "" {
			name += ":" + p.Arch
		}
		if other, ok := versions[name]; ok {
			p.Version = other + ", " + p.Version
		}
		versions[name] = p.Version
	}
	return versions, err
}

func diffConfigs(from, to imagespec.DockerOCIImage) ([]Difference, error) {
	x, err := flatConfig(from)
	if err != nil {
		return nil, err
	}
	y, err := flatConfig(to)
	return diffMaps(x, y), err
}

// flatConfig is what a config says of how to run the image, one property a key.
func flatConfig(c imagespec.DockerOCIImage) (map[string]string, error) {
	flat := map[string]string{
		"Platform": strings.Trim(c.OS+"/"+c.Architecture+"/"+c.Variant, "/"), "OSVersion": c.OSVersion, "Author": c.Author,
		"User": c.Config.User, "WorkingDir": c.Config.WorkingDir, "StopSignal": c.Config.StopSignal,
	}
	for _, env := range c.Config.Env {
		name, value, _ := strings.Cut(env, "=")
		flat["Env "+name] = value
	}
	for name, value := range c.Config.Labels {
		flat["Label "+name] = value
	}
	for port := range c.Config.ExposedPorts {
		flat["Port "+port] = port
	}
	for volume := range c.Config.Volumes {
		flat["Volume "+volume] = volume
	}
	for name, list := range map[string][]string{
		"Entrypoint": c.Config.Entrypoint, "Cmd": c.Config.Cmd, "OnBuild": c.Config.OnBuild, "Shell": c.Config.Shell,
	} {
		if len(list) == 0 {
			continue
		}
		text, err := json.Marshal(list)
		if err != nil {
			return nil, fmt.Errorf("compare %s: %w", name, err)
		}
		flat[name] = string(text)
	}
	if c.Config.Healthcheck != nil {
		text, err := json.Marshal(c.Config.Healthcheck)
		if err != nil {
			return nil, fmt.Errorf("compare health checks: %w", err)
		}
		flat["Healthcheck"] = string(text)
	}
	for _, name := range []string{"Platform", "OSVersion", "Author", "User", "WorkingDir", "StopSignal"} {
		if flat[name] == "" {
			delete(flat, name)
		}
	}
	return flat, nil
}

// diffMaps compares properties, by name.
func diffMaps(from, to map[string]string) (list []Difference) {
	for name, old := range from {
		switch now, ok := to[name]; {
		case !ok:
			list = append(list, Difference{Kind: FileDeleted, Name: name, Old: old})
		case now != old:
			list = append(list, Difference{Kind: FileChanged, Name: name, Old: old, New: now})
		}
	}
	for _, name := range slices.Collect(maps.Keys(to)) {
		if _, ok := from[name]; !ok {
			list = append(list, Difference{Kind: FileAdded, Name: name, New: to[name]})
		}
	}
	slices.SortFunc(list, func(a, b Difference) int { return cmp.Compare(a.Name, b.Name) })
	return list
}
