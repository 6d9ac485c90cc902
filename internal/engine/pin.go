package engine

import "context"

// PinOptions say which image stays.
type PinOptions struct {
	Ref   string
	Unpin bool
}

// Pin keeps an image from every prune and from the budget, until it is unpinned
// or removed by force.
func Pin(ctx context.Context, env *Env, opts PinOptions) error {
	if err := env.Store.Pin(ctx, opts.Ref, !opts.Unpin); err != nil {
		return imageError(opts.Ref, err)
	}
	return nil
}
