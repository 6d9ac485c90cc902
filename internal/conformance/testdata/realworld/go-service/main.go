// A small HTTP service that is asked by itself.
package main

import (
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"os"

	"github.com/google/uuid"
)

var version = "unknown"

func main() {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintf(w, "version %s, uid %d, id %s", version, os.Getuid(), uuid.NewSHA1(uuid.NameSpaceDNS, []byte(r.URL.Path)))
	}))
	defer server.Close()
	resp, err := http.Get(server.URL + "/hello")
	if err != nil {
		log.Fatal(err)
	}
	body, _ := io.ReadAll(resp.Body)
	certificates, err := os.Stat("/etc/ssl/certs/ca-certificates.crt")
	fmt.Printf("%s\ncertificates: %v\n", body, err == nil && certificates.Size() > 100000)
}
