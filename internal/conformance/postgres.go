package conformance

import (
	"errors"
	"fmt"
	"io"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// PostgreSQL is the URL of a fresh database, in a server that is started once
// for the test binary and ends with it.
func PostgreSQL(t testing.TB) string {
	t.Helper()
	return newDatabase(t)
}

// PostgreSQLCopy is the URL of a copy of a database that PostgreSQL made, to which
// nobody is connected.
func PostgreSQLCopy(t testing.TB, database string) string {
	t.Helper()
	u, err := url.Parse(database)
	if err != nil {
		t.Fatal(err)
	}
	return newDatabase(t, "--template", strings.TrimPrefix(u.Path, "/"))
}

// newDatabase makes a database with arguments of createdb.
func newDatabase(t testing.TB, args ...string) string {
	t.Helper()
	if _, err := pgProgram("postgres"); err != nil {
		t.Skip("needs postgresql")
	}
	server, err := startPostgres()
	if err != nil {
		t.Fatalf("start PostgreSQL: %v", err)
	}
	name := fmt.Sprintf("test%d", databases.Add(1))
	if out, err := server.command("createdb", append(args, "-h", server.dir, "-U", "postgres", name)...).CombinedOutput(); err != nil {
		t.Fatalf("createdb: %v\n%s", err, out)
	}
	return (&url.URL{Scheme: "postgres", Path: "/" + name, RawQuery: url.Values{"host": {server.dir}, "user": {"postgres"}}.Encode()}).String()
}

// databases counts those that were made.
var databases atomic.Int64

// startPostgres is the server of this process.
var startPostgres = sync.OnceValues(newPostgres)

// postgres is a server. Its directory holds its data and its socket.
type postgres struct {
	dir   string
	alive io.Closer // its end ends the server
}

// pgProgram finds a program of the newest PostgreSQL, where Debian puts it or
// in PATH.
func pgProgram(name string) (string, error) {
	found, err := filepath.Glob("/usr/lib/postgresql/*/bin/" + name)
	if err == nil && len(found) > 0 {
		return found[len(found)-1], nil
	}
	return exec.LookPath(name)
}

// superviseServer runs the server until its standard input ends, which is when
// the test binary does, in whatever way. Then the directory goes, too.
const superviseServer = `
"$1" -D "$2/data" -k "$2" -c listen_addresses= -c fsync=off -c synchronous_commit=off -c full_page_writes=off \
	-c max_connections=200 -c shared_buffers=32MB >"$2/log" 2>&1 </dev/null &
cat >/dev/null
kill -QUIT $!
wait $!
rm -rf "$2"
`

func newPostgres() (*postgres, error) {
	dir, err := os.MkdirTemp("", "strake-pg") // short: a socket's path has 107 bytes at most
	if err != nil {
		return nil, err
	}
	p := &postgres{dir: dir}
	if os.Getuid() == 0 { // as whom it does not run
		if out, err := exec.Command("chown", "postgres", dir).CombinedOutput(); err != nil {
			return nil, errors.Join(fmt.Errorf("chown: %w: %s", err, out), os.RemoveAll(dir))
		}
	}
	if out, err := p.command("initdb", "-D", dir+"/data", "-U", "postgres", "-A", "trust", "-E", "UTF8", "--locale=C.UTF-8",
		"--locale-provider=icu", "--icu-locale=en", "--no-sync").CombinedOutput(); err != nil {
		return nil, errors.Join(fmt.Errorf("initdb: %w: %s", err, out), os.RemoveAll(dir))
	}
	program, err := pgProgram("postgres")
	if err != nil {
		return nil, err
	}
	cmd := p.user("sh", "-c", superviseServer, "sh", program, dir)
	if p.alive, err = cmd.StdinPipe(); err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	for deadline := time.Now().Add(30 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		out, err := p.command("pg_isready", "-h", dir).CombinedOutput()
		if err == nil {
			return p, nil
		}
		if time.Now().After(deadline) {
			text, _ := os.ReadFile(dir + "/log")
			return nil, errors.Join(fmt.Errorf("%w: %s%s", err, out, text), p.alive.Close(), cmd.Wait())
		}
	}
}

// command is a program of PostgreSQL's, run as the server is.
func (p *postgres) command(name string, args ...string) *exec.Cmd {
	program, err := pgProgram(name)
	if err != nil {
		program = name // its start fails, and says why
	}
	return p.user(program, args...)
}

func (p *postgres) user(program string, args ...string) *exec.Cmd {
	if os.Getuid() == 0 {
		args = append([]string{"-u", "postgres", "--", program}, args...)
		program = "runuser"
	}
	cmd := exec.Command(program, args...)
	cmd.Dir = p.dir
	cmd.Env = append(os.Environ(), "LC_ALL=C.UTF-8")
	cmd.Env = withoutPG(cmd.Env)
	return cmd
}

// withoutPG drops what would send a client elsewhere.
func withoutPG(env []string) (kept []string) {
	for _, s := range env {
		if !strings.HasPrefix(s, "PG") {
			kept = append(kept, s)
		}
	}
	return kept
}
