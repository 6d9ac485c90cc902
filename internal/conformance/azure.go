package conformance

import (
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
)

// What Azure's server takes of its one user.
const (
	AzureAccount = "test"
	AzureKey     = "dGVzdC1zZWNyZXQ="
)

// Azure is the URL of an account in a server of Azure's blob storage, which is started once for the
// test binary and ends with it, and the name of a container that is not there yet.
func Azure(t testing.TB) (accountURL, container string) {
	t.Helper()
	if _, err := exec.LookPath("npm"); err != nil {
		t.Skip("this machine has no npm, which installs azurite")
	}
	if _, err := os.Stat(azurite()); err != nil {
		t.Skip("needs bin/azurite (make test installs it)")
	}
	server, err := startAzure()
	if err != nil {
		t.Fatalf("start azurite: %v", err)
	}
	return "http://" + server.host + "/" + AzureAccount, fmt.Sprintf("container%d", containers.Add(1))
}

// containers counts those that were named.
var containers atomic.Int64

// startAzure is the server of this process.
var startAzure = sync.OnceValues(newAzure)

// azureServer is a server.
type azureServer struct {
	host  string
	alive io.Closer // its end ends the server
}

// azurite is the server's program, where make puts it.
func azurite() string {
	_, file, _, _ := runtime.Caller(0)
	return filepath.Join(filepath.Dir(file), "../../bin/azurite/node_modules/azurite/dist/src/blob/main.js")
}

func newAzure() (*azureServer, error) {
	dir, err := os.MkdirTemp("", "strake-azure")
	if err != nil {
		return nil, err
	}
	host, err := freeHost()
	if err != nil {
		return nil, err
	}
	_, port, err := net.SplitHostPort(host)
	if err != nil {
		return nil, err
	}
	env := []string{"AZURITE_ACCOUNTS=" + AzureAccount + ":" + AzureKey}
	alive, err := serve(dir, host, env, "node", azurite(), "--silent", "--disableTelemetry", "--inMemoryPersistence", "--blobPort", port)
	return &azureServer{host, alive}, err
}
