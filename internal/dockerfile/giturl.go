package dockerfile

import (
	"fmt"
	"maps"
	"net/url"
	"path"
	"slices"
	"strconv"
	"strings"

	"strake/internal/build"
)

// GitURL is the address of a commit as BuildKit writes it:
// "https://host/repo.git#ref:subdir", or with the options in the query.
type GitURL struct {
	build.Git
	Keep *bool // keep-git-dir, where the address says
	// Bare addresses, "github.com/...", could be paths: they are build contexts
	// only.
	Bare bool
}

// ParseGit reads an address and reports whether it is one of a git repository:
// then err is what is wrong with its options.
func ParseGit(s string) (g GitURL, is bool, err error) {
	if strings.HasPrefix(s, "github.com/") {
		g.Bare, s = true, "https://"+s
	}
	var fragment string
	var query url.Values
	if scheme, _, ok := strings.Cut(s, "://"); ok && isWord(scheme, "") {
		u, err := url.Parse(s)
		if err != nil {
			return g, false, nil //nolint:nilerr // whatever it is
		}
		switch u.Scheme {
		case "http", "https":
			if !g.Bare && !strings.HasSuffix(u.Path, ".git") {
				return g, false, nil
			}
		case "git", "ssh":
		default:
			return g, false, nil
		}
		fragment, query = u.Fragment, u.Query()
		u.Fragment, u.RawFragment, u.RawQuery = "", "", ""
		g.Remote = u.String()
	} else if user, rest, ok := strings.Cut(s, "@"); ok && isWord(user, "-_") {
		host, where, ok := strings.Cut(rest, ":")
		if !ok || !isWord(host, "-.") {
			return g, false, nil
		}
		where, fragment, _ = strings.Cut(where, "#")
		where, options, _ := strings.Cut(where, "?")
		if query, err = url.ParseQuery(options); err != nil {
			return g, false, nil //nolint:nilerr // likewise
		}
		g.Remote = user + "@" + host + ":" + where
	} else {
		return g, false, nil
	}
	ref, subdir, _ := strings.Cut(fragment, ":")
	g.Ref, g.Subdir = ref, strings.TrimPrefix(path.Join("/", subdir), "/")
	err = g.options(query)
	if err == nil && strings.HasPrefix(g.Ref, "-") {
		err = fmt.Errorf("invalid git ref %q", g.Ref)
	}
	return g, true, err
}

// isWord reports whether s is letters, digits and others, and something.
func isWord(s, others string) bool {
	return s != "" && strings.Trim(s, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789"+others) == ""
}

// options reads the query of an address.
func (g *GitURL) options(query url.Values) error {
	var tag, branch string
	for _, k := range slices.Sorted(maps.Keys(query)) {
		v := query.Get(k)
		switch {
		case len(query[k]) > 1:
			return fmt.Errorf("query %q has multiple values", k)
		case v == "" && k != "submodules" && k != "keep-git-dir" && k != "fetch-by-commit":
			return fmt.Errorf("query %q has no value", k)
		}
		var err error
		switch k {
		case "ref":
			err = g.setRef(v)
		case "tag":
			tag = v
		case "branch":
			branch = v
		case "subdir":
			if g.Subdir != "" && g.Subdir != v {
				err = fmt.Errorf("subdir conflicts: %q vs %q", g.Subdir, v)
			}
			g.Subdir = v
		case "checksum", "commit":
			g.Checksum = v
		case "mtime":
			if v != "checkout" && v != "commit" {
				err = fmt.Errorf("invalid mtime value: %q (must be \"checkout\" or \"commit\")", v)
			}
			g.CommitTimes = v == "commit"
		default:
			err = g.flag(k, v)
		}
		if err != nil {
			return err
		}
	}
	switch {
	case tag != "" && branch != "":
		return fmt.Errorf("branch conflicts with tag")
	case tag != "":
		return g.setRef("refs/tags/" + strings.TrimPrefix(tag, "refs/tags/"))
	case branch != "":
		return g.setRef("refs/heads/" + strings.TrimPrefix(branch, "refs/heads/"))
	}
	return nil
}

// flag reads an option that is true when it has no value.
func (g *GitURL) flag(k, v string) error {
	on := v == ""
	if !on {
		var err error
		if on, err = strconv.ParseBool(v); err != nil {
			return fmt.Errorf("invalid %s value: %q", k, v)
		}
	}
	switch k {
	case "keep-git-dir":
		g.Keep, g.KeepGitDir = &on, on
	case "submodules":
		g.SkipSubmodules = !on
	case "fetch-by-commit":
		g.FetchByCommit = on
	default:
		return fmt.Errorf("unexpected query %q", k)
	}
	return nil
}

func (g *GitURL) setRef(ref string) error {
	if g.Ref != "" && g.Ref != ref {
		return fmt.Errorf("ref conflicts: %q vs %q", g.Ref, ref)
	}
	g.Ref = ref
	return nil
}
