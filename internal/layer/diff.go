package layer

// DiffOptions say what Diff writes.
type DiffOptions struct {
	Root bool // with an entry for the directory itself
	// Skip leaves out the entry of that name, and all below it; nil: nothing.
	Skip func(name string) bool
	// Stub leaves out the entry of that name where it is an empty file or directory; nil: nothing.
	Stub func(name string) bool
	// Owner tells whose an entry is, where that is not who owns the file; nil: it always is.
	Owner func(name string) (uid, gid uint32, known bool)
}

// TreeOptions say how WriteTree writes a tree.
type TreeOptions struct {
	Name  string // of what it begins with; "" is the tar's root directory, "." what is in that alone
	Plain bool   // without attributes, and without what lends a program its owner's rights
}
