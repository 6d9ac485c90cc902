package conformance

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"time"
)

// supervise runs a server until its standard input ends, which is when the test binary does, in
// whatever way. Then the server's directory goes, too.
const supervise = `
dir=$1
shift
"$@" >"$dir/log" 2>&1 </dev/null &
cat >/dev/null
kill -KILL $!
wait $!
rm -rf "$dir"
`

// serve starts a program that answers HTTP at host and keeps its files in dir. It ends, and the
// directory with it, when what is returned is closed, or the test binary ends.
func serve(dir, host string, env []string, program ...string) (io.Closer, error) {
	cmd := exec.Command("sh", append([]string{"-c", supervise, "sh", dir}, program...)...)
	cmd.Env = append(os.Environ(), env...)
	alive, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	for deadline := time.Now().Add(30 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		resp, err := http.Get("http://" + host + "/")
		if err == nil {
			return alive, resp.Body.Close()
		}
		if time.Now().After(deadline) {
			text, _ := os.ReadFile(filepath.Join(dir, "log"))
			return nil, errors.Join(fmt.Errorf("%w: %s", err, text), alive.Close(), cmd.Wait())
		}
	}
}

// freeHost is an address at which nobody listens.
func freeHost() (string, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	return l.Addr().String(), l.Close()
}
