package main

import (
	"bufio"
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"strake/internal/cli"
	"strake/internal/conformance"
)

// replicaEnv makes the test binary be strake-hub.
const replicaEnv = "STRAKE_HUB_TEST_REPLICA"

func TestMain(m *testing.M) {
	if os.Getenv(replicaEnv) != "" {
		main()
	}
	if self, err := os.Executable(); err == nil && filepath.Base(self) == clientName {
		os.Exit(cli.Main(context.Background(), os.Args[1:], cli.Streams{In: os.Stdin, Out: os.Stdout, Err: os.Stderr}))
	}
	os.Exit(m.Run())
}

// replica is a strake-hub in a process of its own.
type replica struct {
	url  string
	cmd  *exec.Cmd
	dead atomic.Bool
}

func startReplica(t *testing.T, database, storage string) *replica {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	r := &replica{cmd: exec.CommandContext(t.Context(), self, "serve", "--addr", "127.0.0.1:0", "--gc-interval", "1s")}
	r.cmd.Env = append(os.Environ(), replicaEnv+"=1", databaseEnv+"="+database, storageEnv+"="+storage)
	out, err := r.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	var log bytes.Buffer
	r.cmd.Stderr = &log
	if err := r.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = r.cmd.Process.Kill()
		_ = r.cmd.Wait()
		if t.Failed() {
			t.Logf("%s:\n%s", r.url, log.Bytes()[max(0, log.Len()-4000):])
		}
	})
	line, err := bufio.NewReader(out).ReadString('\n')
	_, address, ok := strings.Cut(strings.TrimSpace(line), "strake-hub: serving ")
	if !ok {
		t.Fatalf("printed %q: %v\n%s", line, err, &log)
	}
	r.url = address
	return r
}

// client pushes and pulls through whichever replica lives. It fails its test where one
// that lives fails a request.
type client struct {
	t        *testing.T
	replicas []*replica
	next     int
	retried  int
}

// answer is what a replica answered.
type answer struct {
	status int
	header http.Header
	body   []byte
}

// errDead says that the replica died with the request.
var errDead = errors.New("the replica died")

// do sends one request to the next replica that lives.
func (c *client) do(method, path string, header http.Header, body []byte) (answer, error) {
	r := c.replicas[c.next%len(c.replicas)]
	for c.next++; r.dead.Load(); c.next++ {
		r = c.replicas[c.next%len(c.replicas)]
	}
	req, err := http.NewRequestWithContext(context.Background(), method, r.url+path, bytes.NewReader(body))
	if err != nil {
		return answer{}, err
	}
	for name, values := range header {
		req.Header[name] = values
	}
	resp, err := http.DefaultClient.Do(req)
	var a answer
	if err == nil {
		a.status, a.header = resp.StatusCode, resp.Header
		a.body, err = io.ReadAll(resp.Body)
		err = errors.Join(err, resp.Body.Close())
	}
	if err != nil {
		time.Sleep(50 * time.Millisecond) // whoever kills it says so
		if r.dead.Load() {
			c.retried++
			return a, errDead
		}
	}
	if err != nil || a.status >= http.StatusInternalServerError {
		return a, fmt.Errorf("%s %s of a replica that lives: %d %s: %w", method, path, a.status, a.body, errors.Join(err))
	}
	return a, nil
}

// retry is do, again where the replica died: for what may be done twice.
func (c *client) retry(method, path string, header http.Header, body []byte) (answer, error) {
	for {
		a, err := c.do(method, path, header, body)
		if !errors.Is(err, errDead) {
			return a, err
		}
	}
}

// pushBlob uploads b in chunks, each of which goes to another replica.
func (c *client) pushBlob(repo string, b []byte) error {
	a, err := c.retry("POST", "/v2/"+repo+"/blobs/uploads/", nil, nil)
	if err != nil {
		return err
	}
	at, err := url.Parse(a.header.Get("Location"))
	if err != nil {
		return err
	}
	chunk := len(b)/3 + 1
	for offset := 0; offset < len(b); {
		part := b[offset:min(len(b), offset+chunk)]
		_, err := c.do("PATCH", at.RequestURI(), http.Header{"Content-Range": {fmt.Sprintf("%d-%d", offset, offset+len(part)-1)}}, part)
		if err != nil && !errors.Is(err, errDead) {
			return err
		}
		if err == nil {
			offset += len(part)
			continue
		}
		a, err := c.retry("GET", at.RequestURI(), nil, nil) // how far did it get?
		if err != nil || a.status != http.StatusNoContent {
			return fmt.Errorf("upload after a replica died: %d %s: %w", a.status, a.body, err)
		}
		offset = 0
		if held := a.header.Get("Range"); held != "" && held != "0-0" {
			if _, err := fmt.Sscanf(held, "0-%d", &offset); err != nil {
				return err
			}
			offset++
		}
	}
	dgst := digest.FromBytes(b)
	a, err = c.do("PUT", at.RequestURI()+"?digest="+dgst.String(), nil, nil)
	if errors.Is(err, errDead) {
		if a, err = c.retry("HEAD", "/v2/"+repo+"/blobs/"+dgst.String(), nil, nil); err == nil && a.status == http.StatusOK {
			return nil
		}
		a, err = c.retry("PUT", at.RequestURI()+"?digest="+dgst.String(), nil, nil)
	}
	if err == nil && a.status != http.StatusCreated {
		err = fmt.Errorf("PUT blob: %d %s", a.status, a.body)
	}
	return err
}

// push pushes an image of layers and returns its manifest.
func (c *client) push(repo, tag string, layers ...[]byte) (manifest []byte, err error) {
	config := fmt.Appendf(nil, `{"os":"linux","author":%q}`, repo+tag)
	var list []string
	for _, b := range layers {
		list = append(list, fmt.Sprintf(`{"mediaType":"application/vnd.oci.image.layer.v1.tar","digest":%q,"size":%d}`, digest.FromBytes(b), len(b)))
	}
	for _, b := range append([][]byte{config}, layers...) {
		if err := c.pushBlob(repo, b); err != nil {
			return nil, err
		}
	}
	const mediaType = "application/vnd.oci.image.manifest.v1+json"
	manifest = fmt.Appendf(nil, `{"schemaVersion":2,"mediaType":%q,"config":{"mediaType":"application/vnd.oci.image.config.v1+json","digest":%q,"size":%d},"layers":[%s]}`,
		mediaType, digest.FromBytes(config), len(config), strings.Join(list, ","))
	a, err := c.retry("PUT", "/v2/"+repo+"/manifests/"+tag, http.Header{"Content-Type": {mediaType}}, manifest)
	if err == nil && a.status != http.StatusCreated {
		err = fmt.Errorf("PUT manifest: %d %s", a.status, a.body)
	}
	return manifest, err
}

// pull checks what was pushed.
func (c *client) pull(repo, tag string, manifest []byte, layers ...[]byte) error {
	a, err := c.retry("GET", "/v2/"+repo+"/manifests/"+tag, nil, nil)
	if err != nil || !bytes.Equal(a.body, manifest) {
		return fmt.Errorf("GET manifest: %d %s: %w", a.status, a.body, err)
	}
	for _, b := range layers {
		a, err := c.retry("GET", "/v2/"+repo+"/blobs/"+digest.FromBytes(b).String(), nil, nil)
		if err != nil || !bytes.Equal(a.body, b) {
			return fmt.Errorf("GET blob: %d, %d bytes of %d: %w", a.status, len(a.body), len(b), err)
		}
	}
	return nil
}

// TestReplicasKill kills one of two replicas under load: no request but those it
// was at fails, uploads go on at the other, and nothing is lost.
func TestReplicasKill(t *testing.T) {
	database, storage := conformance.PostgreSQL(t), conformance.S3(t)
	replicas := []*replica{startReplica(t, database, storage), startReplica(t, database, storage)}
	type image struct {
		tag      string
		manifest []byte
		layers   [][]byte
	}
	var working sync.WaitGroup
	var stop atomic.Bool
	var pushed, interrupted atomic.Int64
	for w := range 4 {
		working.Go(func() {
			c := &client{t: t, replicas: replicas, next: w}
			repo := fmt.Sprint("team/app", w)
			var images []image
			for i := 0; !stop.Load(); i++ {
				img := image{tag: fmt.Sprint("v", i), layers: [][]byte{make([]byte, 100_000), make([]byte, 1000)}}
				if i == 0 {
					img.layers[0] = make([]byte, 20<<20)
				}
				for _, b := range img.layers {
					_, _ = rand.Read(b)
				}
				var err error
				if img.manifest, err = c.push(repo, img.tag, img.layers...); err == nil {
					images = append(images, img)
					err = c.pull(repo, img.tag, img.manifest, img.layers...)
				}
				if err != nil {
					t.Error(err)
					return
				}
				pushed.Add(1)
			}
			for _, img := range images {
				if err := c.pull(repo, img.tag, img.manifest, img.layers...); err != nil {
					t.Errorf("lost: %v", err)
				}
			}
			interrupted.Add(int64(c.retried))
		})
	}
	for deadline := time.Now().Add(20 * time.Second); pushed.Load() < 2 && time.Now().Before(deadline); {
		time.Sleep(10 * time.Millisecond)
	}
	replicas[0].dead.Store(true)
	if err := replicas[0].cmd.Process.Kill(); err != nil {
		t.Error(err)
	}
	before := pushed.Load()
	for deadline := time.Now().Add(40 * time.Second); pushed.Load() < before+8 && time.Now().Before(deadline) && !t.Failed(); {
		time.Sleep(20 * time.Millisecond)
	}
	stop.Store(true)
	working.Wait()
	if pushed.Load() < before+4 {
		t.Errorf("%d images before, %d after", before, pushed.Load())
	}
	t.Logf("%d images pushed, %d requests interrupted", pushed.Load(), interrupted.Load())
}
