package layer

import "github.com/opencontainers/go-digest"

// Files says where a layer's files are. They never change once written.
type Files struct {
	DiffID digest.Digest // sha256 of Tar
	Size   int64         // bytes of Tar
	Tar    string        // path of the uncompressed layer tar
	Index  string        // path of its EROFS index
	Side   string        // path of the data that the tar cannot serve in place; "" if none
}

// Staged is a layer that is whole and can be read and mounted, but is not in a
// store yet.
type Staged interface {
	// Files are the layer's: good until Close, whether it is committed or not.
	Files() Files
	// Close gives the files up, and drops a layer that was not committed.
	Close() error
}

// Commit is a staged layer that is to be put into its store, and what is to be
// remembered of it there.
type Commit struct {
	Staged
	Records []Record
}

// Record is a value that a store remembers under a key. It keeps the layer that
// it comes with; slot names the place of which it is the last record.
type Record struct {
	Key, Slot string
	Value     []byte
}
