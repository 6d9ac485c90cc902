package dockerfile

import (
	"context"

	"github.com/moby/buildkit/util/suggest"
)

// names lists what Options.Names does.
func (o *Options) names(ctx context.Context) []string {
	if o.Names == nil {
		return nil
	}
	return o.Names(ctx)
}

// near adds the stage or image to err that the base of s was perhaps meant to be:
// s is from neither.
func (c *stageList) near(s *stage, images []string, err error) error {
	if s.named != nil {
		return err
	}
	var names []string
	for _, other := range c.stages {
		if other == s && !s.external {
			break // stages that follow cannot be meant
		}
		if other.Name != "" {
			names = append(names, other.Name)
		}
	}
	return suggest.WrapError(err, s.BaseName, append(names, images...), true)
}
