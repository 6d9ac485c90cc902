package scan

import (
	"fmt"
	"io/fs"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/containerd/errdefs"
	"github.com/google/go-cmp/cmp"
)

const dpkgStatus = `Package: libc6
Status: install ok installed
Architecture: amd64
Multi-Arch: same
Source: glibc (2.36-9)
Version: 2.36-9+deb12u8
Description: GNU C Library
 Version: none
 .
 Package: none

Package: gone
Status: deinstall ok config-files
Version: 1
Architecture: all

Package: held
Status: hold ok installed
Version: 2:3~rc1-4
Architecture: all`

const apkInstalled = `C:Q1abc=
P:musl
V:1.2.5-r0
A:x86_64
o:musl
F:lib
R:libc.so

P:ssl_client
V:1.36.1-r29
A:x86_64
o:busybox
`

func file(text string) *fstest.MapFile { return &fstest.MapFile{Data: []byte(text)} }

func deb(name, version, arch, source, sourceVersion string) Package {
	return Package{Type: TypeDeb, Name: name, Version: version, Arch: arch, Source: source, SourceVersion: sourceVersion}
}

func TestPackages(t *testing.T) {
	apk := func(name, version, source string) Package {
		return Package{Type: TypeAPK, Name: name, Version: version, Arch: "x86_64", Source: source, SourceVersion: version}
	}
	libc := deb("libc6", "2.36-9+deb12u8", "amd64", "glibc", "2.36-9")
	held := deb("held", "2:3~rc1-4", "all", "held", "2:3~rc1-4")
	musl, client := apk("musl", "1.2.5-r0", "musl"), apk("ssl_client", "1.36.1-r29", "busybox")
	in := func(ecosystem, name string, list ...Package) []Package {
		for i := range list {
			list[i].Ecosystem, list[i].File = ecosystem, name
		}
		return list
	}
	for name, c := range map[string]struct {
		files fstest.MapFS
		want  []Package
	}{
		"nothing": {nil, []Package{}},
		"dpkg": {
			fstest.MapFS{"var/lib/dpkg/status": file(dpkgStatus), "etc/os-release": file("ID=debian\nVERSION_ID=\"12\"\n")},
			in("Debian:12", "var/lib/dpkg/status", held, libc),
		},
		"apk": {
			fstest.MapFS{"lib/apk/db/installed": file(apkInstalled), "usr/lib/os-release": file("ID=alpine\nVERSION_ID=3.19.1\n")},
			in("Alpine:v3.19", "lib/apk/db/installed", musl, client),
		},
		"both": {
			fstest.MapFS{"usr/lib/apk/db/installed": file(apkInstalled), "var/lib/dpkg/status": file(dpkgStatus)},
			append(in("", "usr/lib/apk/db/installed", musl, client), in("", "var/lib/dpkg/status", held, libc)...),
		},
		"without dpkg": {fstest.MapFS{
			"var/lib/dpkg/status.d/base":         file("Package: base-files\nVersion: 12.4\nArchitecture: amd64\n"),
			"var/lib/dpkg/status.d/base.md5sums": file("Package: no\nVersion: 1\n"),
		}, in("", "var/lib/dpkg/status.d/base", deb("base-files", "12.4", "amd64", "base-files", "12.4"))},
		"a directory, and records of nothing": {fstest.MapFS{
			"var/lib/dpkg/status/x": file(""), "lib/apk/db/installed": file("\n\nP:no version\n\nV:1\n\n:\n"),
		}, []Package{}},
	} {
		got, err := Packages(c.files)
		if diff := cmp.Diff(c.want, got); diff != "" || err != nil {
			t.Errorf("%s: %v (-want +got):\n%s", name, err, diff)
		}
	}
}

func TestPackagesOfRPM(t *testing.T) {
	got, err := Packages(fstest.MapFS{"var/lib/rpm/rpmdb.sqlite": file("x"), "lib/apk/db/installed": file(apkInstalled)})
	if !errdefs.IsNotImplemented(err) || len(got) != 2 {
		t.Errorf("%v, %v, want two packages and an error that says so", got, err)
	}
}

// A record from a hostile image is not read into memory whole.
func TestPackagesBounds(t *testing.T) {
	many := fstest.MapFS{}
	for i := range maxFiles + 1 {
		many[fmt.Sprint("var/lib/dpkg/status.d/", i)] = file("x")
	}
	for name, fsys := range map[string]fs.FS{
		"line":     fstest.MapFS{"var/lib/dpkg/status": file("Package: " + strings.Repeat("x", maxLine))},
		"packages": fstest.MapFS{"lib/apk/db/installed": file(strings.Repeat("P:a\nV:1\n\n", maxPackages+1))},
		"bytes":    endless{fstest.MapFS{"var/lib/dpkg/status": file("x")}},
		"files":    many,
	} {
		if _, err := Packages(fsys); !errdefs.IsResourceExhausted(err) {
			t.Errorf("%s: %v, want an exhausted resource", name, err)
		}
	}
}

// endless has files that never end.
type endless struct{ fstest.MapFS }

func (e endless) Open(name string) (fs.File, error) {
	f, err := e.MapFS.Open(name)
	if info, _ := f.Stat(); err == nil && info.Mode().IsRegular() {
		return endlessFile{f}, nil
	}
	return f, err
}

type endlessFile struct{ fs.File }

func (endlessFile) Read(p []byte) (int, error) {
	for i := range p {
		p[i] = "x\n"[i%2]
	}
	return len(p), nil
}

// FuzzPackages holds that any bytes are read, and that what is found is whole.
func FuzzPackages(f *testing.F) {
	f.Add(dpkgStatus, apkInstalled)
	f.Add("Package:\nVersion:", "P:\nV:")
	f.Fuzz(func(t *testing.T, dpkg, apk string) {
		got, err := Packages(fstest.MapFS{
			"var/lib/dpkg/status": file(dpkg), "var/lib/dpkg/status.d/x": file(dpkg), "lib/apk/db/installed": file(apk),
		})
		if err != nil && !errdefs.IsResourceExhausted(err) {
			t.Fatal(err)
		}
		for _, p := range got {
			if p.Type == "" || p.Name == "" || p.Version == "" || p.Source == "" || strings.Contains(fmt.Sprint(p), "\n") {
				t.Errorf("%+v", p)
			}
		}
	})
}
