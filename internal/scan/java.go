package scan

import (
	"archive/zip"
	"bufio"
	"bytes"
	"io"
	"path"
	"strings"
)

// Bounds on Java archives.
const (
	maxJar       = 1 << 30   // bytes of one
	maxDirectory = 16 << 20  // bytes of its list of files
	maxInner     = 64 << 20  // bytes of an archive in it
	maxInnerAll  = 512 << 20 // bytes of all of them in one layer
	maxNesting   = 3
	maxManifest  = 256 << 10 // bytes of a manifest or a pom.properties
)

// isJar tells by its name whether a file is a Java archive.
func isJar(name string) bool {
	switch strings.ToLower(path.Ext(name)) {
	case ".jar", ".war", ".ear", ".par", ".hpi", ".jpi":
		return true
	}
	return false
}

// jar lists what a Java archive says that it is and what is in it.
func (c *collector) jar(name string, r io.ReaderAt, size int64, depth int) (found []Package) {
	if size > maxJar {
		return nil
	}
	limited := &budget{r, maxDirectory}
	z, err := zip.NewReader(limited, size)
	if err != nil {
		return nil
	}
	limited.left = 4 * size // each file once
	var manifest *zip.File
	for _, f := range z.File {
		switch {
		case f.Name == "META-INF/MANIFEST.MF":
			manifest = f
		case strings.HasPrefix(f.Name, "META-INF/maven/") && path.Base(f.Name) == "pom.properties":
			found = addPackage(found, pomProperties(part(f, maxManifest)))
		case isJar(f.Name) && depth < maxNesting && f.UncompressedSize64 <= maxInner && c.inner >= int64(f.UncompressedSize64):
			c.inner -= int64(f.UncompressedSize64)
			if b := part(f, int64(f.UncompressedSize64)); b != nil {
				found = append(found, c.jar(f.Name, bytes.NewReader(b), int64(len(b)), depth+1)...)
			}
		}
		if len(found) > maxPackages {
			return found[:maxPackages]
		}
	}
	if len(found) == 0 && manifest != nil {
		found = addPackage(found, manifestPackage(name, part(manifest, maxManifest)))
	}
	return found
}

// part reads a file of an archive, or as much as is allowed; nil is one that cannot be read.
func part(f *zip.File, most int64) []byte {
	r, err := f.Open()
	if err != nil {
		return nil
	}
	b, err := io.ReadAll(io.LimitReader(r, most))
	if r.Close() != nil || err != nil {
		return nil
	}
	return b
}

func pomProperties(b []byte) Package {
	values := keyValues(b, "=")
	if values["groupId"] == "" || values["artifactId"] == "" {
		return Package{}
	}
	return Package{Type: TypeMaven, Name: values["groupId"] + ":" + values["artifactId"], Version: values["version"]}
}

// manifestPackage is what a manifest says of an archive that Maven did not make:
// OSGi's name, or what the specification of manifests has for it.
func manifestPackage(name string, b []byte) Package {
	values := keyValues(b, ":")
	p := Package{Type: TypeMaven, Version: values["Implementation-Version"]}
	bundle, _, _ := strings.Cut(values["Bundle-SymbolicName"], ";")
	group, title := values["Implementation-Vendor-Id"], values["Implementation-Title"]
	base := strings.TrimSuffix(path.Base(name), path.Ext(name))
	switch {
	case sound(group) && sound(title):
		p.Name = group + ":" + title
	case sound(bundle):
		i := strings.LastIndexByte(bundle, '.')
		p.Name = strings.TrimPrefix(bundle[:max(i, 0)]+":"+bundle[i+1:], ":")
	case p.Version != "":
		p.Name = strings.TrimSuffix(base, "-"+p.Version)
	}
	if p.Version == "" {
		p.Version = values["Bundle-Version"]
	}
	return p
}

func keyValues(b []byte, separator string) map[string]string {
	values := map[string]string{}
	lines := bufio.NewScanner(bytes.NewReader(b))
	for lines.Scan() {
		if key, value, ok := strings.Cut(lines.Text(), separator); ok {
			values[strings.TrimSpace(key)] = strings.TrimSpace(value)
		}
	}
	return values
}
