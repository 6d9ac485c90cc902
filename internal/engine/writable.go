package engine

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"path"
	"slices"
	"strconv"
	"strings"

	"strake/internal/layer"
)

// A writable is the writable layer of a container, and what is below it.
type writable struct {
	upper string
	lower *layer.FS
	// stub reports whether a name may be there to be mounted on alone: where it is empty, the container did not make it.
	stub   func(name string) bool
	layers layer.Chain
}

// openWritable opens what a container wrote. The caller closes it.
func openWritable(ctx context.Context, env *Env, c *Container) (w *writable, err error) {
	w = &writable{upper: inDir(containers(env), c, "upper"), stub: containerStubs(c)}
	if w.layers, err = openChain(ctx, env, c.Spec.Layers); err != nil {
		return nil, err
	}
	w.lower = layer.Union(w.layers)
	return w, nil
}

func (w *writable) close() error { return w.layers.Close() }

// mountedIn is the directory of the files that are mounted: it is there, as docker has it, whether the image has it or not.
const mountedIn = "etc"

// changes are what the container did to the files of its image.
func (w *writable) changes(ctx context.Context) ([]layer.Change, error) {
	return layer.UpperChanges(ctx, w.upper, w.lower, func(name string) bool { return name == mountedIn || w.stub(name) })
}

// containerStubs knows where the runtime mounts, and, while the container runs, where something is mounted; not where the configuration
// mounts, which docker shows and keeps in images.
func containerStubs(c *Container) func(name string) bool {
	known := map[string]bool{
		"dev": true, "proc": true, "sys": true, "etc/hosts": true, "etc/hostname": true, "etc/resolv.conf": true, "run/.containerenv": true,
	}
	place := func(target string) string { return strings.TrimPrefix(path.Clean("/"+target), "/") }
	var shown []string
	for _, m := range c.Spec.Mounts {
		shown = append(shown, place(m.Destination))
	}
	for target := range c.Spec.HostConfig.Tmpfs {
		shown = append(shown, place(target))
	}
	if c.State.Running() && c.State.Pid > 0 {
		for _, target := range mountPoints(c.State.Pid) {
			if at := place(target); at != "" && !slices.Contains(shown, at) {
				known[at] = true
			}
		}
	}
	return func(name string) bool { return known[name] }
}

// mountPoints lists where something is mounted in the root of a process; nothing where that is gone.
func mountPoints(pid int) (targets []string) {
	f, err := os.Open(fmt.Sprintf("/proc/%d/mountinfo", pid))
	if err != nil {
		return nil
	}
	defer func() { _ = f.Close() }() // only read
	for lines := bufio.NewScanner(f); lines.Scan(); {
		if fields := strings.Fields(lines.Text()); len(fields) > 4 {
			targets = append(targets, unescapeMount(fields[4]))
		}
	}
	return targets
}

// unescapeMount reads the octal escapes of mountinfo.
func unescapeMount(s string) string {
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] == '\\' && i+3 < len(s) {
			if n, err := strconv.ParseUint(s[i+1:i+4], 8, 8); err == nil {
				b.WriteByte(byte(n))
				i += 3
				continue
			}
		}
		b.WriteByte(s[i])
	}
	return b.String()
}
