package layer

// DiffOptions say what Diff writes.
type DiffOptions struct {
	// Skip leaves out the entry of that name, and all below it; nil: nothing.
	Skip func(name string) bool
}
