package bake

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// Privileges are what a build may do beside reading and writing below the working
// directory: --allow grants them, and bake files ask for them.
type Privileges struct {
	network, insecure, ssh, deletes bool

	devices     map[string]bool // "" is any
	read, write map[string]bool // paths; "*" is any
}

// ParsePrivileges reads values of --allow.
func ParsePrivileges(allow []string) (*Privileges, error) {
	p := &Privileges{devices: map[string]bool{}, read: map[string]bool{}, write: map[string]bool{}}
	for _, text := range allow {
		key, value, given := strings.Cut(text, "=")
		switch {
		case text == "network.host":
			p.network = true
		case text == "security.insecure":
			p.insecure = true
		case text == "ssh":
			p.ssh = true
		case text == "buildx.local.delete":
			p.deletes = true
		case key == "buildx.local.delete" && given:
			return nil, errors.New("buildx.local.delete does not accept a value")
		case key == "device":
			name, _, _ := strings.Cut(value, ",")
			p.devices[name] = true
		case key == "fs.read":
			p.read[value] = true
		case key == "fs.write":
			p.write[value] = true
		case key == "fs":
			p.read[value], p.write[value] = true, true
		case slices.Contains([]string{"image", "image.push", "image.load"}, key):
			// buildx parses these, and asks for none
		default:
			return nil, fmt.Errorf("unknown entitlement key %q", key)
		}
	}
	return p, nil
}

// Wants are the privileges of the targets that p, and what the user granted by naming it
// with --set, does not have: for each what it is and the value of --allow that grants it.
// Those of files come last.
type Wants struct {
	What, Allow []string
	files       int // how many of them are of files
}

// Missing looks for what is not granted. Remote says that the files are another's.
func (p *Privileges) Missing(a Answer, remote bool) (Wants, error) {
	var w Wants
	need := Privileges{devices: map[string]bool{}, read: map[string]bool{}, write: map[string]bool{}}
	for _, t := range a.Targets {
		need.add(t)
	}
	ask := func(what, allow string) { w.What, w.Allow = append(w.What, what), append(w.Allow, allow) }
	if need.network && !p.network && !a.Granted.Network {
		ask("Running build containers that can access host network", "network.host")
	}
	if need.insecure && !p.insecure && !a.Granted.Insecure {
		ask("Running privileged containers that can make system changes", "security.insecure")
	}
	for _, d := range slices.Sorted(maps.Keys(need.devices)) {
		switch {
		case p.devices[""] || p.devices[d]:
		case d == "":
			ask("Access to CDI devices", "device")
		default:
			ask("Access to device "+d, "device="+d)
		}
	}
	if need.deletes && !p.deletes {
		ask("Deleting stale files from local output destinations", "buildx.local.delete")
	}
	checks, err := fsChecks(remote)
	if err != nil {
		return w, err
	}
	if checks {
		before := len(w.Allow)
		if need.ssh && !p.ssh {
			ask("Forwarding default SSH agent socket", "ssh")
		}
		if err := p.missingPaths(need, a.Granted, ask); err != nil {
			return w, err
		}
		w.files = len(w.Allow) - before
	}
	return w, nil
}

// fsChecks reports whether paths are looked at. Of the two variables that say so, the first is for the files of others alone.
func fsChecks(remote bool) (checks bool, err error) {
	checks = true
	for _, name := range []string{"BAKE_ALLOW_REMOTE_FS_ACCESS", "BUILDX_BAKE_ENTITLEMENTS_FS"} {
		allow := name == "BAKE_ALLOW_REMOTE_FS_ACCESS"
		value := os.Getenv(name)
		if value == "" || allow && !remote {
			continue
		}
		on, err := strconv.ParseBool(value)
		if err != nil {
			return false, fmt.Errorf("failed to parse %s value %q: %w", name, value, err)
		}
		checks = on != allow
	}
	return checks, nil
}

// OfFiles reports whether any is about paths.
func (w Wants) OfFiles() bool { return w.files > 0 }

func (p *Privileges) missingPaths(need Privileges, granted Granted, ask func(what, allow string)) error {
	read, err := uncovered(p.read, granted.Read, need.read)
	if err != nil {
		return err
	}
	write, err := uncovered(p.write, granted.Write, need.write)
	if err != nil {
		return err
	}
	both := func(path string) bool { return slices.Contains(read, path) && slices.Contains(write, path) }
	for _, path := range read {
		if both(path) {
			ask("Read and write access to path "+shown(path), "fs="+shown(path))
		}
	}
	for _, path := range read {
		if !both(path) {
			ask("Read access to path "+shown(path), "fs.read="+shown(path))
		}
	}
	for _, path := range write {
		if !both(path) {
			ask("Write access to path "+shown(path), "fs.write="+shown(path))
		}
	}
	return nil
}

// shown is a path as it is told: a relative one where it is near.
func shown(path string) string {
	wd, err := os.Getwd()
	if err == nil {
		wd, err = filepath.EvalSymlinks(wd)
	}
	if err != nil {
		return path
	}
	if rel, err := filepath.Rel(wd, path); err == nil && !strings.HasPrefix(rel, "../..") {
		return rel
	}
	return path
}

// add adds what a target needs.
func (p *Privileges) add(t Target) {
	for _, e := range t.Entitlements {
		key, value, _ := strings.Cut(e, "=")
		switch key {
		case "network.host":
			p.network = true
		case "security.insecure":
			p.insecure = true
		case "device":
			name, _, _ := strings.Cut(value, ",")
			p.devices[name] = true
		}
	}
	for _, path := range append(slices.Collect(maps.Values(t.Contexts)), t.Context, t.Dockerfile) {
		if strings.HasPrefix(path, "oci-layout://") {
			path, _, _ = strings.Cut(strings.TrimPrefix(path, "oci-layout://"), "@")
			path, _, _ = strings.Cut(path, ":")
		} else if strings.Contains(path, "://") || strings.HasPrefix(path, "target:") || strings.HasPrefix(path, "docker-image:") || strings.HasPrefix(path, OriginScheme) && t.Origin != "" || t.remote(path) {
			continue
		}
		p.read[path] = true
	}
	for _, path := range t.Reads {
		p.read[path] = true
	}
	for _, path := range t.Writes {
		p.write[path] = true
	}
	p.ssh = p.ssh || t.Agent
	p.deletes = p.deletes || t.Deletes
}

// remote reports whether one of the target's paths is an address.
func (t Target) remote(path string) bool { return slices.Contains(t.Remote, path) }

// uncovered are the needed paths that are neither below the working directory nor granted.
func uncovered(allowed map[string]bool, more []string, need map[string]bool) ([]string, error) {
	if allowed["*"] {
		return nil, nil
	}
	var roots []string
	for _, path := range append(slices.Collect(maps.Keys(allowed)), append(more, ".")...) {
		existing, rest, err := existing(path)
		if err != nil {
			return nil, err
		}
		roots = append(roots, filepath.Join(existing, rest))
	}
	within := func(path string, roots []string) bool {
		return slices.ContainsFunc(roots, func(root string) bool {
			return path == root || strings.HasPrefix(path, strings.TrimSuffix(root, "/")+"/")
		})
	}
	var resolved []string
	for path := range need {
		at, _, err := existing(path)
		if err != nil {
			return nil, err
		}
		resolved = append(resolved, at)
	}
	slices.Sort(resolved)
	var out []string
	for _, path := range slices.Compact(resolved) {
		if !within(path, roots) && !within(path, out) {
			out = append(out, path)
		}
	}
	return out, nil
}

// existing splits a path into the part that is there, without symbolic links, and the rest.
func existing(path string) (there, rest string, err error) {
	if path, err = filepath.Abs(path); err != nil {
		return "", "", err
	}
	for {
		there, err = filepath.EvalSymlinks(path)
		if err == nil {
			return there, rest, nil
		}
		if !errors.Is(err, fs.ErrNotExist) || path == filepath.Dir(path) {
			return "", "", fmt.Errorf("failed to evaluate path %q: %w", path, err)
		}
		rest = filepath.Join(filepath.Base(path), rest)
		path = filepath.Dir(path)
	}
}
