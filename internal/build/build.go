// Package build solves a graph of cacheable operations into image layers.
//
// A vertex is one operation (op) on the results of its input vertices. A result
// is a chain: the diffIDs of layers, bottom first. An op that changes files adds
// one layer to the chain of its first input, its parent. Before it runs it
// names its inputs: everything that the layer depends on, and nothing else. The
// hash of the inputs is the cache key, and a cache record holds, under that key,
// the layer, the time it was made and the inputs, so that a miss can say which
// input changed. Keys are made of contents, never of times, so that two
// checkouts of the same sources hit the same records.
//
// A slot is the place of a step in a Dockerfile ("target/stage/3"): the last
// record of a slot is what a miss is compared with.
//
// Copying never touches a mount: it reads the build context, or the layers of a
// stage through their index, and writes a tar. Only Run needs a root file system
// and a runtime, and asks for them when the first step misses the cache.
package build

import (
	"context"
	"io"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"strake/internal/executor"
	"strake/internal/layer"
	"strake/internal/progress"
	"strake/internal/rootfs"
)

// Image is a base image, resolved and stored.
type Image struct {
	Layers   []digest.Digest    // diffIDs, bottom first
	Config   []byte             // the image config, as it is stored
	Manifest ocispec.Descriptor // of the platform's manifest
	// Ref is the name of the image that the policy put in the place of the one that was
	// asked for; "" is that one.
	Ref string
}

// Images finds base images.
type Images interface {
	// Resolve makes the image that ref (a normalized name) names for platform
	// available in the store and describes it. With pull it asks the registry
	// for a newer one even when the image is stored. It fails with
	// errdefs.ErrNotFound when there is no such image.
	Resolve(ctx context.Context, ref string, platform ocispec.Platform, pull bool) (Image, error)
}

// LayerStore keeps layers.
type LayerStore interface {
	// StageLayer takes in the tar that write writes, all of it or nothing. write
	// makes many small writes.
	StageLayer(ctx context.Context, write func(io.Writer) error) (layer.Staged, error)
	// CommitLayers puts staged layers into the store with the cache records that
	// come with them, as SaveCache does: all, durably, or none.
	CommitLayers(ctx context.Context, commits []layer.Commit) error
	// LockStep waits until no other process makes the step of a cache key, and
	// keeps others from it until release is called, or the process dies. Where it
	// has to wait it calls busy first.
	LockStep(ctx context.Context, key string, busy func()) (release func() error, err error)
	// Layer finds a stored layer, or fails with errdefs.ErrNotFound.
	Layer(ctx context.Context, diffID digest.Digest) (layer.Files, error)
	// HoldLayers keeps stored layers from being removed until the store is
	// closed, or fails with errdefs.ErrNotFound when one is gone already.
	HoldLayers(ctx context.Context, diffIDs ...digest.Digest) error
	// TempDir makes a directory on the store's file system.
	TempDir(ctx context.Context) (string, error)
}

// CacheStore keeps cache records.
type CacheStore interface {
	// LoadCache returns the record of key, or fails with errdefs.ErrNotFound.
	LoadCache(ctx context.Context, key string) ([]byte, error)
	// SaveCache records value under key, keeps layers alive with it, and makes
	// it the last record of slot.
	SaveCache(ctx context.Context, key, slot string, layers []digest.Digest, value []byte) error
	// LastCache returns the last record of slot, or errdefs.ErrNotFound.
	LastCache(ctx context.Context, slot string) ([]byte, error)
}

// ContextStore keeps one stat cache per context directory. Losing one costs
// time only.
type ContextStore interface {
	LoadContextIndex(ctx context.Context, dir string) ([]byte, error)
	SaveContextIndex(ctx context.Context, dir string, b []byte) error
}

// Store is all that a build needs of the local store.
type Store interface {
	LayerStore
	CacheStore
	CacheMounts
}

// Vertex is one step. Vertices are made once and not changed while they are
// solved.
type Vertex struct {
	Op     Op
	Inputs []*Vertex // the first is the parent
	Name   string    // as shown: "[builder 2/5] RUN make"; "" is not shown
	Slot   string    // the step's place; "" keeps no last record

	// NoCache makes the step run even when its result is recorded.
	NoCache bool
	// Context says that the step makes a build context: its layer, which may hold
	// what no stage copies, goes to no cache elsewhere.
	Context bool
	// Lines are the lines of the Dockerfile that the step comes from.
	Lines []int

	owner *Solver // that solves it, whichever is asked; nil: that one
}

// Op makes one layer, or is a base.
type Op interface {
	// Prepare finds out what the result depends on and how to make it. It is
	// called once per vertex, when the results of the inputs are there.
	Prepare(ctx context.Context, w *Work) (Step, error)
}

// Step is a prepared op.
type Step struct {
	// Done is the result of an op that makes no layer. It needs no cache.
	Done *Result
	// Inputs name all that the layer depends on, the parent excepted.
	Inputs []Input
	// Make writes the layer's tar.
	Make func(ctx context.Context, w io.Writer) error
}

// Input is one thing that a layer depends on.
type Input struct {
	Name  string `json:"n"` // such as "command", "env PATH", "files"
	Value string `json:"v"`
	// Listing is the content behind a Value that is its digest: one line per
	// file. It is stored beside the record.
	Listing []byte `json:"-"`
	// Stage is the vertex's input, from 1, whose files Value sums up; 0: none, or not
	// those of one.
	Stage int `json:"-"`
}

// Work is what an op works with.
type Work struct {
	Inputs []Result // results of the vertex's inputs
	Log    io.Writer
	solver *Solver
	vertex *Vertex
	leak   *SecretError // of the secret that was found in what the op made
}

// Result is what a vertex made.
type Result struct {
	Layers  []digest.Digest // the chain, bottom first
	Created time.Time       // when the top layer was made; zero for a base
	Cached  bool
}

// Runtime is what steps that run a command need.
type Runtime struct {
	Mounter  rootfs.Mounter
	Executor executor.Executor
	Spec     executor.Spec // what all steps share, such as the mount namespace
	Room     *rootfs.Room  // of that namespace: for what containers need and nobody keeps
	// Runs, when not nil, fails where commands of a platform cannot be run.
	Runs func(ocispec.Platform) error
}

// Options say how to solve.
type Options struct {
	Store Store // required

	// Exchange, when not nil, is the cache from elsewhere, and what of this build
	// can go there.
	Exchange *Exchange

	// Runtime is called once, by the first step that runs a command and misses
	// the cache.
	Runtime func(ctx context.Context) (*Runtime, error)

	// Missed, when not nil, is called once, before the first step that missed the
	// cache is made: what the build starts from is to be kept from then on.
	Missed func(ctx context.Context) error

	// Fetched, when not nil, is told what ADD and contexts take from elsewhere, of
	// steps in the cache too; more than once if several do. It is called by several
	// goroutines at once.
	Fetched func(Fetched)
	// At, when not nil, is what a ref of a repository stands for, wherever it is by now.
	At *GitRef

	// Policy, when not nil, decides over what the build reads.
	Policy Policy

	// Connect is the command that is Connect with the arguments HOST and PORT: git and
	// ssh reach servers by it. Where it is nil, git speaks HTTP alone.
	Connect func() ([]string, error)

	Secrets Secrets // nil: there are none
	Agents  Agents  // nil: none is lent
	Strict  bool    // what warns of secrets fails
	Shell   *Shell  // nil: none is opened

	Title    string               // of the build, in the names of its steps; "" for the only one
	Parallel int                  // steps at once; 0: one per core
	Epoch    *time.Time           // SOURCE_DATE_EPOCH: no file is newer
	Progress func(progress.Event) // called by one goroutine at a time
	Explain  func(Explanation)    // told why a step missed, likewise
	Now      func() time.Time     // nil: time.Now
}
