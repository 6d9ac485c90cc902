package archive

// ExtractOptions say how a layer is extracted.
type ExtractOptions struct {
	// Squash leaves out what needs root: owners, devices, and the attributes
	// that the system refuses to set. Whoever extracts owns everything.
	Squash bool

	// Merge is for a directory that is the user's, not lower layers: files
	// replace files, directories that are there keep their look and what is in
	// them. What would put a file in a directory's place, or the reverse, and
	// whiteouts are refused with the errdefs kind FailedPrecondition.
	Merge bool
}
