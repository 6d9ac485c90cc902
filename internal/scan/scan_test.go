package scan

import (
	"fmt"
	"io/fs"
	"strings"
	"testing"
	"testing/fstest"
	"time"

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

func TestPackages(t *testing.T) {
	libc := Package{TypeDeb, "libc6", "2.36-9+deb12u8", "amd64", "glibc"}
	held := Package{TypeDeb, "held", "2:3~rc1-4", "all", "held"}
	musl := Package{TypeAPK, "musl", "1.2.5-r0", "x86_64", "musl"}
	client := Package{TypeAPK, "ssl_client", "1.36.1-r29", "x86_64", "busybox"}
	for name, c := range map[string]struct {
		files fstest.MapFS
		want  []Package
	}{
		"nothing": {nil, nil},
		"dpkg":    {fstest.MapFS{"var/lib/dpkg/status": file(dpkgStatus)}, []Package{held, libc}},
		"apk":     {fstest.MapFS{"lib/apk/db/installed": file(apkInstalled)}, []Package{musl, client}},
		"both":    {fstest.MapFS{"usr/lib/apk/db/installed": file(apkInstalled), "var/lib/dpkg/status": file(dpkgStatus)}, []Package{musl, client, held, libc}},
		"without dpkg": {fstest.MapFS{
			"var/lib/dpkg/status.d/base":         file("Package: base-files\nVersion: 12.4\nArchitecture: amd64\n"),
			"var/lib/dpkg/status.d/base.md5sums": file("Package: no\nVersion: 1\n"),
		}, []Package{{TypeDeb, "base-files", "12.4", "amd64", "base-files"}}},
		"a directory, and records of nothing": {fstest.MapFS{
			"var/lib/dpkg/status/x": file(""), "lib/apk/db/installed": file("\n\nP:no version\n\nV:1\n\n:\n"),
		}, nil},
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
	for name, fsys := range map[string]fs.FS{
		"line":     fstest.MapFS{"var/lib/dpkg/status": file("Package: " + strings.Repeat("x", maxLine))},
		"packages": fstest.MapFS{"lib/apk/db/installed": file(strings.Repeat("P:a\nV:1\n\n", maxPackages+1))},
		"bytes":    endless{},
		"files":    manyFiles{},
	} {
		if _, err := Packages(fsys); !errdefs.IsResourceExhausted(err) {
			t.Errorf("%s: %v, want an exhausted resource", name, err)
		}
	}
}

// endless has one file that never ends.
type endless struct{ fs.FileInfo }

func (endless) Open(name string) (fs.File, error) {
	if name != "var/lib/dpkg/status" {
		return nil, fs.ErrNotExist
	}
	return endless{}, nil
}

func (endless) Stat() (fs.FileInfo, error) { return endless{}, nil }
func (endless) Mode() fs.FileMode          { return 0o644 }
func (endless) Close() error               { return nil }
func (endless) ModTime() time.Time         { return time.Time{} }

func (endless) Read(p []byte) (int, error) {
	for i := range p {
		p[i] = "x\n"[i%2]
	}
	return len(p), nil
}

// manyFiles has more records than any image.
type manyFiles struct{}

func (manyFiles) Open(string) (fs.File, error) { return nil, fs.ErrNotExist }

func (manyFiles) ReadDir(string) ([]fs.DirEntry, error) {
	return make([]fs.DirEntry, maxFiles+1), nil
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
				t.Errorf("%q", p)
			}
		}
	})
}
