package scan

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"strake/internal/secret"
)

// Config is what of an image's config may hold secrets.
type Config struct {
	Env     []string // NAME=value
	Labels  map[string]string
	History []string // the commands that made the layers
}

// Secrets finds secrets in a config. What the history says of the environment is told once.
func (c Config) Secrets() (found []Secret) {
	seen := map[string]bool{}
	add := func(place string, list []secret.Finding) {
		for _, f := range list {
			f.Line = 0
			if key := f.Rule + f.Excerpt; !seen[key] && len(found) < maxSecrets {
				seen[key] = true
				found = append(found, Secret{Place: place, Finding: f})
			}
		}
	}
	for _, env := range c.Env {
		name, value, _ := strings.Cut(env, "=")
		add("environment "+short(name), secret.Value(name, value))
	}
	for _, name := range slices.Sorted(maps.Keys(c.Labels)) {
		add("label "+short(name), secret.Value(name, c.Labels[name]))
	}
	for i, command := range c.History {
		add(fmt.Sprintf("history %d", i+1), secret.Config([]byte(command)))
	}
	return found
}

func short(name string) string {
	const most = 64
	return strings.ToValidUTF8(name[:min(len(name), most)], "?")
}
