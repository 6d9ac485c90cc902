package archive

// ExtractOptions say how a layer is extracted.
type ExtractOptions struct {
	// Squash leaves out what needs root: owners, devices, and the attributes
	// that the system refuses to set. Whoever extracts owns everything.
	Squash bool
}
