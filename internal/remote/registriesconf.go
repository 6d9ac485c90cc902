package remote

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/pelletier/go-toml/v2"
)

// rule is a [[registry]] table of containers-registries.conf(5): where the
// repositories below a prefix really are.
type rule struct {
	Prefix     string   `toml:"prefix"`
	Location   string   `toml:"location"`
	Insecure   bool     `toml:"insecure"`
	Blocked    bool     `toml:"blocked"`
	DigestOnly bool     `toml:"mirror-by-digest-only"`
	Mirrors    []mirror `toml:"mirror"`
	file       string
}

// mirror is a [[registry.mirror]] table: a place to read from first.
type mirror struct {
	Location string `toml:"location"`
	Insecure bool   `toml:"insecure"`
	PullFrom string `toml:"pull-from-mirror"` // all, digest-only, tag-only; "" is all
}

// serves reports whether a mirror is asked for a digest, or for a tag.
func (m mirror) serves(r *rule, digest bool) bool {
	switch {
	case m.PullFrom == "digest-only", m.PullFrom != "tag-only" && r.DigestOnly:
		return digest
	case m.PullFrom == "tag-only":
		return !digest
	}
	return true
}

// rules are the tables of all files, one for each prefix.
type rules []rule

// registriesConfFiles are the files to be read: the one that
// CONTAINERS_REGISTRIES_CONF names, alone; or else the user's, or the system's
// where there is none, and what is in the directories beside both.
func registriesConfFiles() ([]string, error) {
	if file := os.Getenv("CONTAINERS_REGISTRIES_CONF"); file != "" {
		return []string{file}, nil
	}
	dirs := []string{"/etc/containers"}
	if dir, err := os.UserConfigDir(); err == nil {
		dirs = append(dirs, filepath.Join(dir, "containers"))
	}
	var files []string
	for _, dir := range dirs {
		main := filepath.Join(dir, "registries.conf")
		if _, err := os.Stat(main); err == nil {
			files = []string{main}
		}
	}
	for _, dir := range dirs {
		dir = filepath.Join(dir, "registries.conf.d")
		entries, err := os.ReadDir(dir) // sorted
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, fmt.Errorf("configuration of registries: %w", err)
		}
		for _, e := range entries {
			if strings.HasSuffix(e.Name(), ".conf") && !e.IsDir() {
				files = append(files, filepath.Join(dir, e.Name()))
			}
		}
	}
	return files, nil
}

// readRules reads the files, of which a later one overrides the prefixes of an
// earlier one.
func readRules(files []string) (rules, error) {
	var all rules
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			return nil, fmt.Errorf("configuration of registries: %w", err)
		}
		list, err := parseRules(text)
		if err != nil {
			return nil, fmt.Errorf("configuration of registries: %s: %w", file, err)
		}
		for _, r := range list {
			r.file = file
			all = slices.DeleteFunc(all, func(old rule) bool { return old.Prefix == r.Prefix })
			all = append(all, r)
		}
	}
	return all, nil
}

// parseRules parses one file. Of what it may hold besides [[registry]], short
// names and search registries, nothing applies: a name without a registry is
// docker's, of docker.io.
func parseRules(text []byte) ([]rule, error) {
	var conf struct {
		Registry   []rule `toml:"registry"`
		Registries any    `toml:"registries"`
	}
	if err := toml.Unmarshal(text, &conf); err != nil {
		return nil, fmt.Errorf("%w: %w", err, errdefs.ErrInvalidArgument)
	}
	if conf.Registries != nil {
		return nil, fmt.Errorf("version 1 of the format, which has [registries.*] tables: %w", errdefs.ErrNotImplemented)
	}
	for i := range conf.Registry {
		if err := conf.Registry[i].check(); err != nil {
			return nil, err
		}
	}
	return conf.Registry, nil
}

// check completes a rule, and fails where it cannot be meant.
func (r *rule) check() error {
	r.Location = strings.TrimRight(r.Location, "/")
	if r.Prefix = strings.TrimRight(r.Prefix, "/"); r.Prefix == "" {
		r.Prefix = r.Location
	}
	if r.Location == "" && !strings.HasPrefix(r.Prefix, "*.") {
		r.Location = r.Prefix
	}
	if r.Prefix == "" || strings.Contains(r.Prefix[1:], "*") || strings.Contains(r.Prefix+r.Location, "://") {
		return fmt.Errorf("registry with prefix %q and location %q: %w", r.Prefix, r.Location, errdefs.ErrInvalidArgument)
	}
	for i := range r.Mirrors {
		m := &r.Mirrors[i]
		if m.Location = strings.TrimRight(m.Location, "/"); m.Location == "" || strings.Contains(m.Location, "://") {
			return fmt.Errorf("mirror of %q with location %q: %w", r.Prefix, m.Location, errdefs.ErrInvalidArgument)
		}
		if !slices.Contains([]string{"", "all", "digest-only", "tag-only"}, m.PullFrom) {
			return fmt.Errorf("mirror of %q: pull-from-mirror = %q: %w", r.Prefix, m.PullFrom, errdefs.ErrInvalidArgument)
		}
	}
	return nil
}

// find returns the rule with the longest prefix of a repository's name, and how
// long that is in it; nil for none.
func (list rules) find(name string) (best *rule, length int) {
	for i := range list {
		if n := list[i].matches(name); n > 0 && (best == nil || len(list[i].Prefix) > len(best.Prefix)) {
			best, length = &list[i], n
		}
	}
	return best, length
}

// matches returns the length of the part of name that the prefix stands for.
func (r *rule) matches(name string) int {
	if domain, ok := strings.CutPrefix(r.Prefix, "*"); ok {
		if host, _, _ := strings.Cut(name, "/"); strings.HasSuffix(host, domain) {
			return len(host)
		}
		return 0
	}
	if rest, ok := strings.CutPrefix(name, r.Prefix); ok && (rest == "" || rest[0] == '/') {
		return len(r.Prefix)
	}
	return 0
}

// rewrite returns the host and the repository that name is at, when the part of
// it that is length long stands for location; "" is itself.
func rewrite(name string, length int, location string) (host, repository string, err error) {
	if location != "" {
		name = location + name[length:]
	}
	host, repository, ok := strings.Cut(name, "/")
	if !ok {
		return "", "", fmt.Errorf("%q: no repository left in it: %w", name, errdefs.ErrInvalidArgument)
	}
	return host, repository, nil
}

// blockedError says that a configuration forbids a registry.
type blockedError struct{ prefix, file string }

func (e blockedError) Error() string {
	return fmt.Sprintf("registry %s is blocked in %s", e.prefix, e.file)
}

func (e blockedError) Unwrap() error { return errdefs.ErrFailedPrecondition }
