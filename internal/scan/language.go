package scan

import (
	"bufio"
	"bytes"
	"encoding/json"
	"path"
	"regexp"
	"strings"
	"sync"
)

// parser reads the packages of a file; what is none of its kind has none.
type parser func(name string, b []byte) []Package

// languageFile tells which parser a file is for by its name, or nil, and how much of it counts, in bytes.
func languageFile(name string) (parse parser, most int64) {
	dir, base := path.Split(name)
	dir = strings.TrimSuffix(dir, "/")
	const small, large = 1 << 20, 32 << 20
	switch {
	case base == "package.json" && moduleDir(dir):
		return npmPackage, small
	case base == "package-lock.json" && !strings.Contains(name, "node_modules/"):
		return npmLock, large
	case base == "METADATA" && strings.HasSuffix(dir, ".dist-info"), base == "PKG-INFO" && strings.HasSuffix(dir, ".egg-info"), strings.HasSuffix(base, ".egg-info"):
		return pythonMetadata, small
	case strings.HasSuffix(base, ".gemspec") && path.Base(dir) == "specifications", strings.HasSuffix(base, ".gemspec") && strings.HasSuffix(dir, "specifications/default"):
		return gemspec, small
	case base == "installed.json" && path.Base(dir) == "composer":
		return composer, large
	case strings.HasSuffix(base, ".deps.json"):
		return dotnet, large
	}
	return nil, 0
}

// moduleDir tells whether a directory is that of a module: node_modules/x or node_modules/@scope/x.
func moduleDir(dir string) bool {
	up := path.Dir(dir)
	if strings.HasPrefix(path.Base(up), "@") {
		up = path.Dir(up)
	}
	return path.Base(up) == "node_modules"
}

func npmPackage(_ string, b []byte) []Package {
	var p struct{ Name, Version string }
	if json.Unmarshal(b, &p) != nil {
		return nil
	}
	return addPackage(nil, Package{Type: TypeNPM, Name: p.Name, Version: p.Version})
}

// npmLock reads what package-lock.json says is installed, without what is for developers alone.
func npmLock(_ string, b []byte) (found []Package) {
	var lock struct {
		Packages map[string]struct {
			Name, Version string
			Dev, Link     bool
		}
		Dependencies map[string]json.RawMessage
	}
	if json.Unmarshal(b, &lock) != nil {
		return nil
	}
	for at, d := range lock.Packages {
		i := strings.LastIndex(at, "node_modules/")
		if i < 0 || d.Dev || d.Link {
			continue
		}
		name := at[i+len("node_modules/"):]
		if d.Name != "" {
			name = d.Name
		}
		found = addPackage(found, Package{Type: TypeNPM, Name: name, Version: d.Version})
	}
	if lock.Packages != nil {
		return found
	}
	return npmTree(nil, lock.Dependencies, 0)
}

// npmTree reads the dependencies of the lock files before npm 7.
func npmTree(found []Package, level map[string]json.RawMessage, depth int) []Package {
	const maxDepth = 16 // each level is read once more
	for name, raw := range level {
		var d struct {
			Version      string
			Dev          bool
			Dependencies map[string]json.RawMessage
		}
		if json.Unmarshal(raw, &d) != nil || d.Dev {
			continue
		}
		found = addPackage(found, Package{Type: TypeNPM, Name: name, Version: d.Version})
		if depth < maxDepth {
			found = npmTree(found, d.Dependencies, depth+1)
		}
	}
	return found
}

// pythonMetadata reads the head of METADATA or PKG-INFO.
func pythonMetadata(_ string, b []byte) []Package {
	p := Package{Type: TypePyPI}
	lines := bufio.NewScanner(bytes.NewReader(b))
	lines.Buffer(nil, maxLine+1)
	for lines.Scan() && lines.Text() != "" {
		key, value, _ := strings.Cut(lines.Text(), ":")
		switch value = strings.TrimSpace(value); strings.ToLower(key) {
		case "name":
			p.Name = pythonName(value)
		case "version":
			p.Version = value
		}
	}
	return addPackage(nil, p)
}

var pythonSeparators = sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(`[-_.]+`) })

// pythonName is a name as PEP 503 has it.
func pythonName(name string) string {
	return pythonSeparators().ReplaceAllString(strings.ToLower(name), "-")
}

var gemFields = sync.OnceValue(func() *regexp.Regexp {
	return regexp.MustCompile(`(?m)^\s*s\.(name|version)\s*=\s*(?:Gem::Version\.new\()?["']([^"']+)["']`)
})

func gemspec(_ string, b []byte) []Package {
	p := Package{Type: TypeGem}
	for _, m := range gemFields().FindAllSubmatch(b, 4) {
		if value := string(m[2]); string(m[1]) == "name" {
			p.Name = value
		} else {
			p.Version = value
		}
	}
	return addPackage(nil, p)
}

// composer reads installed.json: of its first version it is a list.
func composer(_ string, b []byte) (found []Package) {
	type entry struct{ Name, Version string }
	var list []entry
	var file struct{ Packages []entry }
	if json.Unmarshal(b, &list) != nil {
		if json.Unmarshal(b, &file) != nil {
			return nil
		}
		list = file.Packages
	}
	for _, p := range list {
		found = addPackage(found, Package{Type: TypeComposer, Name: strings.ToLower(p.Name), Version: strings.TrimPrefix(p.Version, "v")})
	}
	return found
}

// dotnet reads what a program of .NET is linked with.
func dotnet(_ string, b []byte) (found []Package) {
	var file struct {
		Libraries map[string]struct{ Type string }
	}
	if json.Unmarshal(b, &file) != nil {
		return nil
	}
	for name, l := range file.Libraries {
		if name, version, ok := strings.Cut(name, "/"); ok && l.Type == "package" {
			found = addPackage(found, Package{Type: TypeNuGet, Name: name, Version: version})
		}
	}
	return found
}
