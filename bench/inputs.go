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
	"os"
	"path/filepath"
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
	// Base is the busybox tar's digest and size.
	Base inputFile
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

// makeInputs writes every input below dir, and inputs.json which describes them.
func makeInputs(ctx context.Context, dir string, seed uint64, scale float64) error {
	in := &inputs{dir: dir, Layers: make([]inputLayer, 2)}
	g, _ := errgroup.WithContext(ctx)
	for i, total := range []float64{layerBytes1, layerBytes2} {
		g.Go(func() (err error) {
			in.Layers[i], err = makeLayer(dir, fmt.Sprintf("layer%d", i), seed+uint64(i), int64(total*scale))
			return err
		})
	}
	if err := g.Wait(); err != nil {
		return err
	}
	in.Config, in.Small = imageConfig(in.Layers), imageConfig(in.Layers[1:])
	if err := makeArchive(in); err != nil {
		return err
	}
	var err error
	if in.Base, err = makeBase(dir); err != nil {
		return err
	}
	if in.Related, err = makeCrowds(dir, seed+3, scale); err != nil {
		return err
	}
	if err := makeContexts(dir, seed+2, int64(builtBytes*scale)); err != nil {
		return err
	}
	b, err := json.Marshal(in)
	if err != nil {
		return err
	}
	return os.WriteFile(in.path("inputs.json"), b, 0o600)
}

func readInputs(dir string) (*inputs, error) {
	in := &inputs{dir: dir}
	b, err := os.ReadFile(in.path("inputs.json"))
	if err != nil {
		return nil, err
	}
	return in, json.Unmarshal(b, in)
}

// makeLayer writes NAME.tar and NAME.tar.gz.
func makeLayer(dir, name string, seed uint64, size int64) (l inputLayer, err error) {
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
	if err := writeTar(io.MultiWriter(plain, diff, z), func(s sink) error { return writeTree(s, seed, name, size) }); err != nil {
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

// makeBase writes base.tar: a static busybox and links for what the steps call.
func makeBase(dir string) (inputFile, error) {
	f := inputFile{Path: filepath.Join(dir, "base.tar")}
	busybox, err := os.ReadFile("/bin/busybox")
	if err != nil {
		return f, fmt.Errorf("busybox-static is needed for the base image: %w", err)
	}
	out, err := os.Create(f.Path)
	if err != nil {
		return f, err
	}
	h := sha256.New()
	err = writeTar(io.MultiWriter(out, h), func(s sink) error {
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
	if err != nil {
		return f, errors.Join(err, out.Close())
	}
	f.Digest = hexDigest(h)
	f.Size, err = out.Seek(0, io.SeekCurrent)
	return f, errors.Join(err, out.Close())
}

// makeContexts writes the build contexts: run (20 RUN steps), copy (10 files) and big (a tree of size bytes).
func makeContexts(dir string, seed uint64, size int64) error {
	var run strings.Builder
	run.WriteString("FROM " + baseName + "\n")
	for i := range runSteps {
		fmt.Fprintf(&run, "RUN echo %d > /f%d\n", i+1, i+1)
	}
	s := dirSink{dir}
	errs := []error{
		s.Dir("run"), s.Dir("copy/app"), s.Dir("big"),
		s.File("run/Dockerfile", 0o644, []byte(run.String())),
		s.File("copy/Dockerfile", 0o644, []byte("FROM "+baseName+"\nCOPY app /app\n")),
		s.File("big/Dockerfile", 0o644, []byte("FROM "+baseName+"\nCOPY tree /tree\n")),
	}
	for i := range copyFiles {
		errs = append(errs, s.File(fmt.Sprintf("copy/app/%d", i), 0o644, copyContent(i)))
	}
	errs = append(errs, writeTree(dirSink{filepath.Join(dir, "big")}, seed, "tree", size))
	return errors.Join(errs...)
}

// copyContent is the content of the i-th file of the small context.
func copyContent(i int) []byte {
	return []byte(strings.Repeat(fmt.Sprintf("line of file %d\n", i), 100))
}
