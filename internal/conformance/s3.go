package conformance

import (
	"fmt"
	"io"
	"net/url"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
)

// S3 is the URL, as s3.Open takes it, of an empty bucket in an S3 server that is
// started once for the test binary and ends with it.
func S3(t testing.TB) string {
	t.Helper()
	if _, err := s3Program(); err != nil {
		t.Skip("needs bin/versitygw (make bin/versitygw)")
	}
	server, err := startS3()
	if err != nil {
		t.Fatalf("start an S3 server: %v", err)
	}
	bucket := fmt.Sprintf("bucket%d", buckets.Add(1))
	if err := os.Mkdir(filepath.Join(server.dir, "data", bucket), 0o700); err != nil { // what it takes a bucket to be
		t.Fatal(err)
	}
	return (&url.URL{Scheme: "s3", Host: bucket, RawQuery: url.Values{
		"endpoint": {"http://" + server.host}, "credentials": {filepath.Join(server.dir, "credentials")},
	}.Encode()}).String()
}

// What S3's server takes of its one user.
const (
	S3Key    = "test"
	S3Secret = "test-secret"
)

// buckets counts those that were made.
var buckets atomic.Int64

// startS3 is the server of this process.
var startS3 = sync.OnceValues(newS3)

// s3Server is a server. Its directory holds its data.
type s3Server struct {
	dir, host string
	alive     io.Closer // its end ends the server
}

// s3Program finds the server.
func s3Program() (string, error) { return builtProgram("versitygw") }

func newS3() (*s3Server, error) {
	program, err := s3Program()
	if err != nil {
		return nil, err
	}
	dir, err := os.MkdirTemp("", "strake-s3")
	if err != nil {
		return nil, err
	}
	for _, name := range []string{"data", "meta"} {
		if err := os.Mkdir(filepath.Join(dir, name), 0o700); err != nil {
			return nil, err
		}
	}
	credentials := fmt.Sprintf("[default]\naws_access_key_id = %s\naws_secret_access_key = %s\n", S3Key, S3Secret)
	if err := os.WriteFile(filepath.Join(dir, "credentials"), []byte(credentials), 0o600); err != nil {
		return nil, err
	}
	s := &s3Server{dir: dir}
	if s.host, err = freeHost(); err != nil {
		return nil, err
	}
	env := []string{"ROOT_ACCESS_KEY_ID=" + S3Key, "ROOT_SECRET_ACCESS_KEY=" + S3Secret}
	s.alive, err = serve(dir, s.host, env, program, "--quiet", "--keep-alive", "--port", s.host, "posix", "--sidecar", filepath.Join(dir, "meta"), filepath.Join(dir, "data"))
	return s, err
}
