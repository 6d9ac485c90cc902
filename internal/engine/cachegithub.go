package engine

import (
	"cmp"
	"os"

	"strake/internal/gha"
)

// githubName is the name of a cache among those of its scope.
const githubName = "cache"

// github is the cache service of the GitHub action that this process is of: the environment
// says where it is, unless the attributes do.
func (c Cache) github() (*gha.Cache, error) {
	address, token := cmp.Or(c.Attrs["url_v2"], os.Getenv("ACTIONS_RESULTS_URL")), cmp.Or(c.Attrs["token"], os.Getenv("ACTIONS_RUNTIME_TOKEN"))
	switch {
	case token == "":
		return nil, invalid("gha cache requires token: an action has it as ACTIONS_RUNTIME_TOKEN, once it is exported")
	case address == "" && c.Attrs["url"] != "":
		return nil, invalid("gha cache requires url_v2: version 1 of the service, which url names, was turned off")
	case address == "":
		return nil, invalid("gha cache requires url_v2: an action has it as ACTIONS_RESULTS_URL, once it is exported")
	}
	entries, err := gha.New(gha.Options{URL: address, Token: token, Scope: cmp.Or(c.Attrs["scope"], "buildkit")})
	if err != nil {
		return nil, invalid("%v", err)
	}
	return entries, nil
}
