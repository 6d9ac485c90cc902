package dockerfile

import (
	"context"
	"fmt"
	"strings"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"strake/internal/build"
	"strake/internal/reference"
)

// Context is what a further build context is: exactly one of its fields is set.
type Context struct {
	Dir   *build.LazyContext
	Files *build.Vertex // of a repository or an archive
	Image string        // as Options.Images finds it; "scratch" is none
	// Built gives what another build makes for a platform.
	Built func(context.Context, ocispec.Platform) (*build.Definition, error)
}

// ContextName is how the name of a further context is compared: that of an image
// without what is implied.
func ContextName(name string) (string, error) {
	ref, err := reference.Parse(name)
	if err != nil {
		return "", fmt.Errorf("invalid context name %s: %w", name, err)
	}
	return strings.TrimSuffix(ref.Familiar().String(), ":latest"), nil
}

// namedContext is the context that takes the place of a stage or image.
func (o *Options) namedContext(name string) (*namedContext, bool) {
	if len(o.Contexts) == 0 || strings.EqualFold(name, scratch) || strings.EqualFold(name, "context") {
		return nil, false
	}
	short, err := ContextName(name)
	if err != nil {
		return nil, false
	}
	found, ok := o.Contexts[short]
	if !ok {
		return nil, false
	}
	return &namedContext{found, "[context " + short + "] "}, true
}

// namedContext is a further context and how its steps begin.
type namedContext struct {
	Context
	label string
}

// override puts a context in the place of a stage of its name.
func (o *Options) override(s *stage) bool {
	found, ok := o.namedContext(s.Name)
	if ok {
		s.named, s.base, s.Commands = found, nil, nil
		s.BaseName = s.Name
	}
	return ok
}

// fromContext begins a stage with the files of a context.
func (s *stage) fromContext(platform ocispec.Platform, whole bool) {
	s.image, s.platform, s.dispatched = emptyImage(platform), &platform, s.external
	s.vertex = s.named.Files
	if s.named.Dir == nil {
		return
	}
	s.vertex = contextFiles(s.named.Dir, s.named.label)
	s.vertex.Lines = linesOf(s.Location)
	s.files = s.named.Dir
	if whole {
		s.whole()
		s.files = nil // the stage goes on from there
	}
}

// contextFiles makes a stage of what is loaded of a context.
func contextFiles(dir *build.LazyContext, label string) *build.Vertex {
	return &build.Vertex{
		Op: &build.Copy{
			Sources: []build.Source{{Context: dir.Load, Path: "."}}, Dest: "/", Instruction: "COPY /",
		},
		Inputs: []*build.Vertex{{Op: &build.Base{}}}, Name: label + "copy its files", Context: true,
	}
}

// begin begins a stage where another build ends.
func (n *namedContext) begin(ctx context.Context, s *stage, platform ocispec.Platform) error {
	def, err := n.Built(ctx, platform)
	if err != nil {
		return err
	}
	s.image, s.platform, s.vertex, s.dispatched = cloneImage(def.Config), &platform, def.Root, s.external
	return nil
}

// whole is the stage's files, all of them.
func (s *stage) whole() *build.Vertex {
	if s.files != nil {
		s.files.Want("/")
	}
	return s.vertex
}
