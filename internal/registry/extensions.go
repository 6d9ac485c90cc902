package registry

// extension is one that clients can discover.
type extension struct {
	Name        string   `json:"name"`
	URL         string   `json:"url"`
	Description string   `json:"description"`
	Endpoints   []string `json:"endpoints"`
}

// discover answers the extension _oci/ext/discover of the specification, of the
// registry or of a repository.
func discover(c *call) error {
	extensions := []extension{{
		Name: "_oci", URL: "https://github.com/opencontainers/distribution-spec/blob/main/extensions/_oci.md",
		Description: "The extensions of this registry", Endpoints: []string{"_oci/ext/discover"},
	}}
	if c.repo == "" {
		extensions = append(extensions, extension{
			Name: "_catalog", URL: "https://distribution.github.io/distribution/spec/api/#catalog",
			Description: "The repositories of this registry", Endpoints: []string{"_catalog"},
		})
	}
	return c.json("application/json", struct {
		Extensions []extension `json:"extensions"`
	}{extensions})
}
