//go:build linux

package main

import (
	"archive/tar"
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"
)

const (
	manyImages    = 5000
	relatedImages = 50
	crowdedFiles  = 100_000
	relatedBase   = 20_000_000
	relatedChild  = 1_000_000
	crowdedName   = "localhost/crowded:1"
)

// makeMany writes a docker archive of n images that share a layer.
func makeMany(name string, n int) error {
	tiny, err := tarOf(func(s sink) error { return s.File("file", 0o644, []byte("shared\n")) })
	if err != nil {
		return err
	}
	return makeImages(name, "many", n, tiny, nil)
}

// makeRelated writes a docker archive of n children of one base; it returns the bytes of their unique layers.
func makeRelated(name string, seed uint64, n int, scale float64) (int64, error) {
	base, err := tarOf(func(s sink) error { return writeTree(s, seed, "base", int64(relatedBase*scale)) })
	if err != nil {
		return 0, err
	}
	unique := int64(len(base))
	err = makeImages(name, "related", n, base, func(i int) ([]byte, error) {
		b, err := tarOf(func(s sink) error {
			return writeTree(s, seed+1+uint64(i), fmt.Sprintf("child%d", i), int64(relatedChild*scale))
		})
		unique += int64(len(b))
		return b, err
	})
	return unique, err
}

func tarOf(fill func(sink) error) ([]byte, error) {
	var b bytes.Buffer
	err := writeTar(&b, fill)
	return b.Bytes(), err
}

// makeImages writes a docker archive of n images localhost/REPO:1 to n, each of the base and, where child makes one, of its own
// layer.
func makeImages(name, repo string, n int, base []byte, child func(i int) ([]byte, error)) (err error) {
	out, err := os.Create(name) // #nosec G304 -- below the scratch directory
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, out.Close()) }()
	buf := bufio.NewWriterSize(out, 1<<20)
	w := tar.NewWriter(buf)
	s := tarSink{w}
	put := func(layer []byte) (inputLayer, string, error) {
		l := inputLayer{DiffID: digestOf(layer), TarSize: int64(len(layer))}
		file := strings.TrimPrefix(l.DiffID, "sha256:") + ".tar"
		return l, file, s.File(file, 0o644, layer)
	}
	shared, sharedFile, err := put(base)
	if err != nil {
		return err
	}
	var manifests []savedManifest
	for i := range n {
		layers, files := []inputLayer{shared}, []string{sharedFile}
		if child != nil {
			data, err := child(i)
			if err != nil {
				return err
			}
			l, file, err := put(data)
			if err != nil {
				return err
			}
			layers, files = append(layers, l), append(files, file)
		}
		config := bytes.Replace(imageConfig(layers), []byte(`"Cmd":["true"]`), fmt.Appendf(nil, `"Cmd":["true"],"Labels":{"n":"%d"}`, i+1), 1)
		file := strings.TrimPrefix(digestOf(config), "sha256:") + ".json"
		if err := s.File(file, 0o644, config); err != nil {
			return err
		}
		manifests = append(manifests, savedManifest{Config: file, RepoTags: []string{fmt.Sprintf("localhost/%s:%d", repo, i+1)}, Layers: files})
	}
	b, err := json.Marshal(manifests)
	if err != nil {
		return err
	}
	return errors.Join(s.File("manifest.json", 0o644, b), w.Close(), buf.Flush())
}

// makeCrowded writes a tar of n small files.
func makeCrowded(name string, n int) (err error) {
	out, err := os.Create(name) // #nosec G304 -- below the scratch directory
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, out.Close()) }()
	buf := bufio.NewWriterSize(out, 1<<20)
	err = writeTar(buf, func(s sink) error {
		for i := range n {
			if i%500 == 0 {
				if err := s.Dir(fmt.Sprintf("d%d", i/500)); err != nil {
					return err
				}
			}
			if err := s.File(fmt.Sprintf("d%d/f%d", i/500, i), 0o644, fmt.Appendf(nil, "file %d\n", i)); err != nil {
				return err
			}
		}
		return nil
	})
	return errors.Join(err, buf.Flush())
}

// wantTags fails unless the tool lists n images of the repository.
func (s *session) wantTags(ctx context.Context, repo string, n int) error {
	out, err := s.output(ctx, "images")
	if err != nil {
		return err
	}
	if got := strings.Count(out, "localhost/"+repo+" "); got != n {
		return fmt.Errorf("%d images of %s, not %d", got, repo, n)
	}
	return nil
}

// manyGroup lists a store of thousands of images. podman is left out: it takes minutes to load them.
func manyGroup() group {
	return group{
		name: "images5000", tools: []string{"strake", "dockerd"}, rounds: 3, peerRounds: 1, inputs: []string{inputMany},
		prepare: func(ctx context.Context, s *session) error {
			_, err := s.output(ctx, "load", s.in.path("many.tar"))
			return err
		},
		steps: []step{{
			name: "images5000", title: fmt.Sprintf("List of the images, %d in the store (podman takes minutes to load them)", manyImages),
			verb: "images", repeat: 5,
			args: func(*session) []string { return nil },
			check: func(ctx context.Context, s *session) error {
				return s.wantTags(ctx, "many", max(1, int(manyImages*s.scale)))
			},
			goals: []goal{ratioGoal(20), timeGoal(25 * time.Millisecond)},
		}},
	}
}

// rmiGroup removes an image of very many files.
func rmiGroup() group {
	return group{
		name: "rmi", tools: []string{"strake", "dockerd", "podman"}, rounds: 3, peerRounds: 2, inputs: []string{inputCrowded},
		prepare: func(ctx context.Context, s *session) error {
			_, err := s.output(ctx, "import", s.in.path("crowded.tar"), crowdedName)
			return err
		},
		steps: []step{{
			name: "rmi", title: fmt.Sprintf("Removal of an image of %d files", crowdedFiles), verb: "rmi", disk: true,
			args: func(*session) []string { return []string{crowdedName} },
			check: func(ctx context.Context, s *session) error {
				if id, err := s.output(ctx, "id", crowdedName); err == nil && id != "" {
					return fmt.Errorf("%s is still there: %s", crowdedName, id)
				}
				return nil
			},
			goals: []goal{ratioGoal(1), timeGoal(20 * time.Millisecond)},
		}},
	}
}

// relatedGroup loads children of one base: what the store takes for them is what counts.
func relatedGroup() group {
	return group{
		name: "disk50", tools: []string{"strake", "dockerd", "podman"}, rounds: 3, peerRounds: 2, inputs: []string{inputRelated},
		steps: []step{{
			name: "disk50", verb: "load", disk: true,
			title: fmt.Sprintf("Load of %d images: a base of %d MB and a layer of %d MB each", relatedImages, relatedBase/1_000_000, relatedChild/1_000_000),
			args:  func(s *session) []string { return []string{s.in.path("related.tar")} },
			check: func(ctx context.Context, s *session) error {
				return s.wantTags(ctx, "related", max(1, int(relatedImages*s.scale)))
			},
			goals: []goal{ratioGoal(2), {"disk at most 1.02 of the unique layers", func(c comparison) bool {
				return float64(c.strake.Disk) <= 1.02*float64(c.in.Related)
			}}},
		}},
	}
}
