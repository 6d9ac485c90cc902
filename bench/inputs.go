//go:build linux

package main

import (
	"archive/tar"
	"compress/gzip"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"hash"
	"io"
	"maps"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"

	"golang.org/x/sync/errgroup"
)

// Sizes of the inputs at scale 1.
const (
	layerBytes1 = 166_500_000
	layerBytes2 = 133_000_000
	builtBytes  = 136_000_000
	runSteps    = 20
	copyFiles   = 10
	someFiles   = 10_000
	manyFiles   = 100_000
	fileBytes   = 2 << 10
	stages      = 8
)

// Inputs that take long to make: a group names those it needs.
const (
	inputImage   = "image"   // the big image: layers and archive
	inputMany    = "many"    // an archive of thousands of images
	inputRelated = "related" // an archive of images of one base
	inputCrowded = "crowded" // a root file system of very many files
	inputBig     = "big"     // a context of one big layer
	inputFiles   = "files"   // contexts of very many files
)

// inputs is what every tool works on; paths are below dir.
type inputs struct {
	dir string
	// Layers are the two big gzip layers; Config is the image's config, its digest the image ID.
	Layers []inputLayer
	Config []byte
	// Small is the config of an image of the second layer alone.
	Small []byte
	// Related are the bytes of the unique layers of related.tar.
	Related int64
	// Base is the one layer of the base image, busybox.
	Base inputLayer
}

type inputFile struct {
	Path   string
	Digest string
	Size   int64
}

type inputLayer struct {
	inputFile        // compressed
	DiffID    string // of the tar
	TarSize   int64
}

func (in *inputs) path(name string) string { return filepath.Join(in.dir, name) }
func (in *inputs) imageID() string         { return digestOf(in.Config) }

// sizes are the compressed and uncompressed bytes of the big image's layers.
func (in *inputs) sizes() (compressed, uncompressed int64) {
	for _, l := range in.Layers {
		compressed, uncompressed = compressed+l.Size, uncompressed+l.TarSize
	}
	return compressed, uncompressed
}

func digestOf(b []byte) string {
	s := sha256.Sum256(b)
	return "sha256:" + hex.EncodeToString(s[:])
}

func hexDigest(h hash.Hash) string { return "sha256:" + hex.EncodeToString(h.Sum(nil)) }

// makeInputs writes the inputs below dir that are needed, and inputs.json which describes them.
func makeInputs(ctx context.Context, dir string, seed uint64, scale float64, need map[string]bool) (err error) {
	in := &inputs{dir: dir}
	if in.Base, err = makeBase(dir); err != nil {
		return err
	}
	n := func(count int) int { return max(1, int(float64(count)*scale)) }
	made := map[string]func() error{
		inputImage: func() error { return in.makeImage(ctx, seed, scale) },
		inputMany:  func() error { return makeMany(in.path("many.tar"), n(manyImages)) },
		inputRelated: func() (err error) {
			in.Related, err = makeRelated(in.path("related.tar"), seed+3, n(relatedImages), scale)
			return err
		},
		inputCrowded: func() error { return makeCrowded(in.path("crowded.tar"), n(crowdedFiles)) },
		inputBig:     func() error { return makeBig(dir, seed+2, int64(builtBytes*scale)) },
		inputFiles: func() error {
			return errors.Join(makeFiles(in.path("files10k"), seed+4, n(someFiles)), makeFiles(in.path("files100k"), seed+5, n(manyFiles)))
		},
	}
	var g errgroup.Group
	g.SetLimit(runtime.NumCPU())
	for _, kind := range slices.Sorted(maps.Keys(made)) {
		if !need[kind] {
			continue
		}
		g.Go(func() error {
			if err := errors.Join(made[kind](), ctx.Err()); err != nil {
				return fmt.Errorf("%s: %w", kind, err)
			}
			return nil
		})
	}
	if err := errors.Join(g.Wait(), makeContexts(dir)); err != nil {
		return err
	}
	b, err := json.Marshal(in)
	if err != nil {
		return err
	}
	return os.WriteFile(in.path("inputs.json"), b, 0o600)
}

// makeImage makes the big image's layers and its archive.
func (in *inputs) makeImage(ctx context.Context, seed uint64, scale float64) error {
	in.Layers = make([]inputLayer, 2)
	g, _ := errgroup.WithContext(ctx)
	for i, total := range []float64{layerBytes1, layerBytes2} {
		g.Go(func() (err error) {
			in.Layers[i], err = makeLayer(in.dir, fmt.Sprintf("layer%d", i), seed+uint64(i), int64(total*scale))
			return err
		})
	}
	if err := g.Wait(); err != nil {
		return err
	}
	in.Config, in.Small = imageConfig(in.Layers), imageConfig(in.Layers[1:])
	return makeArchive(in)
}

func readInputs(dir string) (*inputs, error) {
	in := &inputs{dir: dir}
	b, err := os.ReadFile(in.path("inputs.json"))
	if err != nil {
		return nil, err
	}
	return in, json.Unmarshal(b, in)
}

// makeLayer writes a tree as a layer.
func makeLayer(dir, name string, seed uint64, size int64) (inputLayer, error) {
	return packLayer(dir, name, func(s sink) error { return writeTree(s, seed, name, size) })
}

// packLayer writes NAME.tar and NAME.tar.gz.
func packLayer(dir, name string, fill func(sink) error) (l inputLayer, err error) {
	l.Path = filepath.Join(dir, name+".tar.gz")
	plain, err := os.Create(filepath.Join(dir, name+".tar"))
	if err != nil {
		return l, err
	}
	defer func() { err = errors.Join(err, plain.Close()) }()
	packed, err := os.Create(l.Path)
	if err != nil {
		return l, err
	}
	defer func() { err = errors.Join(err, packed.Close()) }()
	diff, blob := sha256.New(), sha256.New()
	z := gzip.NewWriter(io.MultiWriter(packed, blob))
	if err := writeTar(io.MultiWriter(plain, diff, z), fill); err != nil {
		return l, err
	}
	if err := z.Close(); err != nil {
		return l, err
	}
	l.DiffID, l.Digest = hexDigest(diff), hexDigest(blob)
	if l.TarSize, err = plain.Seek(0, io.SeekCurrent); err != nil {
		return l, err
	}
	l.Size, err = packed.Seek(0, io.SeekCurrent)
	return l, err
}

// imageConfig is the config of an image of the layers.
func imageConfig(layers []inputLayer) []byte {
	var ids, history []string
	for i, l := range layers {
		ids = append(ids, fmt.Sprintf("%q", l.DiffID))
		history = append(history, fmt.Sprintf(`{"created":"2023-11-14T22:13:20Z","created_by":"layer %d"}`, i))
	}
	return fmt.Appendf(nil, `{"architecture":"amd64","os":"linux","created":"2023-11-14T22:13:20Z","config":{"Cmd":["true"]},`+
		`"rootfs":{"type":"layers","diff_ids":[%s]},"history":[%s]}`, strings.Join(ids, ","), strings.Join(history, ","))
}

// makeArchive writes archive.tar, the big image as docker save writes it: uncompressed layers and manifest.json.
func makeArchive(in *inputs) (err error) {
	out, err := os.Create(in.path("archive.tar"))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, out.Close()) }()
	config := strings.TrimPrefix(in.imageID(), "sha256:") + ".json"
	var names []string
	w := tar.NewWriter(out)
	for i, l := range in.Layers {
		name := strings.TrimPrefix(l.DiffID, "sha256:") + ".tar"
		names = append(names, name)
		if err := w.WriteHeader(&tar.Header{Name: name, Mode: 0o644, Size: l.TarSize, ModTime: treeTime()}); err != nil {
			return err
		}
		f, err := os.Open(in.path(fmt.Sprintf("layer%d.tar", i)))
		if err != nil {
			return err
		}
		_, err = io.Copy(w, f)
		if err := errors.Join(err, f.Close()); err != nil {
			return err
		}
	}
	manifest, err := json.Marshal([]savedManifest{{Config: config, RepoTags: []string{loadedName}, Layers: names}})
	if err != nil {
		return err
	}
	s := tarSink{w}
	if err := errors.Join(s.File(config, 0o644, in.Config), s.File("manifest.json", 0o644, manifest)); err != nil {
		return err
	}
	return w.Close()
}

// makeBase writes base.tar and base.tar.gz: a static busybox and links for what the steps call.
func makeBase(dir string) (inputLayer, error) {
	busybox, err := os.ReadFile("/bin/busybox")
	if err != nil {
		return inputLayer{}, fmt.Errorf("busybox-static is needed for the base image: %w", err)
	}
	return packLayer(dir, "base", func(s sink) error {
		var errs []error
		for _, d := range []string{"bin", "dev", "etc", "proc", "sys", "tmp"} {
			errs = append(errs, s.Dir(d))
		}
		errs = append(errs, s.File("bin/busybox", 0o755, busybox))
		for _, l := range []string{"cat", "echo", "sh", "true"} {
			errs = append(errs, s.Link("bin/"+l, "busybox"))
		}
		return errors.Join(errs...)
	})
}

// makeContexts writes the small build contexts: base (one step on it), run (20 RUN steps), copy (10 files) and stages (8 stages that compute).
func makeContexts(dir string) error {
	var run, each strings.Builder
	run.WriteString("FROM " + baseName + "\n")
	for i := range runSteps {
		fmt.Fprintf(&run, "RUN echo %d > /f%d\n", i+1, i+1)
	}
	each.WriteString("FROM " + baseName + " AS base\n")
	for i := range stages {
		fmt.Fprintf(&each, "FROM base AS s%d\nRUN i=0; while [ $i -lt 200000 ]; do i=$((i+1)); done; echo %d > /s%d\n", i, i, i)
	}
	each.WriteString("FROM base\n")
	for i := range stages {
		fmt.Fprintf(&each, "COPY --from=s%d /s%d /\n", i, i)
	}
	s := dirSink{dir}
	errs := []error{
		s.Dir("base"), s.Dir("run"), s.Dir("copy/app"), s.Dir("stages"),
		s.File("base/Dockerfile", 0o644, []byte("FROM "+baseName+"\nRUN true\n")),
		s.File("run/Dockerfile", 0o644, []byte(run.String())),
		s.File("stages/Dockerfile", 0o644, []byte(each.String())),
		s.File("copy/Dockerfile", 0o644, []byte("FROM "+baseName+"\nCOPY app /app\n")),
	}
	for i := range copyFiles {
		errs = append(errs, s.File(fmt.Sprintf("copy/app/%d", i), 0o644, copyContent(i)))
	}
	return errors.Join(errs...)
}

// makeBig writes the context big: a tree of size bytes.
func makeBig(dir string, seed uint64, size int64) error {
	s := dirSink{filepath.Join(dir, "big")}
	return errors.Join(s.Dir("."), s.File("Dockerfile", 0o644, []byte("FROM "+baseName+"\nCOPY tree /tree\n")), writeTree(s, seed, "tree", size))
}

// makeFiles writes a context of n files of 2 KiB, 200 a directory.
func makeFiles(dir string, seed uint64, n int) error {
	s, g := dirSink{dir}, newGenerator(seed)
	if err := errors.Join(s.Dir("."), s.File("Dockerfile", 0o644, []byte("FROM "+baseName+"\nCOPY tree /tree\n"))); err != nil {
		return err
	}
	for i := range n {
		in := fmt.Sprintf("tree/%d", i/200)
		if i%200 == 0 {
			if err := s.Dir(in); err != nil {
				return err
			}
		}
		if err := s.File(fmt.Sprintf("%s/%d", in, i), 0o644, g.kind(kindText, fileBytes)); err != nil {
			return err
		}
	}
	return nil
}

// copyContent is the content of the i-th file of the small context.
func copyContent(i int) []byte {
	return []byte(strings.Repeat(fmt.Sprintf("line of file %d\n", i), 100))
}
