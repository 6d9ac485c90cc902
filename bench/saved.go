//go:build linux

package main

import (
	"archive/tar"
	"bufio"
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path"
	"slices"
	"strings"
)

// savedManifest is an entry of manifest.json in an archive as docker save writes it.
type savedManifest struct {
	Config   string
	RepoTags []string
	Layers   []string
}

// A saved image is what reading an archive of docker save gives.
type saved struct {
	ID      string
	DiffIDs []string
	// Files are the digests of the regular files of at most 1 MiB in all layers, by path without a leading slash, where asked for.
	Files map[string]string
}

// member is one file of the archive.
type member struct {
	link  string // target, when it is a link
	data  []byte // at most 1 MiB
	diff  string // digest of the uncompressed bytes
	files map[string]string
}

const smallFile = 1 << 20

// readSaved reads an archive and checks that the layers are those the config names; files asks for their contents too.
func readSaved(name string, files bool) (*saved, error) {
	members, err := readMembers(name, files)
	if err != nil {
		return nil, err
	}
	return resolveSaved(members)
}

// wantArchive fails unless an OCI archive has one image of that many gzip layers, which are those the config names.
func wantArchive(name string, layers int) error {
	members, err := readMembers(name, false)
	if err != nil {
		return err
	}
	var index struct{ Manifests []descriptor }
	var m manifest
	var config struct {
		RootFS struct {
			DiffIDs []string `json:"diff_ids"`
		} `json:"rootfs"`
	}
	blob := func(digest string) member { return members["blobs/sha256/"+strings.TrimPrefix(digest, "sha256:")] }
	if err := json.Unmarshal(members["index.json"].data, &index); err != nil || len(index.Manifests) != 1 {
		return fmt.Errorf("index.json with %d images: %w", len(index.Manifests), errors.Join(err, errors.New("want one")))
	}
	if err := json.Unmarshal(blob(index.Manifests[0].Digest).data, &m); err != nil {
		return fmt.Errorf("manifest: %w", err)
	}
	if err := json.Unmarshal(blob(m.Config.Digest).data, &config); err != nil {
		return fmt.Errorf("config: %w", err)
	}
	var got []string
	for _, l := range m.Layers {
		if !strings.HasSuffix(l.MediaType, "gzip") {
			return fmt.Errorf("a layer of type %s", l.MediaType)
		}
		got = append(got, blob(l.Digest).diff)
	}
	if len(got) != layers || !slices.Equal(got, config.RootFS.DiffIDs) {
		return fmt.Errorf("layers %v, the config's %v, want %d", got, config.RootFS.DiffIDs, layers)
	}
	return nil
}

func readMembers(name string, files bool) (map[string]member, error) {
	f, err := os.Open(name) // #nosec G304 -- just saved
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }() // read only
	members := map[string]member{}
	r := tar.NewReader(bufio.NewReaderSize(f, 1<<20))
	for {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			return members, nil
		}
		if err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
		m := member{link: h.Linkname}
		if h.Typeflag == tar.TypeReg {
			if m, err = readMember(r, files); err != nil {
				return nil, fmt.Errorf("%s: %s: %w", name, h.Name, err)
			}
		}
		members[path.Clean(h.Name)] = m
	}
}

func resolveSaved(members map[string]member) (*saved, error) {
	var manifests []savedManifest
	if err := json.Unmarshal(members["manifest.json"].data, &manifests); err != nil || len(manifests) != 1 {
		return nil, fmt.Errorf("manifest.json with %d images: %w", len(manifests), errors.Join(err, errors.New("want one")))
	}
	var config struct {
		RootFS struct {
			DiffIDs []string `json:"diff_ids"`
		} `json:"rootfs"`
	}
	raw := members[path.Clean(manifests[0].Config)].data
	if err := json.Unmarshal(raw, &config); err != nil {
		return nil, fmt.Errorf("config: %w", err)
	}
	s := &saved{ID: digestOf(raw), Files: map[string]string{}}
	for _, l := range manifests[0].Layers {
		name := path.Clean(l)
		m := members[name]
		for range 8 { // docker links layers that occur twice
			if m.link == "" {
				break
			}
			name = path.Join(path.Dir(name), m.link)
			m = members[name]
		}
		s.DiffIDs = append(s.DiffIDs, m.diff)
		maps.Copy(s.Files, m.files)
	}
	if !slices.Equal(s.DiffIDs, config.RootFS.DiffIDs) {
		return nil, fmt.Errorf("layers %v are not the config's %v", s.DiffIDs, config.RootFS.DiffIDs)
	}
	return s, nil
}

// readMember hashes a file, uncompressed, and looks into it when it is a tar.
func readMember(r io.Reader, files bool) (member, error) {
	br := bufio.NewReaderSize(r, 64<<10)
	if magic, err := br.Peek(2); err == nil && magic[0] == 0x1f && magic[1] == 0x8b {
		z, err := gzip.NewReader(br)
		if err != nil {
			return member{}, err
		}
		br = bufio.NewReaderSize(z, 64<<10)
	}
	m := member{}
	h := sha256.New()
	tee := io.TeeReader(br, h)
	if head, err := br.Peek(512); err == nil && bytes.Equal(head[257:262], []byte("ustar")) {
		if files {
			if m.files, err = readLayer(tee); err != nil {
				return m, err
			}
		}
	} else if m.data, err = io.ReadAll(io.LimitReader(tee, smallFile)); err != nil {
		return m, err
	}
	_, err := io.Copy(io.Discard, tee)
	m.diff = hexDigest(h)
	return m, err
}

func readLayer(r io.Reader) (map[string]string, error) {
	files := map[string]string{}
	t := tar.NewReader(r)
	for {
		h, err := t.Next()
		if errors.Is(err, io.EOF) {
			return files, nil
		}
		if err != nil {
			return nil, err
		}
		if h.Typeflag != tar.TypeReg || h.Size > smallFile {
			continue
		}
		b, err := io.ReadAll(t)
		if err != nil {
			return nil, err
		}
		files[strings.TrimPrefix(path.Clean(h.Name), "/")] = digestOf(b)
	}
}
