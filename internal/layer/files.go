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
