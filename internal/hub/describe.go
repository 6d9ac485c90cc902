package hub

import "context"

// Describe says what repo is for, in a line and in Markdown, and whether
// everybody may read it. Who administers it may.
func (h *Hub) Describe(ctx context.Context, repo, description, readme string, public bool) error {
	return ChangeRepository(ctx, h, repo, RepositoryChange{Description: &description, Readme: &readme, Public: &public})
}
