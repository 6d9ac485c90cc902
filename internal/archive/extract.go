package archive

// ExtractOptions say how a layer is extracted.
type ExtractOptions struct {
	// Squash leaves out what needs root: owners, devices, and the attributes
	// that the system refuses to set. Whoever extracts owns everything.
	Squash bool

	// IDs is how many owners the user namespace of the process has: files of
	// others belong to its root, and devices and refused attributes are left
	// out; 0 is no namespace.
	IDs int

	// Merge is for a directory that is the user's, not lower layers: files
	// replace files, directories that are there keep their look and what is in
	// them. What would put a file in a directory's place, or the reverse, and
	// whiteouts are refused with the errdefs kind FailedPrecondition.
	Merge bool
}

// limited reports whether devices and refused attributes are left out.
func (o ExtractOptions) limited() bool { return o.Squash || o.IDs > 0 }

// owner returns the owner that a file gets.
func (o ExtractOptions) owner(n *Inode) (uid, gid int) {
	if o.IDs > 0 && (int(n.UID) >= o.IDs || int(n.GID) >= o.IDs) {
		return 0, 0
	}
	return int(n.UID), int(n.GID)
}
