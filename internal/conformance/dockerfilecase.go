package conformance

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/txtar"
	"golang.org/x/sys/unix"
)

// DockerfileCase is a build: a txtar archive whose files are the context. Files
// that begin with "@" are something else:
//
//	@want              what BuildKit made of it
//	@tar NAME          lines that make the archive NAME of the context
//	@http/NAME         a file that a web server has; @URL@ in a Dockerfile is its address
//	@context/NAME/...  a file of the named context NAME
//	@secret/ID         a secret
//
// The lines before the first file are options; see set.
type DockerfileCase struct {
	Dir        string // the context
	Dockerfile string // path of it in Dir
	Target     string
	Platform   string
	Args       map[string]string
	Labels     map[string]string
	Contexts   map[string]string // directories by name
	Secrets    map[string]string // files by ID
	Call       string            // "check", "outline" or "targets" in place of a build
	Root       bool              // it runs commands
	IDs        bool              // it has files of several users, or commands: an ordinary user with one id makes something else of it
	Differs    string            // why Strake is known to differ; "" if it does not

	archive *txtar.Archive
	url     string
	want    string
}

const wantFile = "@want"

// caseTime is the time of all files of the context.
var caseTime = time.Date(2020, 1, 2, 3, 4, 5, 0, time.UTC)

// openDockerfileCase makes the folders of a case.
func openDockerfileCase(t *testing.T, file string) *DockerfileCase {
	t.Helper()
	data, err := os.ReadFile(file)
	ok(t, err)
	c := &DockerfileCase{
		Dir: t.TempDir(), Dockerfile: "Dockerfile", Args: map[string]string{}, Labels: map[string]string{},
		Contexts: map[string]string{}, Secrets: map[string]string{}, archive: txtar.Parse(data),
	}
	pages := map[string][]byte{}
	other := t.TempDir()
	for _, f := range c.archive.Files {
		kind, name, _ := strings.Cut(f.Name, "/")
		switch {
		case f.Name == wantFile:
			c.want = string(f.Data)
		case strings.HasPrefix(f.Name, "@tar "):
			name := strings.TrimPrefix(f.Name, "@tar ")
			writeCaseFile(t, c.Dir, name, packCase(t, path.Ext(name), f.Data))
		case kind == "@http":
			pages["/"+name] = f.Data
		case kind == "@context":
			context, _, _ := strings.Cut(name, "/")
			c.Contexts[context] = filepath.Join(other, context)
			writeCaseFile(t, other, name, f.Data)
		case kind == "@secret":
			c.Secrets[name] = filepath.Join(other, name)
			writeCaseFile(t, other, name, bytes.TrimSuffix(f.Data, []byte("\n")))
		default:
			writeCaseFile(t, c.Dir, f.Name, f.Data)
			c.Root = c.Root || strings.Contains(string(f.Data), "RUN ")
		}
	}
	if len(pages) > 0 {
		c.serve(t, pages)
	}
	for line := range strings.Lines(string(c.archive.Comment)) {
		if line = strings.TrimSpace(line); line != "" && line[0] != '#' {
			c.set(t, line)
		}
	}
	settleTimes(t, c.Dir)
	settleTimes(t, other)
	return c
}

// set does what an option says: one that names a file changes the context.
func (c *DockerfileCase) set(t *testing.T, line string) {
	t.Helper()
	verb, rest, _ := strings.Cut(line, " ")
	one, two, _ := strings.Cut(rest, " ")
	key, value, _ := strings.Cut(rest, "=")
	at := func(name string) string { return filepath.Join(c.Dir, name) }
	switch verb {
	case "arg":
		c.Args[key] = value
	case "label":
		c.Labels[key] = value
	case "target":
		c.Target = rest
	case "platform":
		c.Platform = rest
	case "dockerfile":
		c.Dockerfile = rest
	case "call":
		c.Call = rest
	case "ids":
		c.IDs = true
	case "differs":
		c.Differs = rest
	case "symlink": // PATH TARGET
		ok(t, os.MkdirAll(filepath.Dir(at(one)), 0o755))
		ok(t, os.Symlink(two, at(one)))
	case "hardlink": // PATH TARGET
		ok(t, os.Link(at(two), at(one)))
	case "mkdir":
		ok(t, os.MkdirAll(at(rest), 0o755))
	case "fifo":
		ok(t, unix.Mkfifo(at(rest), 0o644))
	case "chmod": // MODE PATH
		mode, err := strconv.ParseUint(one, 8, 32)
		ok(t, err)
		ok(t, unix.Chmod(at(two), uint32(mode)))
	default:
		t.Fatalf("unknown option %q", line)
	}
}

// serve has the pages of the case served, and its address written into the
// Dockerfile.
func (c *DockerfileCase) serve(t *testing.T, pages map[string][]byte) {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, ok := pages[r.URL.Path]
		if !ok {
			http.NotFound(w, r)
			return
		}
		http.ServeContent(w, r, "", caseTime.AddDate(-1, 0, 0), bytes.NewReader(body))
	}))
	t.Cleanup(server.Close)
	c.url = server.URL
	name := filepath.Join(c.Dir, c.Dockerfile)
	source, err := os.ReadFile(name)
	ok(t, err)
	ok(t, os.WriteFile(name, bytes.ReplaceAll(source, []byte("@URL@"), []byte(c.url)), 0o644))
}

func writeCaseFile(t *testing.T, dir, name string, data []byte) {
	t.Helper()
	name = filepath.Join(dir, name)
	ok(t, os.MkdirAll(filepath.Dir(name), 0o755))
	ok(t, os.WriteFile(name, data, 0o644))
	ok(t, os.Chmod(name, 0o644))
}

// settleTimes gives every file below dir the time of the case.
func settleTimes(t *testing.T, dir string) {
	t.Helper()
	at := []unix.Timespec{unix.NsecToTimespec(caseTime.UnixNano()), unix.NsecToTimespec(caseTime.UnixNano())}
	ok(t, filepath.WalkDir(dir, func(name string, _ fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		return unix.UtimesNanoAt(unix.AT_FDCWD, name, at, unix.AT_SYMLINK_NOFOLLOW)
	}))
}

// packCase makes an archive of lines "KIND MODE UID:GID PATH [TEXT]". KIND is
// dir, file, link (to TEXT) or hard (likewise). It is compressed as ext says.
func packCase(t *testing.T, ext string, lines []byte) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for line := range strings.Lines(string(lines)) {
		f := strings.SplitN(strings.TrimSuffix(line, "\n"), " ", 5)
		f = append(f, "")
		h := &tar.Header{Name: f[3], ModTime: caseTime.AddDate(1, 0, 0)}
		_, err := fmt.Sscanf(f[1]+" "+f[2], "%o %d:%d", &h.Mode, &h.Uid, &h.Gid)
		ok(t, err)
		switch f[0] {
		case "dir":
			h.Typeflag = tar.TypeDir
		case "link":
			h.Typeflag, h.Linkname = tar.TypeSymlink, f[4]
		case "hard":
			h.Typeflag, h.Linkname = tar.TypeLink, f[4]
		default:
			h.Typeflag, h.Size = tar.TypeReg, int64(len(f[4]))
		}
		ok(t, w.WriteHeader(h))
		if h.Size > 0 {
			_, err = io.WriteString(w, f[4])
			ok(t, err)
		}
	}
	ok(t, w.Close())
	return compressCase(t, ext, b.Bytes())
}

func compressCase(t *testing.T, ext string, data []byte) []byte {
	t.Helper()
	program := map[string]string{".bz2": "bzip2", ".xz": "xz", ".zst": "zstd"}[ext]
	if ext == ".gz" || ext == ".tgz" {
		var b bytes.Buffer
		w := gzip.NewWriter(&b)
		_, err := w.Write(data)
		ok(t, err)
		ok(t, w.Close())
		return b.Bytes()
	}
	if program == "" {
		return data
	}
	if _, err := exec.LookPath(program); err != nil {
		t.Skipf("needs %s", program)
	}
	cmd := exec.CommandContext(t.Context(), program, "-c")
	cmd.Stdin = bytes.NewReader(data)
	out, err := cmd.Output()
	ok(t, err)
	return out
}
