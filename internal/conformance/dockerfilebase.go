package conformance

import (
	"archive/tar"
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"maps"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	dockerspec "github.com/moby/docker-image-spec/specs-go/v1"
	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// baseMark is a file that the base images' layer has and no other.
const baseMark = "etc/corpus"

// BaseImages are the images that cases are FROM, by name: one layer, and a
// config that each is named after.
func BaseImages() map[string]dockerspec.DockerOCIImageConfig {
	config := func(set func(*dockerspec.DockerOCIImageConfig)) (c dockerspec.DockerOCIImageConfig) {
		c.Env = []string{"PATH=/bin"}
		c.Cmd = []string{"sh"}
		set(&c)
		return c
	}
	onBuild := func(triggers ...string) dockerspec.DockerOCIImageConfig {
		return config(func(c *dockerspec.DockerOCIImageConfig) { c.OnBuild = triggers })
	}
	return map[string]dockerspec.DockerOCIImageConfig{
		"busybox": config(func(*dockerspec.DockerOCIImageConfig) {}),
		"nopath":  {},
		"full": config(func(c *dockerspec.DockerOCIImageConfig) {
			c.Env = append(c.Env, "BASE=one", "EMPTY=")
			c.Entrypoint, c.Cmd = []string{"/bin/echo", "entry"}, []string{"command"}
			c.User, c.WorkingDir, c.StopSignal = "alice", "/data", "SIGINT"
			c.Labels = map[string]string{"base": "label", "both": "base"}
			c.Volumes = map[string]struct{}{"/vol": {}}
			c.ExposedPorts = map[string]struct{}{"80/tcp": {}}
			c.Shell = []string{"/bin/sh", "-ec"}
			c.Healthcheck = &dockerspec.HealthcheckConfig{Test: []string{"CMD", "true"}, Interval: 5 * time.Second, Retries: 2}
		}),
		"onbuild-run":  onBuild("RUN echo triggered > /triggered", "ENV TRIGGERED=yes"),
		"onbuild-copy": onBuild("COPY . /app/", "WORKDIR /app"),
		"onbuild-from": onBuild("COPY --from=helper /made /from-helper"),
		"onbuild-arg":  onBuild("ARG VERSION=1", "LABEL version=$VERSION"),
		"relative":     config(func(c *dockerspec.DockerOCIImageConfig) { c.WorkingDir = "relative/dir" }),
	}
}

// applets are the commands of the base images.
const applets = `sh ash ls cat echo mkdir touch chmod chown ln rm rmdir mv cp id env sleep test stat wc sort grep sed tr
head tail mknod mkfifo true false pwd printf date find od dirname basename whoami readlink tee xargs seq sync dd hostname wget awk`

// WriteBaseImages writes the base images as an OCI archive that docker load and
// skopeo read.
func WriteBaseImages(t *testing.T, file string) {
	t.Helper()
	if runtime.GOARCH != "amd64" || runtime.GOOS != "linux" {
		t.Skip("this kernel cannot run programs for linux/amd64")
	}
	name, err := exec.LookPath("busybox")
	if err != nil {
		t.Skip("needs busybox-static")
	}
	busybox, err := os.ReadFile(name)
	ok(t, err)
	a := &ociArchive{index: ocispec.Index{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageIndex}}
	a.tar = tar.NewWriter(&a.out)
	layer := a.blob(t, ocispec.MediaTypeImageLayer, baseLayer(t, busybox))
	images := BaseImages()
	for _, image := range slices.Sorted(maps.Keys(images)) {
		config := images[image]
		var platforms []ocispec.Descriptor
		for _, arch := range []string{"amd64", "arm64"} {
			platforms = append(platforms, a.manifest(t, arch, config, layer))
		}
		desc := a.json(t, ocispec.MediaTypeImageIndex, ocispec.Index{
			Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageIndex, Manifests: platforms,
		})
		desc.Annotations = map[string]string{
			"io.containerd.image.name": "docker.io/library/" + image + ":latest", ocispec.AnnotationRefName: image,
		}
		a.index.Manifests = append(a.index.Manifests, desc)
	}
	index, err := json.Marshal(a.index)
	ok(t, err)
	a.file(t, "index.json", index)
	a.file(t, ocispec.ImageLayoutFile, []byte(`{"imageLayoutVersion":"1.0.0"}`))
	ok(t, a.tar.Close())
	ok(t, os.WriteFile(file, a.out.Bytes(), 0o600))
}

// ociArchive is an archive that is being written.
type ociArchive struct {
	out   bytes.Buffer
	tar   *tar.Writer
	index ocispec.Index
	seen  map[digest.Digest]bool
}

func (a *ociArchive) manifest(t *testing.T, arch string, config dockerspec.DockerOCIImageConfig, layer ocispec.Descriptor) ocispec.Descriptor {
	at := caseTime.AddDate(-1, 0, 0)
	var img dockerspec.DockerOCIImage
	img.Platform = ocispec.Platform{OS: "linux", Architecture: arch}
	img.Created, img.Config = &at, config
	img.RootFS = ocispec.RootFS{Type: "layers", DiffIDs: []digest.Digest{layer.Digest}}
	img.History = []ocispec.History{{Created: &at, CreatedBy: "base"}}
	desc := a.json(t, ocispec.MediaTypeImageManifest, ocispec.Manifest{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest,
		Config: a.json(t, ocispec.MediaTypeImageConfig, img), Layers: []ocispec.Descriptor{layer},
	})
	desc.Platform = &img.Platform
	return desc
}

func (a *ociArchive) json(t *testing.T, mediaType string, v any) ocispec.Descriptor {
	b, err := json.Marshal(v)
	ok(t, err)
	return a.blob(t, mediaType, b)
}

func (a *ociArchive) blob(t *testing.T, mediaType string, b []byte) ocispec.Descriptor {
	desc := ocispec.Descriptor{MediaType: mediaType, Digest: digest.FromBytes(b), Size: int64(len(b))}
	if !a.seen[desc.Digest] {
		a.file(t, "blobs/sha256/"+desc.Digest.Encoded(), b)
	}
	if a.seen == nil {
		a.seen = map[digest.Digest]bool{}
	}
	a.seen[desc.Digest] = true
	return desc
}

func (a *ociArchive) file(t *testing.T, name string, b []byte) {
	ok(t, a.tar.WriteHeader(&tar.Header{Name: name, Mode: 0o644, Size: int64(len(b)), Typeflag: tar.TypeReg}))
	_, err := a.tar.Write(b)
	ok(t, err)
}

// baseFiles are the files of the base images, as packCase reads them.
const baseFiles = `dir 755 0:0 bin/
dir 755 0:0 etc/
file 644 0:0 ` + baseMark + ` base
dir 1777 0:0 tmp/
dir 700 0:0 root/
dir 755 0:0 home/
dir 750 1000:1000 home/alice/
dir 2775 1000:50 data/
file 640 1000:50 data/file in data
dir 711 0:0 data/sub/
file 4755 0:0 data/setuid x
link 777 0:0 link data
link 777 0:0 abs /data
link 777 0:0 data/up ../etc
link 777 0:0 dangling nowhere/at/all
link 777 0:0 filelink data/file
link 777 0:0 loop loop
dir 755 0:0 run/
dir 755 0:0 dev/
dir 555 0:0 proc/
dir 555 0:0 sys/
dir 755 0:0 var/
link 777 0:0 var/run ../run
dir 755 0:0 usr/
dir 755 0:0 usr/lib/
link 777 0:0 lib usr/lib
file 600 7:8 owned secretive
hard 600 7:8 hardlink owned
`

func baseLayer(t *testing.T, busybox []byte) []byte {
	lines := baseFiles
	for applet := range strings.FieldsSeq(applets) {
		lines += "link 777 0:0 bin/" + applet + " busybox\n"
	}
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for r := tar.NewReader(bytes.NewReader(packCase(t, "", []byte(lines)))); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		ok(t, err)
		h.ModTime = caseTime.AddDate(-2, 0, 0)
		ok(t, w.WriteHeader(h))
		_, err = io.Copy(w, r)
		ok(t, err)
	}
	for _, f := range [][2]string{
		{"etc/passwd", "root:x:0:0:root:/root:/bin/sh\nalice:x:1000:1000::/home/alice:/bin/sh\nbob:x:1001:50::/:/bin/sh\n"},
		{"etc/group", "root:x:0:\nstaff:x:50:\nalice:x:1000:\nwheel:x:10:alice,bob\n"},
		{"bin/busybox", string(busybox)},
	} {
		name, content := f[0], f[1]
		ok(t, w.WriteHeader(&tar.Header{
			Typeflag: tar.TypeReg, Name: name, Mode: 0o755, Size: int64(len(content)), ModTime: caseTime.AddDate(-2, 0, 0),
		}))
		_, err := io.WriteString(w, content)
		ok(t, err)
	}
	ok(t, w.Close())
	return b.Bytes()
}
