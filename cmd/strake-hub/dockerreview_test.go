package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"strake/internal/review"
)

// TestDockerReview is a review before publishing as users of docker see it: the owner
// pushes to a public repository and pulls that; for others it does not exist until a
// reviewer approves it.
func TestDockerReview(t *testing.T) {
	docker := startDocker(t)
	p := initialisedHub(t)
	for _, name := range []string{"ann", "bob"} {
		cmd(t, 0, "long enough a secret\n", "user", "add", "--password-stdin", "--data", p.dir, name)
	}
	host, stop := startTLS(t, "--data", p.dir)
	defer stop()
	api := hubClient{t, p.client(t), "https://" + host + "/api/v1", p.password}
	as := func(name string) {
		t.Helper()
		docker.shows(docker.run("login", "-u", name, "-p", "long enough a secret", host), "Login Succeeded")
	}
	api.call(http.MethodPost, "/repositories", `{"name":"ann/app","public":true}`, http.StatusCreated, nil)
	ref := host + "/ann/app:v1"

	as("ann")
	writeImage(t, filepath.Join(docker.dir, "in.tar"))
	docker.run("load", "-i", "in.tar")
	docker.run("tag", "x:y", ref)
	docker.shows(docker.run("push", ref), "v1: digest: sha256:")
	docker.run("rmi", "x:y", ref)
	docker.shows(docker.run("pull", ref), "Status: Downloaded newer image")
	docker.run("rmi", ref)

	as("bob")
	out, err := docker.command("pull", ref).CombinedOutput()
	if err == nil || !strings.Contains(string(out), "manifest unknown") && !strings.Contains(string(out), "not found") {
		t.Errorf("bob pulls what is held: %v: %s", err, out)
	}
	if code, body := get(t, api.Client, "https://"+host+"/v2/ann/app/manifests/v1", "bob", "long enough a secret"); code != http.StatusNotFound {
		t.Errorf("bob asks for what is held: %d %s", code, body)
	}

	var open struct{ Items []review.Review }
	for deadline := time.Now().Add(time.Minute); len(open.Items) != 1 || open.Items[0].State != review.Waiting; time.Sleep(50 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("reviews %+v", open)
		}
		api.call(http.MethodGet, "/reviews", "", http.StatusOK, &open)
	}
	decision := fmt.Sprintf(`{"digest":%q,"comment":"fine","override":true}`, open.Items[0].Digest)
	api.call(http.MethodPost, fmt.Sprintf("/reviews/%d/approve", open.Items[0].ID), decision, http.StatusNoContent, nil)
	docker.shows(docker.run("pull", ref), "Status: Downloaded newer image")
	docker.run("logout", host)
	docker.run("rmi", ref)
	docker.shows(docker.run("pull", ref), "Status: Downloaded newer image") // it is public
}

// hubClient calls the REST API as the administrator.
type hubClient struct {
	*testing.T
	*http.Client
	url, password string
}

func (c hubClient) call(method, path, body string, status int, into any) {
	c.Helper()
	req, err := http.NewRequestWithContext(c.Context(), method, c.url+path, strings.NewReader(body))
	if err != nil {
		c.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/json")
	req.SetBasicAuth("operator", c.password)
	resp, err := c.Do(req)
	if err != nil {
		c.Fatal(err)
	}
	b, err := io.ReadAll(resp.Body)
	if err := errors.Join(err, resp.Body.Close()); err != nil || resp.StatusCode != status {
		c.Fatalf("%s %s: %s, %v: %s", method, path, resp.Status, err, b)
	}
	if into == nil {
		return
	}
	if err := json.Unmarshal(b, into); err != nil {
		c.Fatalf("%s %s: %v: %s", method, path, err, b)
	}
}
