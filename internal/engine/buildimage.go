package engine

import (
	"context"
	"fmt"
	"io"
	"strings"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"strake/internal/build"
	"strake/internal/image"
	"strake/internal/layout"
	"strake/internal/progress"
	"strake/internal/reference"
	"strake/internal/remote"
	"strake/internal/store"
)

func item(step *build.Reporter, text string) { step.Item(progress.Item{ID: text, Done: true}) }

// image makes the image known to the store, and pushes it where that is asked
// for.
func (x *exporter) image(ctx context.Context, out Output) error {
	opts, err := out.imageOptions(x.names)
	if err != nil {
		return err
	}
	step := x.solver.Begin("exporting to image")
	return step.End(ctx, x.exportImage(ctx, step, opts))
}

func (x *exporter) exportImage(ctx context.Context, step *build.Reporter, opts imageOptions) error {
	x.warn(step, opts)
	var id digest.Digest // of the store's image, whose names may be another's when it is pushed
	if opts.store && !opts.byDigest {
		// Layers that nobody asked to be compressed stay as they are until they leave.
		// An image of eStargz has an ID of its own, which is to be that of the one that is pushed.
		compress := opts.estargz || !opts.push && (opts.recipe != store.Recipe{} || opts.force || x.attest.stored())
		a, err := x.assemble(ctx, step, forms{imageOptions: opts, compress: compress})
		if err == nil {
			id, err = x.name(ctx, step, a, opts)
		}
		if err != nil {
			return err
		}
		x.note(a, opts.names)
	}
	if !opts.push {
		return nil
	}
	return x.push(ctx, step, opts, id)
}

// warn tells of what cannot be done.
func (x *exporter) warn(step *build.Reporter, opts imageOptions) {
	if opts.rewrite && x.epoch == nil {
		step.Warn("rewrite-timestamp is specified, but no source-date-epoch was found\n")
	}
}

// name writes the image and gives it its names, unless the store has it with
// them already: then nothing is written. It returns the image's ID.
func (x *exporter) name(ctx context.Context, step *build.Reporter, a assembled, opts imageOptions) (id digest.Digest, err error) {
	names := make([]string, len(opts.names))
	for i, name := range opts.names {
		named, err := ParseTarget(name)
		if err != nil {
			return "", err
		}
		names[i] = named.String()
	}
	have := false
	id = a.config
	if a.config != "" {
		if have, err = x.env.Store.HasImage(ctx, a.config, a.root.Digest, names); err != nil {
			return "", err
		}
	}
	item(step, "exporting layers")
	if !have {
		if err := a.put(ctx, x.env.Store); err != nil {
			return "", err
		}
		img, err := x.env.Store.AddImage(ctx, store.AddImageOptions{Action: "build", Root: a.root, Names: names})
		if err != nil {
			return "", err
		}
		id = img.ID
	}
	item(step, "writing image "+a.id().String())
	for _, name := range names {
		item(step, "naming to "+name)
	}
	return id, nil
}

// id is what the image is called by: the digest of its config, or of its index.
func (a *assembled) id() digest.Digest {
	if a.config != "" {
		return a.config
	}
	return a.root.Digest
}

// note keeps what is told of the image.
func (x *exporter) note(a assembled, names []string) {
	root := a.root
	x.result.Root, x.result.ImageName = &root, strings.Join(names, ",")
	if x.result.ID == "" { // of the store's, which is called so here, before any other
		x.result.ID, x.result.Config = a.id(), a.config
	}
}

// push compresses the layers and pushes the image under its names. It is noted with
// the store's image of that ID, unless that is "".
func (x *exporter) push(ctx context.Context, step *build.Reporter, opts imageOptions, id digest.Digest) error {
	targets := make([]*pushTarget, len(opts.names))
	for i, name := range opts.names {
		var err error
		if targets[i], err = x.target(name, opts); err != nil {
			return err
		}
	}
	streams := &streams{repo: targets[0].repo}
	tee := func(layer ocispec.Descriptor) store.Tee { return streams.open(ctx, layer, opts.recipe.String()) }
	a, err := x.assemble(ctx, step, forms{imageOptions: opts, pushed: true, compress: true, tee: tee})
	streams.wait()
	if err == nil {
		err = a.put(ctx, x.env.Store)
	}
	if err != nil {
		return err
	}
	x.note(a, opts.names)
	for _, t := range targets {
		item(step, "pushing layers")
		if err := t.push(ctx, x.env, a.root, opts.byDigest); err != nil {
			return fmt.Errorf("failed to push %s: %w", t.name, err)
		}
		item(step, fmt.Sprintf("pushing manifest for %s@%s", t.named, a.root.Digest))
		if id != "" {
			if err := recordPush(ctx, x.env, t.named, id, a.root); err != nil {
				return err
			}
		}
	}
	return nil
}

// recordPush notes that an image was pushed to a name as root.
func recordPush(ctx context.Context, env *Env, named reference.Named, id digest.Digest, root ocispec.Descriptor) error {
	if err := env.Store.RecordRepoDigest(ctx, id, named.Name(), root); err != nil {
		return err
	}
	return env.Store.Tell(ctx, "push", named.Familiar().String(), named.Familiar().Name(), id)
}

// pushTarget is where an image is pushed to.
type pushTarget struct {
	name  string // as the user wrote it
	named reference.Named
	repo  *remote.Repository
}

func (x *exporter) target(name string, opts imageOptions) (*pushTarget, error) {
	named, err := reference.Parse(name)
	if err != nil {
		return nil, invalid("failed to parse %s: %v", name, err)
	}
	if opts.byDigest && !named.IsNameOnly() {
		return nil, invalid("can't push tagged ref %s by digest", named)
	}
	t := &pushTarget{name: name, named: named.OrLatest()}
	if opts.insecure {
		t.repo, err = x.env.Remote.InsecureRepository(named)
	} else {
		t.repo, err = x.env.Remote.Repository(named)
	}
	return t, err
}

// push copies root there and tags it.
func (t *pushTarget) push(ctx context.Context, env *Env, root ocispec.Descriptor, byDigest bool) error {
	if !byDigest {
		return upload(ctx, env, env.Store, t.repo, t.named, root, nil)
	}
	untagged, err := t.named.Repository().WithDigest(root.Digest)
	if err != nil {
		return err
	}
	return upload(ctx, env, env.Store, t.repo, untagged, root, nil)
}

// archive writes an OCI layout, or an archive that docker loads.
func (x *exporter) archive(ctx context.Context, out Output) error {
	opts, err := out.imageOptions(x.names)
	if err != nil {
		return err
	}
	if out.Type == OutputDocker && x.multi {
		return invalid("docker exporter does not support exporting manifest lists, use the oci exporter instead")
	}
	step := x.solver.Begin(fmt.Sprintf("exporting to %s image format", out.Type))
	return step.End(ctx, x.writeArchive(ctx, step, out, opts))
}

func (x *exporter) writeArchive(ctx context.Context, step *build.Reporter, out Output, opts imageOptions) error {
	x.warn(step, opts)
	a, err := x.assemble(ctx, step, forms{imageOptions: opts, compress: true})
	if err == nil {
		err = a.put(ctx, x.env.Store)
	}
	if err != nil {
		return err
	}
	entry := layout.ArchiveImage{Desc: a.root}
	for _, name := range opts.names {
		named, err := reference.Parse(name)
		if err != nil {
			return invalid("failed to parse %s: %v", name, err)
		}
		entry.Names = append(entry.Names, named.OrLatest().String())
	}
	x.note(a, entry.Names)
	if out.Dir() {
		return x.writeLayout(ctx, out.Dest, entry)
	}
	err = x.write(out.Dest, func(w io.Writer) error {
		return layout.WriteArchive(ctx, w, x.env.Store, []layout.ArchiveImage{entry}, layout.WriteOptions{})
	})
	if err == nil {
		item(step, "sending tarball")
	}
	return err
}

func (x *exporter) writeLayout(ctx context.Context, path string, entry layout.ArchiveImage) error {
	dir, err := layout.Open(path)
	if err != nil {
		return err
	}
	if err := image.CopyGraph(ctx, x.env.Store, dir, entry.Desc, image.CopyOptions{}); err != nil {
		return copyError(err)
	}
	refs := map[string]bool{}
	for _, name := range entry.Names {
		_, tag, _ := strings.Cut(name[strings.LastIndex(name, "/")+1:], ":")
		refs[tag] = true
	}
	if len(refs) == 0 {
		refs["latest"] = true
	}
	for ref := range refs {
		if err := dir.Tag(ctx, entry.Desc, ref); err != nil {
			return err
		}
	}
	return nil
}
