package main_test

import (
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"
	"sync"
	"testing"

	"strake/internal/usertest"
)

// Services of Debian's packages, which talk to each other on a network of their own.
const servicesDockerfile = `FROM debian:bookworm AS base
RUN apt-get update && DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends \
    nginx-light postgresql redis-server python3-psycopg2 python3-redis curl && rm -rf /var/lib/apt/lists/*

FROM base AS web
COPY site.conf /etc/nginx/sites-enabled/default
EXPOSE 80
STOPSIGNAL SIGQUIT
CMD ["nginx", "-g", "daemon off;"]

FROM base AS app
COPY app.py /srv/
USER www-data
EXPOSE 8000
HEALTHCHECK --interval=200ms --retries=50 CMD curl -fs http://127.0.0.1:8000/health
CMD ["python3", "-u", "/srv/app.py"]

FROM base AS db
RUN install -d -o postgres -g postgres -m 0700 /data
COPY --chmod=0755 db.sh /
VOLUME /data
USER postgres
STOPSIGNAL SIGINT
CMD ["/db.sh"]

FROM base AS cache
RUN install -d -o redis -g redis /data
VOLUME /data
USER redis
CMD ["redis-server", "--bind", "0.0.0.0", "--protected-mode", "no", "--dir", "/data", "--appendonly", "yes"]
`

const servicesApp = `import http.server, psycopg2, redis
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        text = "ok"
        if self.path != "/health":
            hits = redis.Redis("cache").incr("hits")
            with psycopg2.connect("host=db user=postgres") as db, db.cursor() as c:
                c.execute("CREATE TABLE IF NOT EXISTS hits (at timestamptz DEFAULT now())")
                c.execute("INSERT INTO hits DEFAULT VALUES")
                c.execute("SELECT count(*) FROM hits")
                text = f"redis {hits} postgres {c.fetchone()[0]}"
        self.send_response(200)
        self.end_headers()
        self.wfile.write(text.encode())
http.server.ThreadingHTTPServer(("", 8000), Handler).serve_forever()
`

const servicesDB = `#!/bin/sh
set -e
bin=$(echo /usr/lib/postgresql/*/bin)
[ -e /data/PG_VERSION ] || $bin/initdb -D /data --auth=trust --no-sync >/dev/null
echo 'host all all all trust' > /data/pg_hba.conf
exec $bin/postgres -D /data -c listen_addresses='*' -c unix_socket_directories=/tmp
`

// nginx, PostgreSQL, Redis and a service in Python run detached with volumes, a port and a network; they are stopped, updated,
// replaced, committed and pushed.
func TestServices(t *testing.T) {
	usertest.NeedIDs(t)
	w := newWorld(t)
	w.strake("a", "import", w.debianTar(), "debian:bookworm")
	for name, text := range map[string]string{
		"Dockerfile": servicesDockerfile, "app.py": servicesApp, "db.sh": servicesDB,
		"site.conf": "server { listen 80; root /var/www/html; location /app { proxy_pass http://app:8000/; } }\n",
	} {
		w.write("services/"+name, text)
	}
	for _, name := range []string{"db", "cache", "app", "web"} {
		w.strake("a", "build", "-q", "--network", "host", "--target", name, "-t", name, "services")
	}
	w.strake("a", "network", "create", "backend")
	start := func(name string, args ...string) {
		t.Helper()
		w.strake("a", append(append([]string{"run", "-d", "--name", name, "--network", "backend"}, args...), name)...)
	}
	defer func() { // before the context of the test ends
		if ids := w.strake("a", "ps", "-aq"); ids != "" {
			w.strake("a", append([]string{"rm", "-f"}, strings.Fields(ids)...)...)
		}
	}()
	ready := func(args ...string) {
		t.Helper()
		w.waitFor(args[0], func() bool {
			_, err := w.try("a", append([]string{"exec"}, args...)...)
			return err == nil
		})
	}
	start("db", "-v", "records:/data")
	start("cache", "-v", "hits:/data", "--restart", "unless-stopped")
	ready("db", "pg_isready", "-h", "127.0.0.1")
	ready("cache", "redis-cli", "ping")
	start("app")
	w.waitFor("a healthy app", func() bool {
		return w.strake("a", "inspect", "-f", "{{.State.Health.Status}}", "app") == "healthy"
	})
	start("web", "-p", "127.0.0.1::80")
	site := "http://" + w.strake("a", "port", "web", "80")

	w.waitForPage(site+"/app", "redis 1 postgres 1")
	w.waitForPage(site+"/app", "redis 2 postgres 2")

	// Limits change while it runs; what a volume holds outlives its container.
	w.strake("a", "update", "--memory", "512m", "--memory-swap", "512m", "cache")
	if got := w.strake("a", "inspect", "-f", "{{.HostConfig.Memory}}", "cache"); os.Geteuid() == 0 && got != "536870912" { // cgroups are root's
		t.Errorf("memory after update: %s", got)
	}
	w.strake("a", "stop", "db")
	w.strake("a", "rm", "db")
	start("db", "-v", "records:/data")
	w.strake("a", "restart", "cache")
	ready("db", "pg_isready", "-h", "127.0.0.1")
	ready("cache", "redis-cli", "ping")
	w.waitForPage(site+"/app", "redis 3 postgres 3")

	// What was changed in a container becomes an image that others can run.
	w.strake("a", "exec", "web", "sh", "-c", "echo committed > /var/www/html/page.html")
	ref := w.hub() + "/team/web:2"
	w.strake("a", "commit", "-m", "a page", "web", ref)
	w.strake("a", "push", ref)
	w.strake("b", "pull", ref)
	w.strake("b", "run", "-d", "--name", "copy", "--add-host", "app:127.0.0.1", "-p", "127.0.0.1::80", ref)
	w.waitForPage("http://"+w.strake("b", "port", "copy", "80")+"/page.html", "committed\n")
	w.strake("b", "rm", "-f", "copy")

	for _, name := range []string{"web", "app", "cache", "db"} {
		w.strake("a", "stop", name)
	}
	if got := w.strake("a", "ps", "-q"); got != "" {
		t.Errorf("still running: %s", got)
	}
	w.strake("a", "container", "prune", "-f")
	w.strake("a", "network", "rm", "backend")
	w.strake("a", "volume", "rm", "records", "hits")
	w.clean("a")
	w.clean("b")
}

// waitForPage waits until a page says what is wanted. A page that is not there yet counts for nothing, a wrong one for an error.
func (w *world) waitForPage(url, want string) {
	w.Helper()
	w.waitFor(url, func() bool {
		resp, err := http.Get(url)
		if err != nil {
			return false
		}
		defer func() { _ = resp.Body.Close() }() // read
		body, err := io.ReadAll(resp.Body)
		if err != nil || resp.StatusCode != http.StatusOK {
			return false
		}
		if string(body) != want {
			w.Fatalf("%s: %q, want %q", url, body, want)
		}
		return true
	})
}

// Containers (in a soak 200) are started and stopped from 8 processes, and leave nothing behind.
func TestContainerCrowd(t *testing.T) {
	w := newWorld(t)
	w.busybox("a")
	containers := 24
	if os.Getenv("STRAKE_SOAK") != "" {
		containers = 200
	}
	var group sync.WaitGroup
	for p := range 8 {
		group.Go(func() {
			for i := range containers / 8 {
				name := fmt.Sprintf("c%d-%d", p, i)
				for _, args := range [][]string{
					{"run", "-d", "--name", name, "busybox", "sh", "-c", "echo " + name + "; exec sleep 1000"},
					{"exec", name, "true"},
					{"stop", "-t", "0", name},
					{"rm", name},
				} {
					if out, err := w.try("a", args...); err != nil {
						t.Errorf("%q: %v\n%s", args, err, out)
						return
					}
				}
			}
		})
	}
	group.Wait()
	if got := w.strake("a", "ps", "-aq"); got != "" {
		t.Errorf("left behind: %s", got)
	}
	if entries, err := os.ReadDir(w.path("a", "containers")); err != nil || len(entries) > 0 {
		t.Errorf("left behind: %v %v", entries, err)
	}
	w.clean("a")
}
