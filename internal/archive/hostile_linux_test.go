package archive

import (
	"archive/tar"
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
)

// ground is where an attack takes place: root, to be extracted to, beside
// outside, which nothing may touch and which is the working directory.
type ground struct {
	*testing.T
	base, root, outside string
}

func newGround(t *testing.T) *ground {
	t.Helper()
	base := t.TempDir()
	g := &ground{t, base, filepath.Join(base, "root"), filepath.Join(base, "outside")}
	for _, dir := range []string{g.root, g.outside, filepath.Join(g.outside, "dir")} {
		if err := os.Mkdir(dir, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	for _, file := range []string{"file", "dir/file"} {
		if err := os.WriteFile(filepath.Join(g.outside, file), []byte("secret"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	t.Chdir(g.outside)
	return g
}

// state is all that can be told of what lies outside.
func (g *ground) state() map[string]string {
	g.Helper()
	state := map[string]string{}
	err := filepath.WalkDir(g.base, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if path == g.root {
			return fs.SkipDir
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		st := info.Sys().(*syscall.Stat_t)
		var text []byte
		if info.Mode().IsRegular() {
			text, err = os.ReadFile(path)
		}
		state[path] = fmt.Sprintf("%v %d:%d %d links %q", info.Mode(), st.Uid, st.Gid, st.Nlink, text)
		return err
	})
	if err != nil {
		g.Fatal(err)
	}
	return state
}

// extract extracts a tar of the headers over what is in root, twice.
func (g *ground) extract(headers ...tar.Header) {
	g.Helper()
	before := g.state()
	b := makeTar(g, headers...)
	for range 2 { // the second time, what the first made is the lower layer
		err := Extract(g.Context(), bytes.NewReader(b), g.root, ExtractOptions{Squash: os.Geteuid() != 0})
		if diff := cmp.Diff(before, g.state()); diff != "" {
			g.Errorf("escaped (%v):\n%s", err, diff)
		}
	}
}

func (g *ground) symlink(target, name string) {
	g.Helper()
	if err := os.Symlink(target, filepath.Join(g.root, name)); err != nil {
		g.Fatal(err)
	}
}

// TestHostile has the attacks on extraction that worked elsewhere: whatever a
// layer says, over whatever lower layer, nothing outside is made, changed,
// removed or linked to.
func TestHostile(t *testing.T) {
	link, hard := func(name, target string) tar.Header { return linkHdr(tar.TypeSymlink, name, target) },
		func(name, target string) tar.Header { return linkHdr(tar.TypeLink, name, target) }
	setuid := func(name string) tar.Header { return tar.Header{Name: name, Mode: 0o4777} }
	wide := func(name string) tar.Header {
		return tar.Header{Name: name, Typeflag: tar.TypeDir, Mode: 0o4777, Uid: 1, Gid: 1}
	}
	for name, attack := range map[string]func(g *ground) []tar.Header{
		"CVE-2014-6407 symlink out": func(*ground) []tar.Header {
			return []tar.Header{link("l", "../outside"), hdr("l/evil"), hdr("l/file")}
		},
		"CVE-2014-6407 hard link out": func(*ground) []tar.Header { return []tar.Header{hard("h", "../outside/file"), setuid("h")} },
		"CVE-2014-6407 hard link to link": func(*ground) []tar.Header {
			return []tar.Header{link("l", "../outside/file"), hard("h", "l"), setuid("h")}
		},
		"CVE-2014-9356 absolute symlink": func(g *ground) []tar.Header {
			return []tar.Header{link("l", g.outside), hdr("l/evil"), hdr("l/file"), link("m", g.outside+"/file"), hdr("m")}
		},
		"CVE-2018-1002207 dotdot": func(*ground) []tar.Header { return []tar.Header{hdr("../outside/evil")} },
		"CVE-2019-10743 dotdot":   func(*ground) []tar.Header { return []tar.Header{dirHdr("a"), hdr("a/../../outside/evil")} },
		"CVE-2024-24579 absolute": func(g *ground) []tar.Header { return []tar.Header{hdr(g.outside + "/evil")} },
		"CVE-2024-0406 link then write": func(g *ground) []tar.Header {
			return []tar.Header{link("l", g.outside+"/evil"), hdr("l"), link("f", "../outside/file"), hdr("f")}
		},
		"CVE-2025-3445 link chain": func(*ground) []tar.Header {
			return []tar.Header{link("a", "."), link("a/b", ".."), link("c", "a/b"), hdr("c/outside/evil"), hdr("b/outside/evil")}
		},
		"CVE-2021-21272 zip slip": func(*ground) []tar.Header { return []tar.Header{hdr("a/../../../../../../outside/evil")} },
		"CVE-2026-50162 symlink":  func(*ground) []tar.Header { return []tar.Header{link("dir", "../outside/dir"), hdr("dir/file")} },
		"CVE-2026-50163 hard link to a name of the working directory": func(*ground) []tar.Header {
			return []tar.Header{hard("h", "file"), hard("i", "./dir/file")}
		},
		"CVE-2021-29136 the root is a symlink": func(*ground) []tar.Header {
			return []tar.Header{link(".", "../outside"), hdr("evil"), link("./", "../outside"), hdr("file"), link("/", "../outside"), hdr("./file")}
		},
		"CVE-2021-32760 chmod through links": func(*ground) []tar.Header {
			return []tar.Header{link("l", "../outside"), wide("l"), link("m", "../outside"), wide("m/"), wide("m/dir"), setuid("m/file"), link("f", "../outside/file"), setuid("f")}
		},
		"CVE-2026-17106 links around the check": func(*ground) []tar.Header {
			return []tar.Header{dirHdr("a/b"), link("a/b/up", "../.."), link("x", "a/b/up/.."), hdr("x/outside/evil"), hard("h", "x/outside/file"), setuid("h"), hdr("a/b/up/../../../outside/evil")}
		},
		"CVE-2026-28406 dotdot": func(*ground) []tar.Header {
			return []tar.Header{hdr("../evil"), dirHdr("../outside"), hdr("./../outside/file")}
		},
		"malt 852 parent replaced later": func(*ground) []tar.Header {
			return []tar.Header{hard("d/h", "t"), dirHdr("d"), hdr("t"), link("d", "../outside"), hard("d/file", "t")}
		},
		"CVE-2026-26960 hard link through a symlink": func(*ground) []tar.Header {
			return []tar.Header{link("s", "../outside"), hard("h", "s/file"), setuid("h")}
		},
		"CVE-2025-47290 the lower layer has the symlink": func(g *ground) []tar.Header {
			g.symlink("../outside", "d")
			g.symlink("../outside/file", "f")
			return []tar.Header{hdr("d/evil"), hdr("d/file"), setuid("f"), hard("h", "d/file")}
		},
		"whiteouts": func(g *ground) []tar.Header {
			g.symlink("../outside", "d")
			g.symlink("../outside", "e")
			return []tar.Header{hdr("d/.wh..wh..opq"), hdr("d/.wh.file"), hdr("e/.wh.dir")}
		},
		"whiteout of dotdot":  func(*ground) []tar.Header { return []tar.Header{hdr(".wh...")} },
		"whiteout of dot":     func(*ground) []tar.Header { return []tar.Header{hdr(".wh..")} },
		"whiteout of nothing": func(*ground) []tar.Header { return []tar.Header{dirHdr("a"), dirHdr("a/.wh./")} },
		"whiteout of outside": func(*ground) []tar.Header {
			return []tar.Header{hdr(".wh.../outside"), hdr(".wh.a/../../outside/file")}
		},
		"opaque on the way out": func(*ground) []tar.Header { return []tar.Header{link("l", "../outside"), hdr("l/.wh..wh..opq")} },
		"whiteout, then symlink": func(*ground) []tar.Header {
			return []tar.Header{hdr(".wh.l"), link("l", "../outside"), hdr("l/.wh.file")}
		},
		"symlink, then directory": func(*ground) []tar.Header { return []tar.Header{link("l", "../outside"), dirHdr("l"), hdr("l/evil")} },
	} {
		t.Run(name, func(t *testing.T) {
			g := newGround(t)
			g.extract(attack(g)...)
		})
	}
}

// TestHostileRace swaps a directory for a symlink while a layer is extracted
// through it: CVE-2025-47290 and containerd's PR 12961. The directory is ours
// alone, so the extraction may fail; it may not touch what is outside.
func TestHostileRace(t *testing.T) {
	g := newGround(t)
	before := g.state()
	var stop atomic.Bool
	done := make(chan struct{})
	go func() {
		defer close(done)
		d, away := filepath.Join(g.root, "d"), filepath.Join(g.root, "away")
		for !stop.Load() {
			if info, err := os.Lstat(d); err == nil && info.IsDir() { // and nobody else makes it a link
				_ = os.Symlink("../../outside/file", filepath.Join(g.root, "link"))
				_ = os.Rename(filepath.Join(g.root, "link"), filepath.Join(d, "file"))
			}
			_ = os.RemoveAll(away) // a link, or the directory that the extraction replaced one by
			_ = os.Symlink("../outside", away)
			for range 2 { // there and back
				_ = unix.Renameat2(unix.AT_FDCWD, d, unix.AT_FDCWD, away, unix.RENAME_EXCHANGE)
				time.Sleep(20 * time.Microsecond)
			}
		}
	}()
	headers := []tar.Header{
		dirHdr("d"), hdr("d/file"), hdr("d/evil"), dirHdr("d/dir"), hdr("d/dir/file"),
		{Name: "d/file", Mode: 0o4777},
		hdr("d/.wh.file"), hdr("d/dir/.wh..wh..opq"), linkHdr(tar.TypeLink, "d/h", "d/dir/file"),
	}
	for range 50 { // each opens its directory again, by way of the other one
		headers = append(headers, hdr("top"), hdr("d/dir/evil"), hdr("top"), hdr("d/dir/file"))
	}
	b := makeTar(t, headers...)
	for deadline := time.Now().Add(time.Second); time.Now().Before(deadline); {
		_ = Extract(t.Context(), bytes.NewReader(b), g.root, ExtractOptions{Squash: true}) // it may fail
	}
	stop.Store(true)
	<-done
	if diff := cmp.Diff(before, g.state()); diff != "" {
		t.Error(diff)
	}
}

// What CVE-2026-17106's fix broke elsewhere: legal absolute hard links, and the
// modes of devices (moby/go-archive PR 100).
func TestHostileLegal(t *testing.T) {
	g := newGround(t)
	headers := []tar.Header{dirHdr("a"), hdr("a/f"), linkHdr(tar.TypeLink, "h", "/a/f"), linkHdr(tar.TypeSymlink, "l", "/etc/passwd")}
	if os.Geteuid() == 0 {
		headers = append(headers, tar.Header{Name: "null", Typeflag: tar.TypeChar, Devmajor: 1, Devminor: 3, Mode: 0o666})
	}
	g.extract(headers...)
	f, err := os.Stat(filepath.Join(g.root, "a/f"))
	if err != nil {
		t.Fatal(err)
	}
	if h, err := os.Stat(filepath.Join(g.root, "h")); err != nil || !os.SameFile(f, h) {
		t.Errorf("hard link with an absolute target: %v", err)
	}
	if target, err := os.Readlink(filepath.Join(g.root, "l")); err != nil || target != "/etc/passwd" {
		t.Errorf("absolute symlink: %q, %v", target, err)
	}
	if os.Geteuid() != 0 {
		return
	}
	if info, err := os.Lstat(filepath.Join(g.root, "null")); err != nil || info.Mode() != fs.ModeDevice|fs.ModeCharDevice|0o666 {
		t.Errorf("device: %v, %v", info, err)
	}
}

// TestCVE_2014_9357 has a .xz whose decompression runs no program of the PATH,
// nor one that the archive brings.
func TestCVE_2014_9357(t *testing.T) {
	data := byTool(t, "xz", sample(1<<17))
	dir := t.TempDir()
	for _, name := range []string{"xz", "unxz", "xzcat", "unpigz", "gzip"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte("#!/bin/sh\ntouch "+dir+"/ran\n"), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	t.Setenv("PATH", dir)
	t.Chdir(dir)
	if got, _, err := decompress(data); err != nil || len(got) != 1<<17 {
		t.Errorf("%d bytes, %v", len(got), err)
	}
	if _, err := os.Stat(filepath.Join(dir, "ran")); err == nil {
		t.Error("a program ran")
	}
}

// TestCVE_2017_14992 has a layer of a few kilobytes whose tar ends in a
// gibibyte of padding: it is read in constant memory.
func TestCVE_2017_14992(t *testing.T) {
	var bomb bytes.Buffer
	z, err := Compress(&bomb, Zstd, 0)
	if err != nil {
		t.Fatal(err)
	}
	_, err = io.Copy(z, io.MultiReader(bytes.NewReader(makeTar(t, hdr("f"))), io.LimitReader(zeros{}, 1<<30)))
	if err := errors.Join(err, z.Close()); err != nil {
		t.Fatal(err)
	}
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	plain, _, err := Decompress(&bomb)
	if err != nil {
		t.Fatal(err)
	}
	defer plain.Close()
	r := NewReader(plain)
	for err == nil {
		_, err = r.Next()
	}
	if !errors.Is(err, io.EOF) {
		t.Error(err)
	}
	if _, err := io.Copy(io.Discard, plain); err != nil {
		t.Error(err)
	}
	runtime.ReadMemStats(&after)
	if used := after.TotalAlloc - before.TotalAlloc; used > 64<<20 {
		t.Errorf("%d MB were allocated", used>>20)
	}
}

type zeros struct{}

func (zeros) Read(b []byte) (int, error) {
	clear(b)
	return len(b), nil
}

// TestCVE_2021_20291 closes readers of broken xz, bzip2, zstd and gzip streams:
// Close returns.
func TestCVE_2021_20291(t *testing.T) {
	for _, data := range [][]byte{byTool(t, "xz", sample(1<<17)), byTool(t, "bzip2", sample(1<<17)), compress(t, Zstd, sample(1<<17)), compress(t, Gzip, sample(1<<17))} {
		for at := 6; at < len(data); at += len(data)/40 + 1 {
			broken := bytes.Clone(data)
			for i := at; i < min(at+8, len(broken)); i++ {
				broken[i] ^= 0xa5
			}
			r, _, err := Decompress(bytes.NewReader(broken))
			if err != nil {
				continue
			}
			done := make(chan struct{})
			go func() {
				defer close(done)
				_, _ = io.CopyN(io.Discard, r, 10_000) // it is broken
				_ = r.Close()
			}()
			select {
			case <-done:
			case <-time.After(20 * time.Second):
				t.Fatalf("hangs: broken at %d", at)
			}
		}
	}
}

// sparseBomb is a tar whose PAX headers describe a sparse file in n pieces.
func sparseBomb(n int, records func(n int) map[string]string) []byte {
	var pax bytes.Buffer
	for k, v := range records(n) {
		size := len(k) + len(v) + 3
		for len(fmt.Sprint(size))+len(k)+len(v)+3 != size {
			size = len(fmt.Sprint(size)) + len(k) + len(v) + 3
		}
		fmt.Fprintf(&pax, "%d %s=%s\n", size, k, v)
	}
	block := func(name string, kind byte, size int) []byte {
		h := make([]byte, 512)
		copy(h, name)
		copy(h[100:], "0000644\x000000000\x000000000\x00")
		copy(h[124:], fmt.Sprintf("%011o\x0000000000000\x00", size))
		h[156] = kind
		copy(h[257:], "ustar\x0000")
		copy(h[148:], "        ")
		sum := 0
		for _, c := range h {
			sum += int(c)
		}
		copy(h[148:], fmt.Sprintf("%06o\x00 ", sum))
		return h
	}
	b := append(block("pax", 'x', pax.Len()), pax.Bytes()...)
	b = append(b, make([]byte, -len(b)&511)...)
	return append(b, block("f", '0', 0)...)
}

// TestCVE_2025_58183 has sparse maps of a hundred million pieces (also
// CVE-2026-32288), TestCVE_2022_2879 headers and long names of gigabytes: they
// are refused before memory is spent.
func TestCVE_2025_58183(t *testing.T) {
	pieces := func(n int) string { return strings.TrimSuffix(strings.Repeat("0,0,", n), ",") }
	for name, b := range map[string][]byte{
		"0.1": sparseBomb(5_000_000, func(n int) map[string]string {
			return map[string]string{"GNU.sparse.major": "0", "GNU.sparse.minor": "1", "GNU.sparse.map": pieces(n), "GNU.sparse.size": "0", "GNU.sparse.numblocks": fmt.Sprint(n)}
		}),
		"1.0": append(sparseBomb(0, func(int) map[string]string {
			return map[string]string{"GNU.sparse.major": "1", "GNU.sparse.minor": "0", "GNU.sparse.realsize": "0", "GNU.sparse.name": "f"}
		}), "100000000\n"...),
	} {
		bounded(t, name, io.MultiReader(bytes.NewReader(b), io.LimitReader(newlines{}, 64<<20)))
	}
}

type newlines struct{}

func (newlines) Read(b []byte) (int, error) {
	for i := range b {
		b[i] = "0\n"[i&1]
	}
	return len(b), nil
}

func TestCVE_2022_2879(t *testing.T) {
	for name, kind := range map[string]byte{"pax": 'x', "global pax": 'g', "long name": 'L', "long link": 'K'} {
		h := sparseBomb(0, func(int) map[string]string { return nil })[:512]
		h[156] = kind
		copy(h[124:], fmt.Sprintf("%011o\x00", 1<<32-1))
		copy(h[148:], "        ")
		sum := 0
		for _, c := range h {
			sum += int(c)
		}
		copy(h[148:], fmt.Sprintf("%06o\x00 ", sum))
		bounded(t, name, io.MultiReader(bytes.NewReader(h), io.LimitReader(zeros{}, 1<<32)))
	}
}

// bounded fails the test unless a tar is refused in little memory.
func bounded(t *testing.T, name string, b io.Reader) {
	t.Helper()
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	r := NewReader(b)
	var err error
	for err == nil {
		_, err = r.Next()
	}
	runtime.ReadMemStats(&after)
	if errors.Is(err, io.EOF) {
		t.Errorf("%s: taken", name)
	}
	if used := after.TotalAlloc - before.TotalAlloc; used > 32<<20 {
		t.Errorf("%s: %d MB were allocated", name, used>>20)
	}
}

// TestCVE_2026_54448 has a bomb: so many bytes from so few that it can be nothing
// else are an error before the disk is full of them.
func TestCVE_2026_54448(t *testing.T) {
	for _, c := range []Compression{Zstd, Gzip} {
		var bomb bytes.Buffer
		z, err := Compress(&bomb, c, 0)
		if err != nil {
			t.Fatal(err)
		}
		_, err = io.Copy(z, io.LimitReader(zeros{}, 64<<20))
		if err := errors.Join(err, z.Close()); err != nil {
			t.Fatal(err)
		}
		for free, ok := range map[int64]bool{1 << 20: false, 128 << 20: true} {
			r, _, err := decompressWithin(bytes.NewReader(bomb.Bytes()), free)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := io.Copy(io.Discard, r); (err == nil) != ok || !ok && !errdefs.IsResourceExhausted(err) {
				t.Errorf("%s with %d free: %v", c, free, err)
			}
			if err := r.Close(); err != nil {
				t.Error(err)
			}
		}
	}
}
