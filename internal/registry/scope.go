package registry

import "net/http"

// Scope is what a request does with a resource, in the words of docker's token
// authentication: pull, push and delete of a repository, * of the catalog.
type Scope struct {
	Type    string // repository or registry
	Name    string
	Actions []string
}

// Scopes are what a request needs, none where that is nothing. A mount needs to
// pull from another repository, too.
func Scopes(r *http.Request) []Scope {
	kind, repo, _ := parsePath(r.URL.Path)
	switch {
	case kind == "catalog":
		return []Scope{{"registry", "catalog", []string{"*"}}}
	case repo == "" || CheckName(repo) != nil:
		return nil
	}
	scope := Scope{"repository", repo, []string{"pull"}}
	switch {
	case kind != "upload" && (r.Method == http.MethodGet || r.Method == http.MethodHead):
	case kind != "upload" && r.Method == http.MethodDelete:
		scope.Actions = []string{"delete"}
	default:
		scope.Actions = []string{"pull", "push"}
	}
	scopes := []Scope{scope}
	if from := r.URL.Query().Get("from"); kind == "uploads" && from != "" && from != repo && CheckName(from) == nil {
		scopes = append(scopes, Scope{"repository", from, []string{"pull"}})
	}
	return scopes
}
